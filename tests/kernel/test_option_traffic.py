"""Options by traffic: what each one changes, and what it leaves as it is."""

import contextlib
import re
import socket
import struct
from collections.abc import Iterator

import pytest

from capture import operations
from capture.analysis.trace import Trace
from capture.settings import options as option
from pytest_netns import Client, NamespaceFactory, Pod, PodPair
from support.captures.settings import DRIVERS, ONE_FOR_EACH_PLACE, Texts, settings

PROXY = 1337
OUTSIDE = {"ipv4": "203.0.113.7", "ipv6": "2001:db8::7"}
ELSEWHERE = {"ipv4": "198.51.100.1", "ipv6": "2001:db8:1::1"}
BOTH = ("0.0.0.0", "::")


@pytest.fixture(scope="module")
def pair(module_pod_pair: PodPair) -> PodPair:
    """All listen: the outside, the app, and the proxy on each of its ports."""
    serve(module_pod_pair)
    return module_pod_pair


def serve(pair: PodPair) -> None:
    pod, peer = pair
    peer.own_every_address()
    ports = (80, 443, 8080, 9999)
    peer.listener(*[(address, port) for address in BOTH for port in ports], label="outside")
    pod.listener(*[(address, port) for address in BOTH for port in ports], label="app", uid=1000)
    pod.listener(*[(address, 15001) for address in BOTH], label="outbound", uid=PROXY)
    pod.listener(*[(address, 15006) for address in BOTH], label="inbound", uid=PROXY, transparent=True)


@pytest.fixture(params=ONE_FOR_EACH_PLACE)
def driver(pair: PodPair, request: pytest.FixtureRequest) -> Iterator[Texts]:
    """Settings for each driver; the pod is cleaned afterwards."""
    yield DRIVERS[request.param]
    with pair.pod.entered():
        operations.clean()


def apply(pod: Pod, *texts: Texts) -> None:
    """Apply, and check that the live rules are the desired ones, and that the same again changes nothing."""
    with pod.entered():
        operations.apply(settings(*texts))
        verified = operations.verify()
        assert verified.holds, verified
        assert not operations.apply(settings(*texts)).changed


def ends(client: Client, address: str, port: int, protocol: str = "tcp") -> str:
    """Return who answers, or what happens instead."""
    outcome = client.connect(address, port, protocol, timeout=0.3)
    return outcome.label or str(outcome.kind)


def test_owner_groups_decide_who_is_captured(pair: PodPair, driver: Texts) -> None:
    pod, _ = pair
    apply(pod, driver, {option.OWNER_GROUPS: "adm,3000-3010"})  # adm is 4 on Debian and its kin
    for address in OUTSIDE.values():
        assert ends(pod.client(1000, 4), address, 80) == "outbound"
        assert ends(pod.client(1000, 3005), address, 80) == "outbound"
        assert ends(pod.client(1000, 1000), address, 80) == "outside"

    apply(pod, driver, {option.EXCLUDED_OWNER_GROUPS: "adm,3000"})
    for address in OUTSIDE.values():
        assert ends(pod.client(1000, 4), address, 80) == "outside"
        assert ends(pod.client(1000, 3000), address, 80) == "outside"
        assert ends(pod.client(1000, 1000), address, 80) == "outbound"


