"""Earlier captures are taken over or removed, in any place and spelling; foreign rules stay to the byte."""

import pytest

from capture import operations
from capture.backends import detect
from capture.settings import options as option
from capture.state import record
from pytest_netns import NamespaceFactory, PodPair
from support.captures.settings import DRIVERS, OUTSIDE, VARIANTS, settings
from support.processes.namespace_state import namespace_state
from support.rules.iptables_drivers import writes_as_we_do
from support.rules.leftovers import LEFTOVERS, put_leftover

QUICK = [driver for driver in DRIVERS if driver != "iptables-iptc"]
SOME_VARIANTS = ("classic", "TPROXY", "TPROXY by other numbers", "DNS")
PLACES = {
    "nftables-netlink": ("nftables", ""),
    "nftables-libnftables": ("nftables", ""),
    "iptables-netlink": ("iptables", "nft"),
    "iptables-nft": ("iptables", "nft"),
    "iptables-legacy": ("iptables", "legacy"),
    "iptables-iptc": ("iptables", "legacy"),
}

# In every table that a capture may touch: chains and rules before and after our own, and look-alikes of them.
FOREIGN = """\
*raw
-A OUTPUT -p udp --dport 5353 -j CT --notrack
COMMIT
*mangle
:OTHERS - [0:0]
-A PREROUTING -p tcp --dport 9999 -j MARK --set-mark 7
-A OUTPUT -j OTHERS
-A OTHERS -p tcp --sport 9999 -j MARK --set-mark 8
COMMIT
*nat
:OTHERS - [0:0]
-A PREROUTING -i eth7 -j RETURN
-A PREROUTING -p tcp --dport 9998 -j REDIRECT --to-ports 9997
-A OUTPUT -p tcp --dport 9998 -j OTHERS
-A OTHERS -p tcp -j REDIRECT --to-ports 9997
-A POSTROUTING -o eth7 -j MASQUERADE
COMMIT
"""
FOREIGN_NATIVE = """\
table inet others {
    set known { type ipv4_addr; elements = { 192.0.2.1 } }
    chain output { type filter hook output priority 0; policy accept; ip daddr @known counter accept; }
}
"""


@pytest.fixture
def pair(netns: NamespaceFactory) -> PodPair:
    """A pod with rules of other programs."""
    return add_foreign_rules(netns.pod_pair())


def add_foreign_rules(pair: PodPair) -> PodPair:
    """Put in all kinds of rules, policy rules, routes and addresses."""
    pod = pair.pod
    for command in ("iptables", "ip6tables"):
        for variant in ("nft", "legacy"):
            pod.run([f"{command}-{variant}-restore", "--noflush", "--wait"], stdin=FOREIGN)
    pod.run(["nft", "-f", "-"], stdin=FOREIGN_NATIVE)
    pod.ip(
        "rule add fwmark 1337/0xffff lookup 133 priority 100",
        "rule add fwmark 7 lookup 107",
        "route add local 192.0.2.0/24 dev lo table 107",
        "route add unreachable 198.51.100.0/24 table 133",
        "address add 127.0.0.6/32 dev lo",
    )
    return pair


def serve(pair: PodPair) -> None:
    """Let the outside and the proxy listen."""
    pod, peer = pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("::", 80), label="outside")
    for port in (15001, 15006):
        pod.listener(("0.0.0.0", port), ("::", port), label=f"proxy {port}", uid=1337, transparent=port == 15006)


def require_captured(pair: PodPair) -> None:
    """Connect, out and in, and find the proxy."""
    pod, peer = pair
    for address, port in OUTSIDE:
        assert pod.client(uid=1000).connect(address, port).label == "proxy 15001"
        assert pod.client(uid=1337).connect(address, port).label == "outside"
    for address in (pod.ipv4, pod.ipv6):
        assert peer.client().connect(address, 8080).label == "proxy 15006"


def one_way(name: str) -> list[str]:
    """Return one of the quick drivers, another for the next leftover, so that each takes over several."""
    return [QUICK[list(LEFTOVERS).index(name) % len(QUICK)]]


