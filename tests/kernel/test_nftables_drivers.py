"""Both drivers of the nftables backend in a real kernel: writing, replacing, cleaning, drift, refusals."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from capture.analysis.canonical import canonical
from capture.backends.nftables import libnftables
from capture.backends.nftables.libnftables import LibnftablesDriver
from capture.backends.nftables.netlink import NftablesNetlinkDriver
from capture.errors import CaptureError, PrivilegeError, UnsupportedError
from capture.model.addresses import FAMILIES, IPV4, IPV6, Network
from capture.model.ruleset import (
    NAT,
    OUTPUT,
    PREROUTING,
    Chain,
    Counters,
    Destination,
    Jump,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    SetZone,
    Table,
    UnknownVerdict,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from pytest_netns import Namespace, NamespaceFactory, PodPair

Driver = NftablesNetlinkDriver | LibnftablesDriver

NOTHING = Ruleset(FAMILIES, ())
REDIRECTS = build_ruleset(CaptureConfig(excluded_inbound_ports=(only(15020), only(15090))))
PROXIES = build_ruleset(CaptureConfig(mode="TPROXY", chain_names="underscore", profile="1.30"))


@pytest.fixture
def namespace(netns: NamespaceFactory) -> Namespace:
    return netns("rules")


@pytest.fixture(params=[NftablesNetlinkDriver, LibnftablesDriver], ids=lambda kind: kind.name)
def driver(request: pytest.FixtureRequest) -> Driver:
    made: Driver = request.param()
    return made


def listing(namespace: Namespace, *options: str) -> str:
    return namespace.run(["nft", *options, "list", "ruleset"]).stdout


def write(namespace: Namespace, driver: Driver, ruleset: Ruleset) -> None:
    namespace.call(driver.write, ruleset, NOTHING, None)


def assert_live(namespace: Namespace, driver: Driver, ruleset: Ruleset) -> None:
    live = namespace.call(driver.read)
    for family in FAMILIES:
        assert canonical(live, family) == canonical(ruleset, family)


def differs(namespace: Namespace, driver: Driver, ruleset: Ruleset) -> bool:
    live = namespace.call(driver.read)
    return any(canonical(live, family) != canonical(ruleset, family) for family in FAMILIES)


# --- writing and reading -------------------------------------------------------------------------


def test_base_chains_are_kept_while_their_rules_are_replaced(namespace: Namespace, driver: Driver) -> None:
    """Exchanging a base chain would leave a moment between two of them (``plan``)."""
    write(namespace, driver, REDIRECTS)
    kept = [line for line in listing(namespace, "-a").splitlines() if "chain prerouting" in line]
    write(namespace, driver, build_ruleset(CaptureConfig(proxy_port=16001)))

    assert [line for line in listing(namespace, "-a").splitlines() if "chain prerouting" in line] == kept


@pytest.mark.parametrize(("family", "other"), [(IPV4, IPV6), (IPV6, IPV4)])
def test_rules_for_one_family_leave_the_other_alone(
    namespace: Namespace, driver: Driver, family: str, other: str
) -> None:
    ruleset = REDIRECTS.replace(families=(family,))
    write(namespace, driver, ruleset)

    live = namespace.call(driver.read)
    assert live.families == (family,)
    assert canonical(live, family) == canonical(ruleset, family)  # type: ignore[arg-type]  # one of the two
    assert canonical(live, other) == {}  # type: ignore[arg-type]  # likewise


def test_counters_are_read(pod_pair: PodPair, driver: Driver) -> None:
    pod, peer = pod_pair
    write(pod, driver, REDIRECTS)
    pod.listener(("0.0.0.0", 15001))
    pod.client(uid=1000).connect(peer.ipv4, 80)

    nat = pod.call(driver.read).table(NAT)
    assert nat is not None
    redirect = nat.chain("ISTIO-REDIRECT")
    assert redirect is not None
    assert redirect.rules[0].counters == Counters(1, 60)


def test_ten_thousand_networks_are_read_back(namespace: Namespace, driver: Driver) -> None:
    ipv4 = tuple(Network(IPV4, (11 << 24) + (number << 9), 24) for number in range(10_000))
    ipv6 = tuple(Network(IPV6, (0xFD << 120) + (number << 65), 64) for number in range(10_000))
    rules = (Rule(Return(), (Destination(ipv4),), IPV4), Rule(Return(), (Destination(ipv6, negated=True),), IPV6))
    ruleset = Ruleset(FAMILIES, (Table(NAT, (Chain(OUTPUT, rules, "ACCEPT"),)),))

    write(namespace, driver, ruleset)

    assert_live(namespace, driver, ruleset)


# --- what is foreign -----------------------------------------------------------------------------


def test_cleaning_an_empty_namespace_makes_nothing(namespace: Namespace, driver: Driver) -> None:
    namespace.call(driver.clean, NOTHING, None)

    assert listing(namespace) == ""


def test_foreign_rules_in_our_tables_go_with_them(namespace: Namespace, driver: Driver) -> None:
    write(namespace, driver, REDIRECTS)
    namespace.run(["nft", "add", "set", "inet", "istio-proxy-nat", "foreign", "{ type ipv4_addr; }"])
    namespace.run(["nft", "add", "rule", "inet", "istio-proxy-nat", "output", "ip daddr @foreign return"])
    namespace.call(driver.clean, NOTHING, None)

    assert listing(namespace) == ""


# --- drift ---------------------------------------------------------------------------------------

OUR_TABLE = "inet istio-proxy-nat"

DRIFT = {
    "a rule in front": f"insert rule {OUR_TABLE} output return",
    "a rule at the end": f"add rule {OUR_TABLE} ISTIO-OUTPUT drop",
    "a chain that is entered before ours": f"add chain {OUR_TABLE} early {{ type nat hook output priority -101; }}\n"
    f"add rule {OUR_TABLE} early return",
    "rules are gone": f"flush chain {OUR_TABLE} ISTIO-OUTPUT",
    "a chain is entered elsewhere": f"flush chain {OUR_TABLE} output\ndelete chain {OUR_TABLE} output\n"
    f"add chain {OUR_TABLE} output {{ type nat hook output priority 50; }}\n"
    f"add rule {OUR_TABLE} output meta l4proto tcp counter jump ISTIO-OUTPUT",
    "another policy": f"add chain {OUR_TABLE} output {{ type nat hook output priority -100; policy drop; }}",
    "the table sleeps": f"add table {OUR_TABLE} {{ flags dormant; }}",
    "the table is gone": f"delete table {OUR_TABLE}",
}


@pytest.mark.parametrize("drift", DRIFT)
def test_drift_is_seen_and_repaired(namespace: Namespace, driver: Driver, drift: str) -> None:
    write(namespace, driver, REDIRECTS)
    intended = listing(namespace)
    namespace.run(["nft", "-f", "-"], stdin=DRIFT[drift])
    assert listing(namespace) != intended
    assert differs(namespace, driver, REDIRECTS)
    assert not namespace.call(driver.has_exactly, REDIRECTS)

    write(namespace, driver, REDIRECTS)

    assert_live(namespace, driver, REDIRECTS)
    assert "dormant" not in listing(namespace)
    assert "early" not in listing(namespace)


def test_a_proxy_that_lets_pass_what_no_socket_takes_is_drift(namespace: Namespace, driver: Driver) -> None:
    """Without the drop behind it, packets go on uncaptured when no process listens."""
    write(namespace, driver, PROXIES)
    rules = namespace.run(["nft", "-a", "list", "chain", "inet", "istio-proxy-mangle", "istio-tproxy"]).stdout
    (handle,) = (line.split()[-1] for line in rules.splitlines() if " drop " in line and "127.0.0.1" in line)
    namespace.run(["nft", "delete", "rule", "inet", "istio-proxy-mangle", "istio-tproxy", "handle", handle])

    live = namespace.call(driver.read)

    verdicts = [rule.verdict for table in live.tables for chain in table.chains for rule in chain.rules]
    assert any(isinstance(verdict, UnknownVerdict) for verdict in verdicts)
    assert differs(namespace, driver, PROXIES)


def test_a_long_list_is_known_again_and_so_is_what_is_changed_in_it(namespace: Namespace) -> None:
    every_other = tuple(Network(IPV4, 10 << 24 | number << 9, 24) for number in range(5000))
    of_ipv6 = tuple(Network(IPV6, 0xFD << 120 | number << 65, 64) for number in range(5000))
    driver = NftablesNetlinkDriver()
    excluded = build_ruleset(CaptureConfig(excluded_outbound_networks=every_other + of_ipv6))
    one_less = build_ruleset(CaptureConfig(excluded_outbound_networks=every_other + of_ipv6[1:]))
    one_wider = build_ruleset(CaptureConfig(excluded_outbound_networks=(Network(IPV4, 10 << 24, 23), *every_other[1:])))
    write(namespace, driver, excluded)

    assert namespace.call(driver.has_exactly, excluded)
    assert not namespace.call(driver.has_exactly, one_less)
    write(namespace, driver, one_less)
    assert namespace.call(driver.has_exactly, one_less)
    assert not namespace.call(driver.has_exactly, excluded)
    assert not namespace.call(driver.has_exactly, one_wider)


# --- refusals ------------------------------------------------------------------------------------


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Act as another user, and so without capabilities, for the length of a block."""
    os.seteuid(1000)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_write_without_the_privilege_is_refused(namespace: Namespace, driver: Driver) -> None:
    with namespace.entered(), unprivileged(), pytest.raises(PrivilegeError, match="not permitted to"):
        driver.write(REDIRECTS, NOTHING, None)


