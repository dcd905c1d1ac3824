"""Foreign chains next to our own: read in the order in which packets meet them, and judged by where packets go."""

import json

import pytest

from capture import operations
from capture.analysis.base_chains import BaseChain
from capture.analysis.culprits import Obstacle
from capture.backends.foreign_chains import read_foreign_chains
from capture.backends.nftables.netlink import NftablesNetlinkDriver
from capture.model.addresses import FAMILIES, IPV4, IPV6, address_text
from capture.model.packet import Packet
from capture.model.ruleset import (
    INPUT,
    OUTPUT,
    PREROUTING,
    Chain,
    Destination,
    DestinationPort,
    Drop,
    Jump,
    Log,
    OwnerUid,
    Protocol,
    Redirect,
    Rule,
    Ruleset,
    only,
)
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from capture.settings.options import INTERCEPTION_MODE
from capture.settings.settings import Settings
from capture.system.pod_network import read_pod_network
from pytest_netns import Kind, Namespace, NamespaceFactory, PodPair
from support.captures.settings import DRIVERS, settings
from support.processes.our_programs import run_program
from support.rules.nftables_cases import networks

FOREIGN = """
table ip foreign {
    set blocked { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.7 }; }
    chain first {
        type filter hook output priority -200
        ip daddr @blocked drop
        log prefix "seen" drop
        jump more
        accept
    }
    chain last {
        type nat hook output priority -50
        tcp dport 80 redirect to :8080
    }
    chain more {
        ip daddr 192.0.2.2 drop
    }
}
table inet foreign {
    chain input {
        type filter hook input priority 0
        drop
    }
    chain harmless {
        type filter hook prerouting priority -150
        counter accept
    }
}
table ip6 closed {
    chain everything {
        type filter hook prerouting priority -310; policy drop
    }
}
table inet asleep {
    flags dormant
    chain everything {
        type filter hook prerouting priority -310; policy drop
    }
}
"""


@pytest.fixture
def namespace(netns: NamespaceFactory) -> Namespace:
    return netns("shared")


def iptables(namespace: Namespace, words: str) -> None:
    namespace.run(["iptables-nft", *words.split()])


def read(namespace: Namespace, *own: tuple[str, str]) -> dict[str, BaseChain]:
    chains = namespace.call(read_foreign_chains, own)
    return {f"{chain.table} {chain.chain.name}": chain for chain in chains}