def test_ports_that_users_reach_by_themselves(pair: PodPair, driver: Texts) -> None:
    pod, _ = pair
    apply(pod, driver, {option.UID_PORT_EXCLUSIONS: "tcp:443:1000-2000,tcp:9000-9999:1000-2000,udp:*:1000"})
    for address in OUTSIDE.values():
        for uid in (1000, 1500, 2000):
            assert ends(pod.client(uid), address, 443) == "outside"
            assert ends(pod.client(uid), address, 9999) == "outside"
            assert ends(pod.client(uid), address, 80) == "outbound"
        for uid in (999, 2001):
            assert ends(pod.client(uid), address, 443) == "outbound"


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_excluded_sources_are_left_alone(pair: PodPair, driver: Texts, mode: str) -> None:
    pod, peer = pair
    networks = f"{peer.ipv4}/32,{peer.ipv6}/128"
    apply(pod, driver, {option.EXCLUDED_INBOUND_NETWORKS: networks, option.INTERCEPTION_MODE: mode})
    peer.ip("address replace 10.77.0.99/24 dev eth0", "address replace fd77::99/64 dev eth0 nodad")
    for inside, source in ((pod.ipv4, "10.77.0.99"), (pod.ipv6, "fd77::99")):
        own = peer.ipv6 if ":" in inside else peer.ipv4
        assert peer.client().connect(inside, 8080, source=own).label == "app"
        # The kernel listens for questions about a new address a moment later; they are repeated after a second.
        assert peer.client().connect(inside, 8080, source=source, timeout=3).label == "inbound"


def test_ports_that_are_too_many_for_a_rule_each(pair: PodPair, driver: Texts) -> None:
    """Two thousand ports, no two adjacent: a range and 15 ports to a rule in iptables; read back as they were given."""
    pod, _ = pair
    many = ",".join(["400-500", *map(str, range(20001, 24001, 2))])
    apply(pod, driver, {option.EXCLUDED_OUTBOUND_PORTS: many, option.INBOUND_PORTS: f"8080,{many}"})
    for inside, outside in zip((pod.ipv4, pod.ipv6), OUTSIDE.values(), strict=True):
        assert ends(pod.client(1000), outside, 443) == "outside"
        assert ends(pod.client(1000), outside, 80) == "outbound"
        assert ends(pair.peer.client(), inside, 8080) == "inbound"
        assert ends(pair.peer.client(), inside, 9999) == "app"
    traced = {port: pod_trace(pod, port).outcome for port in (401, 20001, 20002, 23999, 24001)}
    assert traced == {
        401: "direct", 20001: "direct", 20002: "proxy-outbound", 23999: "direct", 24001: "proxy-outbound",
    }  # fmt: skip


def pod_trace(pod: Pod, port: int) -> Trace:
    """Return what happens to a connection of the app, by the live rules."""
    with pod.entered():
        return operations.trace_packet(OUTSIDE["ipv4"], port)


def test_calls_to_networks_on_loopback_are_left_alone(pair: PodPair, driver: Texts) -> None:
    pod, _ = pair
    apply(pod, driver)
    assert ends(pod.client(PROXY), "127.0.0.1", 8080) == "app"
    assert ends(pod.client(PROXY), "127.0.0.5", 8080) == "inbound"

    apply(pod, driver, {option.IPV4_LOOPBACK: "127.0.0.0/8"})
    assert ends(pod.client(PROXY), "127.0.0.5", 8080) == "app"
    assert ends(pod.client(PROXY), pod.ipv4, 8080) == "inbound"


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_excluded_interfaces_are_left_alone(netns: NamespaceFactory, mode: str) -> None:
    """Both ways: what comes in by the interface, and what goes out by it."""
    pod, peer = netns.pod_pair()
    pod.ip(f"link add net1 type veth peer name net1 netns {peer.path}", "link set net1 up")
    peer.ip("link set net1 up")
    for one, last in ((pod, 2), (peer, 3)):
        one.add_address(f"10.78.0.{last}/24", "net1")
        one.add_address(f"fd78::{last}/64", "net1")
    serve(PodPair(pod, peer))
    for driver in ONE_FOR_EACH_PLACE:
        apply(pod, DRIVERS[driver], {option.EXCLUDED_INTERFACES: "net1", option.INTERCEPTION_MODE: mode})
        for inside, outside in (("10.78.0.2", "10.78.0.3"), ("fd78::2", "fd78::3")):
            assert ends(pod.client(1000), outside, 80) == "outside"
            assert ends(peer.client(), inside, 8080) == "app"
        for inside, outside in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
            assert ends(pod.client(1000), outside, 80) == "outbound"
            assert ends(peer.client(), inside, 8080) == "inbound"