IMPOSSIBLE = {
    "a redirect outside of nat": Ruleset(
        FAMILIES, (Table("raw", (Chain(OUTPUT, (Rule(Redirect(1), (Protocol("tcp"),)),), "ACCEPT"),)),)
    ),
    "a jump to nowhere": Ruleset(FAMILIES, (Table(NAT, (Chain(PREROUTING, (Rule(Jump("NOWHERE")),), "ACCEPT"),)),)),
    "chains that jump in a circle": Ruleset(
        FAMILIES,
        (
            Table(
                NAT,
                (
                    Chain(OUTPUT, (Rule(Jump("A")),), "ACCEPT"),
                    Chain("A", (Rule(Jump("B")),)),
                    Chain("B", (Rule(Jump("A")),)),
                ),
            ),
        ),
    ),
}


@pytest.mark.parametrize("impossible", IMPOSSIBLE)
def test_a_refused_transaction_changes_nothing(
    namespace: Namespace, driver: Driver, impossible: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write(namespace, driver, REDIRECTS)
    before = listing(namespace)

    with pytest.raises(CaptureError):
        write(namespace, driver, IMPOSSIBLE[impossible])

    assert listing(namespace) == before
    assert capfd.readouterr() == ("", "")


def test_the_bindings_are_found_where_the_distribution_has_them(namespace: Namespace) -> None:
    """An interpreter without site-packages plays the one of a virtual environment, or of the bundle."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from capture.backends.nftables.libnftables import LibnftablesDriver, find_bindings\n"
        "from capture.rules import build_ruleset\n"
        "from capture.settings.config import CaptureConfig\n"
        "desired = build_ruleset(CaptureConfig())\n"
        "LibnftablesDriver().write(desired, desired, None); print(find_bindings())"
    )
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    found = namespace.run([sys.executable, "-I", "-S", "-c", program, checkout]).stdout

    assert found.startswith("/usr/lib")


def test_a_missing_library_is_named(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "LIBRARY", "libnftables.so.0")

    with pytest.raises(UnsupportedError, match=r"libnftables\.so\.0 cannot be loaded"):
        write(namespace, LibnftablesDriver(), REDIRECTS)


def test_missing_bindings_are_named(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libnftables, "find_bindings", lambda: None)
    monkeypatch.delitem(sys.modules, "nftables", raising=False)

    with pytest.raises(UnsupportedError, match="bindings of libnftables are not installed"):
        write(namespace, LibnftablesDriver(), REDIRECTS)


def test_the_refusal_names_the_rule(namespace: Namespace) -> None:
    zone = Rule(SetZone(0), (Protocol("udp"),))
    to_nowhere = Rule(Jump("NOWHERE"))
    ruleset = Ruleset(FAMILIES, (Table("raw", (Chain(OUTPUT, (zone, to_nowhere), "ACCEPT"),)),))

    with pytest.raises(CaptureError, match="add rule 2 to chain output of table inet istio-proxy-raw"):
        write(namespace, NftablesNetlinkDriver(), ruleset)


# --- others at the same time ---------------------------------------------------------------------


def test_writers_at_the_same_time(namespace: Namespace) -> None:
    """Each write is whole: the rules of the last one are live, and no others are mixed in."""
    failures: list[BaseException] = []

    def write_often(ruleset: Ruleset) -> None:
        try:
            with namespace.entered():
                for _ in range(15):
                    NftablesNetlinkDriver().write(ruleset, NOTHING, None)
                    live = NftablesNetlinkDriver().read()
                    assert any(
                        all(canonical(live, family) == canonical(one, family) for family in FAMILIES)
                        for one in (REDIRECTS, PROXIES)
                    )
        except BaseException as failure:  # noqa: BLE001  # of any kind, and looked at below
            failures.append(failure)

    threads = [threading.Thread(target=write_often, args=(ruleset,)) for ruleset in (REDIRECTS, PROXIES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