class TestRead:
    def test_our_own_chains_are_not_foreign(self, namespace: Namespace) -> None:
        namespace.call(NftablesNetlinkDriver().write, build_ruleset(CaptureConfig()), Ruleset(FAMILIES, ()), None)

        assert read(namespace, ("nftables", "")) == {}

    def test_chains_in_the_order_of_packets(self, namespace: Namespace) -> None:
        namespace.run(["nft", "-f", "-"], stdin=FOREIGN)
        chains = read(namespace)

        assert [(name, c.hook, c.priority, c.is_nat, c.families) for name, c in chains.items()] == [
            ("ip6 closed everything", PREROUTING, -310, False, (IPV6,)),
            ("ip foreign first", OUTPUT, -200, False, (IPV4,)),
            ("inet foreign harmless", PREROUTING, -150, False, FAMILIES),
            ("ip foreign last", OUTPUT, -50, True, (IPV4,)),
            ("inet foreign input", INPUT, 0, False, FAMILIES),
        ]

    def test_rules_in_the_words_of_both_backends(self, namespace: Namespace) -> None:
        namespace.run(["nft", "-f", "-"], stdin=FOREIGN)
        chains = read(namespace)

        first = chains["ip foreign first"]
        assert [(rule, rule.why) for rule in first.chain.rules[:4]] == [
            (Rule(Drop(), (Destination(networks("192.0.2.1", "192.0.2.7")),), IPV4), BLOCKED),
            (Rule(Log("seen"), (), IPV4), 'log prefix "seen" drop'),
            (Rule(Drop(), (), IPV4), 'log prefix "seen" drop'),
            (Rule(Jump("more"), (), IPV4), "jump more"),
        ]
        assert first.contents.chain("more") == Chain(
            "more", (Rule(Drop(), (Destination(networks("192.0.2.2")),), IPV4),)
        )
        assert chains["ip foreign last"].chain.rules == (
            Rule(Redirect(8080), (Protocol("tcp"), DestinationPort((only(80),))), IPV4),
        )
        assert chains["ip6 closed everything"].chain.policy == "DROP"

    def test_expressions_without_a_value_in_the_words_of_nft(self, namespace: Namespace) -> None:
        words = (
            *(
                "meta l4proto tcp reject with tcp reset",
                "reject with icmpx no-route",
                "reject with icmpx admin-prohibited",
            ),
            "meta nfproto ipv4 reject with icmp prot-unreachable",
            "meta nfproto ipv6 reject with icmpv6 addr-unreachable",
            *("limit rate 5/minute burst 5 packets drop", "limit rate over 10 bytes/day burst 7 bytes drop"),
            *(
                "quota over 5 bytes drop",
                "quota until 7 bytes drop",
                "numgen random mod 2 0 drop",
                "ct mark set 0x5",
                "notrack",
            ),
        )
        rules = "; ".join(words)
        chain = f"chain out {{ type filter hook output priority -300; {rules}; }}"
        namespace.run(["nft", "-f", "-"], stdin=f"table inet other {{ {chain}; }}")

        assert tuple(rule.why for rule in read(namespace)["inet other out"].chain.rules) == words

    def test_what_is_rare_in_the_words_of_nft(self, namespace: Namespace) -> None:
        rules = {
            "ct status dnat drop": "ct status dnat drop",
            "ct status ! dnat drop": "ct status ! dnat drop",
            "ct status assured drop": "ct status & 0x4 != 0x0 drop",
            "fib saddr . iif oif missing drop": "fib saddr . iif oif missing drop",
            "meta nfproto ipv4 rt ip nexthop 127.0.0.1 drop": "meta nfproto ipv4 rt ip nexthop == 0x7f000001 drop",
            **{same: same for same in LISTED},
            "ip daddr . tcp dport @ends drop": "meta nfproto ipv4 meta l4proto tcp ip daddr . tcp dport @ends drop",
            "meta l4proto tcp synproxy mss 1460 wscale 7 timestamp sack-perm": (
                "meta l4proto tcp synproxy mss 1460 wscale 7 timestamp sack-perm"
            ),
        }
        ends = "set ends { type ipv4_addr . inet_service; flags dynamic; }"
        chain = f"chain c {{ type filter hook input priority -300; {'; '.join(rules)}; }}"
        namespace.run(["nft", "-f", "-"], stdin=f"table inet other {{ {ends}; {chain}; }}")

        assert [rule.why for rule in read(namespace)["inet other c"].chain.rules] == [*rules.values()]

    def test_the_protocol_where_the_header_names_it(self, namespace: Namespace) -> None:
        """As iptables-nft tests it since 1.8.11, and nft for ``ip protocol``."""
        chain = "chain out { type filter hook output priority -200; ip protocol tcp tcp dport 80 drop; }"
        namespace.run(["nft", "-f", "-"], stdin=f"table ip other {{ {chain}; }}")

        assert read(namespace)["ip other out"].chain.rules == (
            Rule(Drop(), (Protocol("tcp"), DestinationPort((only(80),))), IPV4),
        )

    def test_rules_of_iptables_in_its_own_words(self, namespace: Namespace) -> None:
        iptables(namespace, "-t nat -A OUTPUT -m owner --uid-owner 0 -j ACCEPT")

        assert read(namespace, ("iptables", "nft")) == {}
        chain = read(namespace)["nat of iptables OUTPUT"]
        assert (chain.hook, chain.is_nat, chain.priority) == (OUTPUT, True, -100)
        assert [rule.matches for rule in chain.chain.rules] == [(OwnerUid((only(0),)),)]

    def test_a_namespace_without_foreign_chains_has_none(self, namespace: Namespace) -> None:
        assert read(namespace) == {}


LISTED = (
    *(
        "meta length 60 drop",
        "meta length 60-90 drop",
        "fib daddr type unicast drop",
        "fib saddr type != broadcast drop",
    ),
    *("ct direction reply drop", "meta pkttype multicast drop", "meta cgroup 5 drop", "iifgroup 5 drop"),
    *("rt classid 5 drop", "ct original packets 6-9 drop", "ct zone 5 drop", "meta rtclassid 5 drop"),
)
"""Rules that nft lists as they are here."""
BLOCKED = "ip daddr { 192.0.2.1, 192.0.2.7 } drop"