def test_packets_of_virtual_machines_are_outbound(netns: NamespaceFactory) -> None:
    """Traffic that comes in by their interface goes to the proxy's outbound port, or on, as the pod's own would."""
    pod, peer = netns.pod_pair()
    machine = netns("machine")
    machine.ip(f"link add eth0 type veth peer name tap0 netns {pod.path}", "link set eth0 up")
    pod.ip("link set tap0 up")
    for one, last, interface in ((pod, 1, "tap0"), (machine, 2, "eth0")):
        one.add_address(f"192.168.99.{last}/24", interface)
        one.add_address(f"fd99::{last}/64", interface)
    machine.ip("route add default via 192.168.99.1", "route add default via fd99::1")
    pod.sysctl("net.ipv4.ip_forward", 1)
    pod.sysctl("net.ipv6.conf.all.forwarding", 1)
    peer.ip(f"route add 192.168.99.0/24 via {pod.ipv4}", f"route add fd99::/64 via {pod.ipv6}")
    serve(PodPair(pod, peer))
    pod.ip(f"route replace default via {peer.ipv4}", f"route replace default via {peer.ipv6}")
    for driver in ONE_FOR_EACH_PLACE:
        apply(pod, DRIVERS[driver], {option.REROUTED_INTERFACES: "tap0"})
        for address in (*OUTSIDE.values(), *ELSEWHERE.values()):
            assert ends(machine.client(), address, 80) == "outbound"

        networks = "203.0.113.0/24,2001:db8::/64"
        apply(pod, DRIVERS[driver], {option.REROUTED_INTERFACES: "tap0", option.OUTBOUND_NETWORKS: networks})
        for address in OUTSIDE.values():
            assert ends(machine.client(), address, 80) == "outbound"
        for address in ELSEWHERE.values():
            assert ends(machine.client(), address, 80) == "outside"

        apply(pod, DRIVERS[driver])
        for address in OUTSIDE.values():
            assert ends(machine.client(), address, 80) == "inbound"


# --- packets that belong to no connection ----------------------------------------------------------


COUNTS_RESETS = """
table inet witness {
    counter resets { }
    chain arriving {
        type filter hook prerouting priority -400;
        tcp sport 8080 tcp flags & rst == rst counter name resets
    }
}
"""


def resets(peer: Pod) -> int:
    """Return how many resets have come from the pod so far."""
    listed = peer.run(["nft", "list", "counter", "inet", "witness", "resets"]).stdout
    return int(listed.partition("packets")[2].split()[0])


def test_an_invalid_packet_is_dropped_instead_of_answered(netns: NamespaceFactory) -> None:
    """A segment out of the window is no part of its connection: it is not translated back, and meets the app's port.

    The kernel answers it by a reset there, which ends the connection for the client.
    """
    pair = netns.pod_pair()
    pod, peer = pair
    peer.run(["nft", "-f", "-"], stdin=COUNTS_RESETS)
    for name in ONE_FOR_EACH_PLACE:
        for inside in (pod.ipv4, pod.ipv6):
            apply(pod, DRIVERS[name])
            assert resets_for_stray_segments(pair, inside) > 0
            apply(pod, DRIVERS[name], {option.DROP_INVALID: "true"})
            assert resets_for_stray_segments(pair, inside) == 0


