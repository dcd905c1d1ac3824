"""What the verbs say of one pod: of its connections one by one, and of all together; and what traffic says."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

from capture import operations
from capture.analysis.captured_pod import proxy_owner_by_rules
from capture.analysis.replies import onward_packet
from capture.cli.doctor.examination import pod_findings as doctor_findings
from capture.model.addresses import address_text, parse_address
from capture.model.packet import LOOPBACK, Packet
from capture.operations import diagnosis, tracing
from capture.operations.diagnosis import Diagnosis
from capture.operations.results import Verified
from pytest_netns import PodPair

OUTSIDE, OUTSIDE6 = "203.0.113.9", "2001:db8::9"
APP_PORT = 8080
PROXY, OTHERS = "proxy", "others"
OF_SETTINGS = {"excluded", "proxy-user", "family-not-captured", "dns-not-captured", "not-tcp"}
"""Causes of one connection alone."""
OF_NETWORK = {"no-route", "interface-down", "ipsec"}
"""Those by which connections fail without a capture, too: `verify` has none, and those of one client are of no pod."""
OF_PROXY = {"not-listening", "proxy-wrong-user", "proxy-mode"}


def usual_packets(pair: PodPair, outside: str) -> dict[str, Packet]:
    """Return a packet of each usual connection, by where it goes."""
    pod, peer = pair
    return {
        "out": Packet("tcp", parse_address(outside), 80, uid=1000, gid=1000),
        "out6": Packet("tcp", parse_address(OUTSIDE6), 80, uid=1000, gid=1000),
        "look-up": Packet("udp", parse_address(outside), 53, uid=1000, gid=1000),
        "in": _inbound(pod.ipv4, peer.ipv4),
        "in6": _inbound(pod.ipv6, peer.ipv6),
    }


def _inbound(address: str, client: str) -> Packet:
    source = parse_address(client)
    return Packet("tcp", parse_address(address), APP_PORT, source=source, source_port=45000, in_interface="eth0")


def assert_the_connections_agree(
    pair: PodPair,
    *,
    outside: str = OUTSIDE,
    of_pod: tuple[Verified, Diagnosis] | None = None,
    ends_listen: bool = False,
) -> None:
    """Fail if `why` of a connection, `why` of the pod, doctor, verify and traffic contradict each other.

    A listener of the proxy has a label that begins so. What the pod is to blame for, all of them name, by one kind. A
    captured connection reaches the proxy, and one that is not does not. A broken one reaches no other; it may reach the
    proxy, and what that sends on be lost. What the proxy sends on arrives of a captured one alone, if ``ends_listen``:
    app and peer. ``of_pod`` is what verify and `why` of the pod have just told.
    """
    with pair.pod.entered(), pod_read_once():
        verified, pod_findings = of_pod or (operations.verify(), diagnosis.why())
        found = {goes: diagnosis.why(packet) for goes, packet in usual_packets(pair, outside).items()}
        owner = proxy_owner_by_rules(operations.situation_of().ruleset) if ends_listen else None
    is_ok = any(each.state == "ok" for each in doctor_findings(pod_findings))
    for goes, each in found.items():
        kinds = {cause.kind for cause in each.causes} - OF_SETTINGS
        if kinds - (OF_NETWORK if goes.startswith("in") else set()):
            assert pod_findings.causes, (goes, each.causes)
            assert not is_ok
            assert kinds <= {cause.kind for cause in pod_findings.causes}, (goes, each.causes, pod_findings.causes)
        is_of_neighbours = any("discovery" in cause.message for cause in each.causes)
        is_of_rules = kinds - OF_NETWORK - OF_PROXY and not is_of_neighbours
        # Without a reference verify sees no missing rule; and it judges no flags of TCP.
        assert not (is_of_rules and verified.holds and verified.is_judged and verified.has_reference), (
            goes,
            each.causes,
        )
        of_pod_verdicts = verified.conclusion, pod_findings.verdict
        assert each.verdict != "cannot be told" or of_pod_verdicts != ("in sync", "captured"), (goes, each.notes)
        if each.verdict != "cannot be told" and not is_of_neighbours:  # a client's call makes itself known
            reached = answers(pair, each.packet, timeout=2 if each.verdict == "captured" else 0.1)
            allowed = {"captured": (PROXY,), "not captured": (OTHERS, ""), "broken": (PROXY, "")}[each.verdict]
            assert reached in allowed, (goes, each.verdict, each.causes, reached)
        if each.verdict == "captured" and ends_listen:
            assert sent_on(pair, each, owner) in ("", OTHERS), (goes, each)


@contextmanager
def pod_read_once() -> Iterator[None]:
    """Let `why` read the pod for its first question alone: nothing there changes before the last one."""
    with (
        patch("capture.operations.diagnosis.live_situation", cache(tracing.live_situation)),
        patch("capture.operations.diagnosis._examine_pod", cache(diagnosis._examine_pod)),
    ):
        yield


NO_ONE = "no one"


def sent_on(pair: PodPair, found: Diagnosis, owner: tuple[int, int] | None) -> str:
    """Return who answers what the proxy sends on of a connection; "" if it sends nothing on."""
    assert found.trace is not None
    packet = onward_packet(found.trace, *owner) if owner else None
    if packet is None:
        return ""
    destination, source = (
        address_text(packet.family, end.first) if end else "" for end in (packet.destination, packet.source)
    )
    named = source if packet.out_interface == LOOPBACK else ""
    proxy = pair.pod.client(packet.uid or 0, packet.gid)
    label = proxy.connect(destination, packet.port, source=named, mark=packet.mark, timeout=2).label
    return PROXY if label.startswith(PROXY) else OTHERS if label else NO_ONE


def answers(pair: PodPair, packet: Packet | None, timeout: float) -> str:
    """Return who answers on a usual connection: PROXY, OTHERS, or no one."""
    assert packet is not None
    is_inbound = packet.in_interface is not None
    client = pair.peer.client() if is_inbound else pair.pod.client(uid=1000)
    destination = address_text(packet.family, packet.destination.first)
    label = client.connect(destination, packet.port, packet.protocol, timeout=timeout).label
    return PROXY if label.startswith(PROXY) else label and OTHERS