# --- what verify and trace make of them -------------------------------------------------------------------


@pytest.fixture
def pair(netns: NamespaceFactory) -> PodPair:
    made = netns.pod_pair()
    made.peer.own_every_address()
    for port, label in ((15001, "proxy-outbound"), (15006, "proxy-inbound"), (15009, "redirected")):
        made.pod.listener(("0.0.0.0", port), ("::", port), label=label, uid=1337)
    return made


def chain(base: str, *lines: str, family: str = "inet") -> str:
    """Return the script of a table with one base chain, and of what else is in the table before it."""
    *others, rules = lines
    return "\n".join([f"table {family} other {{", *others, "chain x {", f"type {base};", rules, "}", "}", ""])


TAKING = {
    "redirect": chain("nat hook output priority -150", "tcp dport 80 redirect to :15009", family="ip"),
    "of one priority": chain("nat hook output priority -100", "tcp dport 80 counter redirect to :15009", family="ip"),
    "drop": chain("filter hook output priority -200", "ip daddr 203.0.113.0/24 drop"),
    "drop behind a jump": chain(
        "filter hook prerouting priority -300",
        "chain more { tcp dport { 80, 8080 } counter drop; }",
        'iifname != "lo" jump more',
    ),
    "by a set": chain(
        "filter hook output priority -300",
        "set ports { type inet_service; elements = { 80, 443 }; }",
        "tcp dport @ports drop",
    ),
    "ingress of a device": chain(
        'filter hook ingress device "eth0" priority 0', "ip daddr != 192.0.2.9 tcp dport 80 drop", family="netdev"
    ),
    "policy of a device": chain('filter hook ingress device "eth0" priority 5; policy drop', "udp dport 53 accept"),
    "egress of a device": chain(
        'filter hook egress device "eth0" priority 0', "ip6 daddr != fd00:9::/64 tcp dport 443 drop", family="netdev"
    ),
    "what the proxy sends on": chain("nat hook output priority 0", "tcp dport 80 redirect to :15009", family="ip"),
    "policy": chain(
        "filter hook output priority -150; policy drop", 'meta skuid 1337 accept\noifname "lo" accept', family="ip6"
    ),
}

LEAVING = {
    "accepts": chain("filter hook output priority -200", "accept"),
    "after ours": chain("nat hook output priority 0", "tcp dport 80 meta skuid 1000 redirect to :15009"),
    "what is not captured": chain("filter hook output priority -200", "udp dport 123 drop"),
    "udp of a device": chain('filter hook ingress device "eth0" priority 0', "udp dport 123 drop", family="netdev"),
    "ports left alone": chain("filter hook prerouting priority -200", "tcp dport 15090 drop"),
    "forwarded": chain("filter hook forward priority -200; policy drop", ""),
}


@pytest.fixture(params=["nftables-netlink", "iptables-netlink", "iptables-legacy"])
def captured(pair: PodPair, request: pytest.FixtureRequest) -> Settings:
    desired = settings({}, DRIVERS[request.param])
    with pair.pod.entered():
        operations.apply(desired)
        assert operations.verify(desired).holds
    return desired


@pytest.mark.parametrize("script", TAKING.values(), ids=TAKING)
def test_a_diverting_rule_is_drift_with_a_witness_that_truly_goes_elsewhere(
    pair: PodPair, captured: Settings, script: str
) -> None:
    pair.pod.run(["nft", "-f", "-"], stdin=script)

    with pair.pod.entered():
        verified = operations.verify(captured)
        if script == TAKING["of one priority"] and verified.choice.variant == "legacy":
            assert {each.effect.before.outcome for each in verified.obstacles if each.effect} == {"direct"}
            return  # which comes first is unknown, but what the proxy sends on is redirected either way
        (obstacle,) = verified.obstacles
        effect = obstacle.effect
        assert effect is not None
        traced = operations.trace(effect.packet)

    assert not verified.holds
    assert verified.differences == ()
    assert effect.after.outcome == traced.outcome
    assert ends(pair, effect.packet) == effect.after.outcome != effect.before.outcome