def resets_for_stray_segments(pair: PodPair, inside: str) -> int:
    """Connect, let segments come that are far out of the window, and return by how many resets they are answered."""
    pod, peer = pair
    family = socket.AF_INET6 if ":" in inside else socket.AF_INET
    with peer.entered():
        stray = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with (
        stray,
        pod.client(PROXY).open_socket(family, socket.SOCK_STREAM) as listener,
        peer.client().open_socket(family, socket.SOCK_STREAM) as client,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 15006))
        listener.listen()
        client.settimeout(1)
        client.connect((inside, 8080))
        accepted, _ = listener.accept()
        with accepted:
            before = resets(peer)
            for number in range(0, 2**32, 2**30):  # at least one of them lies ahead of the window
                stray.sendto(segment(family, client.getsockname(), (inside, 8080), number), (inside, 0))
            client.settimeout(0.03)
            with contextlib.suppress(TimeoutError, ConnectionResetError):  # a reset, or nothing for a while
                client.recv(1)
            return resets(peer) - before


def segment(family: int, source: tuple[str, int], destination: tuple[str, int], number: int) -> bytes:
    """Return a TCP segment (RFC 9293) with ACK set and this sequence number, with its checksum."""
    header = struct.pack("!HHIIBBHHH", source[1], destination[1], number, number, 5 << 4, 0x10, 1024, 0, 0)
    ends = b"".join(socket.inet_pton(family, address) for address, *_ in (source, destination))
    pseudo_header = ends + struct.pack("!IHH", len(header), 0, socket.IPPROTO_TCP)
    total = sum(struct.unpack(f"!{(len(pseudo_header) + len(header)) // 2}H", pseudo_header + header))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


# --- what people look at -----------------------------------------------------------------------------


EVERYTHING: Texts = {
    option.RULE_COMMENTS: "true",
    option.RULE_LOGS: "true",
    option.INTERCEPTION_MODE: "TPROXY",
    option.DROP_INVALID: "true",
    option.REDIRECT_DNS: "true",
    option.CAPTURE_ALL_DNS: "true",
    option.EXCLUDED_OUTBOUND_NETWORKS: "192.0.2.0/24,2001:db8:2::/48",
    option.EXCLUDED_OUTBOUND_PORTS: ",".join(str(port) for port in range(3000, 3040, 2)),
}
LISTINGS = {
    "nftables-netlink": ["nft list ruleset"],
    "iptables-netlink": ["iptables-nft-save", "ip6tables-nft-save"],
    "iptables-legacy": ["iptables-legacy-save", "ip6tables-legacy-save"],
}


@pytest.mark.parametrize("name", LISTINGS)
def test_comments_and_logs_are_seen_and_never_drift(netns: NamespaceFactory, name: str) -> None:
    pair = netns.pod_pair()
    pod, peer = pair
    serve(pair)
    apply(pod, DRIVERS[name], EVERYTHING)
    for address in OUTSIDE.values():
        assert ends(pod.client(1000), address, 80) == "outbound"
    for inside in (pod.ipv4, pod.ipv6):
        assert ends(peer.client(), inside, 8080) == "inbound"
    for listing in LISTINGS[name]:
        printed = pod.run(listing.split()).stdout
        rules = rules_of(printed)
        assert len(rules) > 40
        assert [rule for rule in rules if "comment" not in rule] == []
        chains = set(re.findall(r"^\s*(?:chain |:)((?:ISTIO|istio)\S*)", printed, re.MULTILINE))
        logged = set(re.findall(r'(?:--log-prefix|log prefix) "((?:ISTIO|istio)\S*) ?"', printed))
        assert logged == chains

    apply(pod, DRIVERS[name])
    for listing in LISTINGS[name]:
        printed = pod.run(listing.split()).stdout
        assert "comment" not in printed
        assert "log" not in printed.replace("nologout", "").lower().split()


def rules_of(printed: str) -> list[str]:
    """Return the lines of a listing that are rules."""
    verdicts = re.compile(r"\b(jump|return|redirect|accept|drop|tproxy|log|set)\b")
    rules = [line for line in printed.splitlines() if line.startswith("-A ")]
    return rules or [line for line in printed.splitlines() if verdicts.search(line) and "hook" not in line]
