"""Another program changes the rules of a captured pod: verify reports it, with a packet that truly goes elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from capture import operations
from capture.model.addresses import address_text
from capture.model.packet import Packet
from capture.operations.diagnosis import why
from capture.settings.options import (
    BACKEND,
    EXCLUDED_INBOUND_PORTS,
    EXCLUDED_OUTBOUND_NETWORKS,
    FORCE_IPTABLES_BINARY,
    INTERCEPTION_MODE,
    PROFILE,
    PROXY_PORT,
    Option,
)
from capture.settings.settings import ExplicitValue, Settings
from pytest_netns import Kind, NamespaceFactory, Pod, PodPair
from support.captures.agreeing import assert_the_connections_agree
from support.generators.agreement import QUICK

if TYPE_CHECKING:
    from capture.analysis.effects import Effect

MANY_NETWORKS = ",".join(f"198.18.{number}.0/24" for number in range(0, 60, 2))
"""More than 16, so that nftables holds them in a set."""
ONE_LESS = MANY_NETWORKS.replace("198.18.10.0/24,", "")

DESIRED: dict[Option[Any], ExplicitValue] = {
    EXCLUDED_INBOUND_PORTS: ExplicitValue("15090,15021,15020", "test"),
    EXCLUDED_OUTBOUND_NETWORKS: ExplicitValue(MANY_NETWORKS, "test"),
    PROFILE: ExplicitValue("classic", "test"),
}
NFTABLES = Settings({**DESIRED, BACKEND: ExplicitValue("nftables", "test")})
IPTABLES = {
    variant: Settings(
        {**DESIRED, BACKEND: ExplicitValue("iptables", "test"), FORCE_IPTABLES_BINARY: ExplicitValue(variant, "test")}
    )
    for variant in ("nft", "legacy")
}


@pytest.fixture
def pair(netns: NamespaceFactory) -> PodPair:
    made = netns.pod_pair()
    made.peer.own_every_address()
    for port, label in (
        (15001, "proxy-outbound"),
        (15006, "proxy-inbound"),
        (15009, "proxy-other"),
        (15007, "proxy-other"),
    ):
        made.pod.listener(("0.0.0.0", port), ("::", port), label=label, uid=1337)
    return made


# --- the tamperings: in the words of each tool ------------------------------------------------------------


def nft(*lines: str) -> Callable[[Pod], None]:
    """Return a change made with nft, in our native table."""

    def change(pod: Pod) -> None:
        pod.run(["nft", "-f", "-"], stdin="\n".join(lines) + "\n")

    return change


def nft_at(chain: str, containing: str, command: str) -> Callable[[Pod], None]:
    """Return a change of the rule that contains a text: ``{handle}`` in the command is its handle."""

    def change(pod: Pod) -> None:
        listing = pod.run(["nft", "-a", "list", "chain", "inet", "istio-proxy-nat", chain]).stdout
        (line, *_) = [line for line in listing.splitlines() if containing in line and "# handle" in line]
        handle = line.rpartition("# handle ")[2]
        pod.run(["nft", "-f", "-"], stdin=command.replace("{handle}", handle) + "\n")

    return change


T = "inet istio-proxy-nat"

IN_NFTABLES = {
    "rule deleted": nft_at("ISTIO-INBOUND", "dport 15021", f"delete rule {T} ISTIO-INBOUND handle {{handle}}"),
    "rule moved": nft_at(
        "ISTIO-OUTPUT",
        'oifname "lo" meta skuid != 1337',
        f"delete rule {T} ISTIO-OUTPUT handle {{handle}}\n"
        f"add rule {T} ISTIO-OUTPUT oifname lo meta skuid != 1337 counter return",
    ),
    "rule duplicated elsewhere": nft(f"insert rule {T} ISTIO-INBOUND meta l4proto tcp counter jump ISTIO-IN-REDIRECT"),
    "rule before the jump": nft(f"insert rule {T} output tcp dport 443 counter accept"),
    "port changed": nft(
        f"flush chain {T} ISTIO-REDIRECT", f"add rule {T} ISTIO-REDIRECT meta l4proto tcp counter redirect to :15009"
    ),
    "uid changed": nft_at(
        "ISTIO-OUTPUT",
        "meta skuid 1337 counter",
        f"replace rule {T} ISTIO-OUTPUT handle {{handle}} meta skuid 1338 counter return",
    ),
    "family lost": nft(f"insert rule {T} output meta nfproto ipv6 counter return"),
    "chain flushed": nft(f"flush chain {T} ISTIO-OUTPUT"),
    "policy DROP": nft(f"chain {T} output {{ policy drop; }}"),
    "RETURN in the middle": nft(f"insert rule {T} ISTIO-OUTPUT ip daddr 203.0.113.0/24 counter return"),
    "chain of the redirect flushed": nft(f"flush chain {T} ISTIO-IN-REDIRECT"),
    "network of a set gone": nft_at(
        "ISTIO-OUTPUT",
        "ip daddr { 198.18.0.0/24",
        f"insert rule {T} ISTIO-OUTPUT position {{handle}} ip daddr {{ {ONE_LESS} }} counter return\n"
        f"delete rule {T} ISTIO-OUTPUT handle {{handle}}",  # a replacement by a set of ranges crashes nft 1.0.6
    ),
}


def iptables(variant: str, *commands: str, family: str = "ip") -> Callable[[Pod], None]:
    """Return a change made with iptables, in the nat table."""

    def change(pod: Pod) -> None:
        for command in commands:
            pod.run([f"{family}tables-{variant}", "-w", "-t", "nat", *command.split()])

    return change


def in_iptables(variant: str) -> dict[str, Callable[[Pod], None]]:
    """Return the tamperings in the words of a variant of iptables."""
    return {
        "rule deleted": iptables(variant, "-D ISTIO-INBOUND -p tcp --dport 15021 -j RETURN"),
        "rule moved": iptables(
            variant,
            "-D ISTIO-OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN",
            "-A ISTIO-OUTPUT -o lo -m owner ! --uid-owner 1337 -j RETURN",
        ),
        "rule duplicated elsewhere": iptables(variant, "-I ISTIO-INBOUND -p tcp -j ISTIO-IN-REDIRECT"),
        "rule before the jump": iptables(variant, "-I OUTPUT -p tcp --dport 443 -j ACCEPT"),
        "port changed": iptables(variant, "-F ISTIO-REDIRECT", "-A ISTIO-REDIRECT -p tcp -j REDIRECT --to-ports 15009"),
        "uid changed": iptables(variant, "-R ISTIO-OUTPUT 4 -m owner --uid-owner 1338 -j RETURN"),
        "family lost": iptables(variant, "-D OUTPUT -p tcp -j ISTIO-OUTPUT", family="ip6"),
        "chain flushed": iptables(variant, "-F ISTIO-OUTPUT"),
        "policy DROP": iptables(variant, "-t mangle -P OUTPUT DROP"),  # in nat, iptables itself refuses that
        "RETURN in the middle": iptables(variant, "-I ISTIO-OUTPUT 2 -d 203.0.113.0/24 -j RETURN"),
        "network of a list gone": iptables(variant, "-D ISTIO-OUTPUT -d 198.18.10.0/24 -j RETURN"),
    }


FOUND = {
    "rule deleted": ("ISTIO-INBOUND", "missing"),
    "rule moved": ("ISTIO-OUTPUT", "missing", "unexpected"),
    "rule duplicated elsewhere": ("ISTIO-INBOUND", "unexpected"),
    "rule before the jump": ("OUTPUT", "foreign"),
    "port changed": ("ISTIO-REDIRECT", "missing", "unexpected"),
    "uid changed": ("ISTIO-OUTPUT", "missing", "unexpected"),
    "family lost": ("OUTPUT", "missing"),
    "chain flushed": ("ISTIO-OUTPUT", "missing"),
    "policy DROP": ("OUTPUT", "policy"),
    "RETURN in the middle": ("ISTIO-OUTPUT", "unexpected"),
    "network of a list gone": ("ISTIO-OUTPUT", "missing", "unexpected"),
}
"""The chain and the kinds of all differences that each tampering makes."""
FOUND_IN_NFTABLES = FOUND | {
    "family lost": ("OUTPUT", "foreign"),
    "chain of the redirect flushed": ("ISTIO-IN-REDIRECT", "missing"),
    "network of a set gone": ("ISTIO-OUTPUT", "missing", "unexpected"),
}

CASES = [
    *[
        pytest.param(NFTABLES, change, FOUND_IN_NFTABLES[name], id=f"nftables-{name}")
        for name, change in IN_NFTABLES.items()
    ],
    *[
        pytest.param(IPTABLES[variant], change, FOUND[name], id=f"{variant}-{name}")
        for variant, step in (("nft", 1), ("legacy", 2))  # one verification, and only the reader is another
        for name, change in list(in_iptables(variant).items())[::step]
    ],
]


# --- the proof ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "tamper", "found"), CASES)
def test_tampering_is_drift_with_a_packet_that_truly_goes_elsewhere(
    pair: PodPair, settings: Settings, tamper: Callable[[Pod], None], found: tuple[str, ...]
) -> None:
    with pair.pod.entered():
        operations.apply(settings)
        assert operations.verify().holds
    tamper(pair.pod)

    with pair.pod.entered():
        verified, of_pod = operations.verify(), why()

    assert not verified.holds
    chain, *kinds = found
    assert {(each.kind, each.chain) for each in verified.differences} == {(kind, chain) for kind in kinds}
    shown = [difference.effect for difference in verified.differences if difference.effect]
    assert shown
    for effect in shown[:3]:
        assert ends(pair, effect.packet) == word(effect), effect
        assert word(effect) != effect.before.outcome or effect.after.port != effect.before.port
    assert_the_connections_agree(pair, of_pod=(verified, of_pod))


TPROXY = {
    "nftables": (
        NFTABLES,
        nft("insert rule inet istio-proxy-mangle prerouting tcp dport 8080 counter meta mark set 1337"),
    ),
    **{
        variant: (
            IPTABLES[variant],
            iptables(variant, "-t mangle -I PREROUTING -p tcp --dport 8080 -j MARK --set-mark 1337"),
        )
        for variant in IPTABLES
    },
}


@pytest.mark.parametrize(("settings", "tamper"), TPROXY.values(), ids=TPROXY)
def test_a_mark_that_passes_by_the_transparent_proxy_is_drift(
    pair: PodPair, settings: Settings, tamper: Callable[[Pod], None]
) -> None:
    desired = settings.with_option(INTERCEPTION_MODE, "TPROXY", "test")
    with pair.pod.entered():
        operations.apply(desired)
        assert operations.verify(desired).holds
    tamper(pair.pod)

    with pair.pod.entered():
        verified = operations.verify(desired)

    (effect,) = [d.effect for d in verified.differences if d.effect and d.family == "ipv4"]
    assert (effect.before.outcome, effect.after.outcome) == ("proxy-inbound", "dropped")
    assert ends(pair, effect.packet) == "dropped", "the app has it, but its answers go to the proxy"
    with pair.pod.entered():
        operations.apply(desired)
        assert operations.verify(desired).holds, "our rules are before it, or alone"
        assert not operations.apply(desired).changed


def word(effect: Effect) -> str:
    """Return where the witness ends by the live rules, as the label of who answers there."""
    return "proxy-other" if effect.after.port == 15009 else effect.after.outcome


def ends(pair: PodPair, packet: Packet) -> str:
    """Send the packet, with a listener where it is addressed to, and return who answers."""
    pod, peer = pair
    destination = address_text(packet.family, packet.destination.first)
    any_address = "0.0.0.0" if packet.family == "ipv4" else "::"
    with contextlib.ExitStack() as stack:
        for namespace in (pod, peer):
            with contextlib.suppress(OSError):  # the proxy listens there already
                listener = namespace.listener((any_address, packet.port), label="direct", protocols=[packet.protocol])
                stack.callback(listener.close)
        if packet.in_interface is not None:
            client, source = peer.client(), ""
        else:
            assert packet.uid is not None
            assert packet.source is not None
            client = pod.client(packet.uid, packet.gid)
            source = address_text(packet.family, packet.source.first)
        outcome = client.connect(destination, packet.port, packet.protocol, source=source, timeout=QUICK)
    if outcome.kind in (Kind.TIMED_OUT, Kind.FORBIDDEN):
        return "dropped"
    return outcome.label or str(outcome.kind)


@pytest.mark.parametrize(("first", "second"), [(IPTABLES["nft"], NFTABLES), (IPTABLES["legacy"], NFTABLES)])
def test_a_second_set_in_the_other_backend_is_drift(pair: PodPair, first: Settings, second: Settings) -> None:
    with pair.pod.entered():
        operations.apply(first)
        script = operations.render(second.with_option(PROXY_PORT, "15009", "test"))[0][1]
    pair.pod.run(["nft", "-f", "-"], stdin=script)

    with pair.pod.entered():
        verified = operations.verify()

    assert not verified.holds
    (other,) = verified.second_sets
    assert other.choice.backend == "nftables"
    assert other.effect is not None
    assert ends(pair, other.effect.packet) == word(other.effect) != other.effect.before.outcome


def test_a_foreign_rule_that_no_captured_packet_meets_is_a_note(pair: PodPair) -> None:
    with pair.pod.entered():
        operations.apply(IPTABLES["nft"])
    pair.pod.run(["iptables-nft", "-t", "nat", "-I", "OUTPUT", "-p", "udp", "--dport", "123", "-j", "ACCEPT"])

    with pair.pod.entered():
        verified = operations.verify()

    assert verified.holds
    assert [note.kind for note in verified.harmless_differences] == ["foreign"]