def ends(pair: PodPair, packet: Packet) -> str:
    """Send the packet, without a listener where it is addressed to, and return who answers."""
    assert packet.protocol == "tcp"
    destination = address_text(packet.family, packet.destination.first)
    if packet.in_interface is not None:
        client, source = pair.peer.client(), ""
    else:
        assert packet.uid is not None
        assert packet.source is not None
        client, source = pair.pod.client(packet.uid, packet.gid), address_text(packet.family, packet.source.first)
    outcome = client.connect(destination, packet.port, source=source, timeout=0.3)
    return "dropped" if outcome.kind in (Kind.TIMED_OUT, Kind.FORBIDDEN) else outcome.label or str(outcome.kind)


@pytest.mark.parametrize("script", LEAVING.values(), ids=LEAVING)
def test_a_rule_that_diverts_no_captured_traffic_is_no_drift(pair: PodPair, captured: Settings, script: str) -> None:
    pair.pod.run(["nft", "-f", "-"], stdin=script)

    with pair.pod.entered():
        assert operations.verify(captured).conclusion == "in sync"


@pytest.mark.parametrize("hook", ["prerouting", "output"])
def test_an_untracked_connection_is_not_redirected(pair: PodPair, captured: Settings, hook: str) -> None:
    pair.pod.run(["nft", "-f", "-"], stdin=chain(f"filter hook {hook} priority -300", "tcp dport 80 notrack"))

    with pair.pod.entered():
        (obstacle,) = operations.verify(captured).obstacles

    assert obstacle.effect is not None
    assert obstacle.effect.after.outcome == "direct"


def test_with_tproxy_udp_has_no_marks_that_a_filter_could_disturb(pair: PodPair) -> None:
    desired = settings({INTERCEPTION_MODE: "TPROXY"}, DRIVERS["nftables-netlink"])
    with pair.pod.entered():
        operations.apply(desired)
        pair.pod.run(["nft", "-f", "-"], stdin=chain("filter hook input priority 0", "udp dport 53 drop"))
        assert operations.verify(desired).conclusion == "in sync"


@pytest.mark.parametrize("base", ["input priority 0", "prerouting priority -145"])
def test_the_owner_of_what_comes_in_is_not_judged(pair: PodPair, base: str) -> None:
    """Packets of an open connection have the receiving socket's, here the proxy's; that of the first has none.

    In PREROUTING they have one if TPROXY has found it.
    """
    apply_in_nftables(pair)
    pair.pod.run(["nft", "-f", "-"], stdin=chain(f"filter hook {base}", "meta skuid 1000-2000 drop"))

    with pair.pod.entered():
        verified = operations.verify(settings({}, DRIVERS["nftables-netlink"]))

    assert (verified.holds, verified.is_certain) == (True, False)


def test_a_foreign_rule_has_the_number_that_it_has_in_the_kernel(pair: PodPair) -> None:
    """Also where it, or one before it, is several rules here: one for each interface of a set, or for each action."""
    apply_in_nftables(pair)
    rules = 'ip6 daddr ::1 accept\niifname { "lo", "eth1" } tcp dport 15006 accept\nlog tcp dport 15006 drop'
    pair.pod.run(["nft", "-f", "-"], stdin=chain("filter hook input priority 0", rules))

    with pair.pod.entered():
        step = operations.trace_packet(pair.pod.ipv4, 80, in_interface="eth0").step

    assert step is not None
    assert (step.table, step.position) == ("inet other", 3)


def test_an_unjudged_rule_is_no_drift_and_no_proof(pair: PodPair) -> None:
    apply_in_nftables(pair)
    pair.pod.run(["nft", "-f", "-"], stdin=UNKNOWN)

    with pair.pod.entered():
        verified = operations.verify(settings({}, DRIVERS["nftables-netlink"]))

    assert verified.holds
    assert not verified.is_certain
    assert ["numgen" in why(each) for each in verified.unjudged if isinstance(each, Obstacle)] == [True]
    assert [why(each) for each in verified.harmless_obstacles if "udp dport 123" in why(each)] != []


UNKNOWN = chain(
    "filter hook output priority -200", "udp dport 123 numgen random mod 2 0 drop\nnumgen random mod 2 0 drop"
)


def apply_in_nftables(pair: PodPair) -> None:
    with pair.pod.entered():
        operations.apply(settings({}, DRIVERS["nftables-netlink"]))