@pytest.mark.parametrize(
    ("name", "drivers"),
    [
        *((name, one_way(name)) for name in LEFTOVERS),
        *(pytest.param(name, QUICK, marks=pytest.mark.long) for name in LEFTOVERS),
    ],
)
def test_a_leftover_is_taken_over(pair: PodPair, name: str, drivers: list[str]) -> None:
    pod = pair.pod
    serve(pair)
    pristine = namespace_state(pod)
    for driver in drivers:
        with pod.entered():
            operations.apply(settings(DRIVERS[driver]))
            applied = namespace_state(pod)
            assert operations.clean()
        assert namespace_state(pod) == pristine

        put_leftover(pod, name)
        with pod.entered():
            assert len(detect.find_live_sets()) == 1

            operations.apply(settings(DRIVERS[driver]))

            (left,) = detect.find_live_sets()
            assert left.choice.place == PLACES[driver]
            verified = operations.verify()
            # Foreign rules do divert the port 9998 from the proxy; of our own rules none may be missing or too many.
            assert not any(found.is_own for found in verified.differences), str(verified)
            assert not any(found.table == "mangle" for found in verified.differences), "marks divert nothing here"
            assert not verified.missing, str(verified)
            assert not verified.second_sets, str(verified)
        require_captured(pair)
        assert in_any_order(namespace_state(pod)) == in_any_order(applied), "not what a run gives that finds nothing"
        with pod.entered():
            assert operations.clean()
        assert namespace_state(pod) == pristine


def in_any_order(seen: dict[str, str]) -> dict[str, list[str]]:
    """Return a state so that it does not matter in which order chains came to be."""
    same = writes_as_we_do()  # else nft sees who wrote a rule
    return {name: sorted(text.splitlines()) for name, text in seen.items() if same or name != "nft"}


@pytest.mark.parametrize("name", LEFTOVERS)
def test_a_leftover_is_cleaned(pair: PodPair, name: str) -> None:
    pod = pair.pod
    pristine = namespace_state(pod)
    put_leftover(pod, name)

    with pod.entered():
        assert operations.clean()

    assert namespace_state(pod) == pristine
    with pod.entered():
        assert not operations.clean()


def test_sets_in_all_places_at_once_are_cleaned_and_taken_over(pair: PodPair) -> None:
    pod = pair.pod
    pristine = namespace_state(pod)
    for name in ("upstream, iptables-nft", "upstream TPROXY, iptables-legacy", "capture of an older version, nftables"):
        put_leftover(pod, name)
    with pod.entered():
        assert len(detect.find_live_sets()) == 3
        operations.apply(settings(DRIVERS["iptables-nft"]))
        assert len(detect.find_live_sets()) == 1
        assert operations.clean()
    assert namespace_state(pod) == pristine


@pytest.mark.parametrize("remembers", [True, False], ids=["with a record", "without"])
@pytest.mark.parametrize("driver", QUICK)
def test_clean_undoes_everything(pair: PodPair, driver: str, *, remembers: bool) -> None:
    pod = pair.pod
    pristine = namespace_state(pod)
    turn = QUICK.index(driver)
    for variant in SOME_VARIANTS if remembers else [*VARIANTS, *VARIANTS][turn : turn + len(VARIANTS) : 2]:
        with pod.entered():
            operations.apply(settings(VARIANTS[variant], DRIVERS[driver]))
            if not remembers:
                record.forget()
            assert operations.clean()
        assert namespace_state(pod) == pristine, variant


@pytest.mark.parametrize("driver", ["iptables-netlink", "iptables-legacy", "nftables-netlink"])
def test_redirect_becomes_transparent_without_a_rule_too_many(netns: NamespaceFactory, driver: str) -> None:
    """On the way both are written, with the rules in shared chains, which are then written again."""
    transparent = {option.INTERCEPTION_MODE: "TPROXY", option.EXCLUDED_INTERFACES: "lo,other0"}
    pod = netns.pod_pair().pod
    with pod.entered():
        operations.apply(settings({}, DRIVERS[driver]))
        operations.apply(settings(transparent, DRIVERS[driver]))

        assert not operations.verify().differences
        operations.clean()
    assert " -j " not in pod.run(["sh", "-c", "iptables-nft-save; iptables-legacy-save"]).stdout


@pytest.mark.parametrize(
    ("family", "driver"), [("ipv4", "nftables-netlink"), ("ipv6", "iptables-netlink"), ("ipv4", "iptables-legacy")]
)
def test_clean_undoes_everything_in_pods_of_one_family(netns: NamespaceFactory, family: str, driver: str) -> None:
    none = (None, None)
    made = netns.pod_pair(ipv6=none) if family == "ipv4" else netns.pod_pair(ipv4=none)
    pod = add_foreign_rules(made).pod
    pristine = namespace_state(pod)
    for variant in SOME_VARIANTS:
        with pod.entered():
            applied = operations.apply(settings(VARIANTS[variant], DRIVERS[driver]))
            assert applied.ruleset.families == ("ipv4", "ipv6")
            record.forget()
            assert operations.clean()
        assert namespace_state(pod) == pristine, variant