def next_to(pair: PodPair) -> tuple[tuple[Obstacle, ...], tuple[Obstacle, ...]]:
    with pair.pod.entered():
        verified = operations.verify(settings({}, DRIVERS["nftables-netlink"]))
    return verified.obstacles, verified.harmless_obstacles


def why(obstacle: Obstacle) -> str:
    return obstacle.rule.why if obstacle.rule else ""


@pytest.mark.parametrize(
    ("driver", "tool"),
    [
        ("nftables-netlink", "iptables-nft"),
        ("iptables-netlink", "iptables-nft"),
        ("iptables-nft", "iptables-nft"),
        ("iptables-legacy", "iptables-legacy"),
    ],
)
def test_rules_in_a_table_of_iptables_that_we_do_not_need(pair: PodPair, driver: str, tool: str) -> None:
    desired = settings({}, DRIVERS[driver])
    with pair.pod.entered():
        operations.apply(desired)
    pair.pod.run([tool, "-t", "mangle", "-A", "OUTPUT", "-p", "tcp", "--dport", "443", "-j", "ACCEPT"])
    with pair.pod.entered():
        assert operations.verify(desired).holds
    pair.pod.run(
        [
            tool,
            "-t",
            "mangle",
            *["-A", "OUTPUT", "-p", "tcp", "--dport", "80", "-m", "owner", "--uid-owner", "1000", "-j", "DROP"],
        ]
    )

    with pair.pod.entered():
        verified = operations.verify(desired)
        changed = operations.apply(desired).changed

    effects = [each.effect for each in verified.differences]
    (effect,) = effects + [each.effect for each in verified.obstacles]
    assert effect is not None
    assert ends(pair, effect.packet) == "dropped"
    assert not changed, "nothing that we could write would come before it"


def test_the_older_of_two_chains_with_one_priority_comes_second(pair: PodPair) -> None:
    pair.pod.run(["nft", "-f", "-"], stdin=TAKING["of one priority"].replace("counter", "meta skuid 1000 counter"))
    apply_in_nftables(pair)

    assert next_to(pair)[0] == ()
    assert pair.pod.client(1000).connect("203.0.113.7", 80).label == "proxy-outbound"


def test_a_mark_before_the_transparent_proxy(pair: PodPair) -> None:
    desired = settings({INTERCEPTION_MODE: "TPROXY"}, DRIVERS["nftables-netlink"])
    with pair.pod.entered():
        operations.apply(desired)
    pair.pod.run(["nft", "-f", "-"], stdin=chain("filter hook prerouting priority -200", "meta mark set 1337"))

    with pair.pod.entered():
        (obstacle,) = operations.verify(desired).obstacles

    assert obstacle.effect is not None
    assert ends(pair, obstacle.effect.packet) == obstacle.effect.after.outcome == "dropped"


def test_a_foreign_redirect_is_drift_in_words_and_as_json(pair: PodPair) -> None:
    apply_in_nftables(pair)
    pair.pod.run(["nft", "-f", "-"], stdin=TAKING["redirect"])

    explicit = run_program(pair.pod, "capture", "verify", code=None)
    plain = json.loads(run_program(pair.pod, "capture", "verify", "--format", "json", code=None).stdout)
    traced = run_program(pair.pod, "capture", "trace", "tcp", "203.0.113.7:80", "--uid", "1000")

    assert explicit.returncode == 4
    assert "ip other x, hook OUTPUT, priority -150, rule 1: foreign rule precedes ours and diverts" in explicit.stdout
    assert "proxy-outbound 15001 -> redirected 15009; witness: tcp to" in explicit.stdout
    (difference,) = plain["differences"]
    assert (difference["kind"], difference["table"], difference["chain"]) == ("foreign", "ip other", "x")
    assert "  => ip other x 1: meta l4proto tcp tcp dport 80 redirect to :15009" in traced.stdout


def test_the_interface_of_a_pod_is_that_of_its_default_route(pair: PodPair) -> None:
    pair.pod.ip("link add net1 type veth peer name net2", "link set net1 up", "address add 192.0.2.5/24 dev net1")
    with pair.pod.entered():
        assert (read_pod_network().interface, "net1" in read_pod_network().other_interfaces) == ("eth0", True)
    pair.pod.ip("route replace default dev net1")
    with pair.pod.entered():
        assert (read_pod_network().interface, "eth0" in read_pod_network().other_interfaces) == ("net1", True)
