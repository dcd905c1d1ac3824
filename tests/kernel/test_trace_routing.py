"""What routing does with a connection before or behind the rules, by trace and why, and by real packets."""

import errno
import re
import socket
import struct
from ipaddress import ip_address

import pytest

from capture import operations
from capture.operations import diagnosis
from capture.settings import options as option
from pytest_netns import NamespaceFactory, PodPair
from support.captures.settings import Texts, settings
from support.processes.our_programs import run_program
from support.processes.waiting import wait_until

APP_PORT, CLIENT_PORT = 8080, 45000
NO_HOSTS = ("127.0.0.1", "10.77.0.2", "224.0.0.1", "255.255.255.255", "0.0.0.0", "::1", "ff02::1")
HOSTS = ("198.51.100.9", "240.0.0.9", "fd77::2", "2001:db8::9", "10.77.0.1")
"""Sources whose packets arrive: IPv6 takes the pod's own address. The last one is sent last."""
GROUPS = ("224.0.0.1", "255.255.255.255", "10.77.0.255", "ff02::1")
TPROXY: Texts = {option.INTERCEPTION_MODE: "TPROXY"}
COUNTERS = """
add table inet seen
add chain inet seen input {{ type filter hook input priority -400; }}
{}
"""


@pytest.fixture
def pair(netns: NamespaceFactory) -> PodPair:
    made = netns.pod_pair()
    made.peer.own_every_address()
    made.pod.listener(("0.0.0.0", 80), ("::", 80), ("0.0.0.0", APP_PORT), label="app", uid=1000)
    return made


def apply(pair: PodPair, *texts: Texts) -> None:
    """Capture the pod, with a proxy that listens."""
    operations.apply(settings(*texts), namespace=pair.pod.path)
    for port in (15001, 15006):
        is_transparent = port == 15006 and TPROXY in texts
        pair.pod.listener(("0.0.0.0", port), ("::", port), label=f"{port}", uid=1337, transparent=is_transparent)


# --- over lo -------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [{}, {option.REROUTED_INTERFACES: "lo"}])
def test_nat_does_not_meet_what_comes_in_over_lo(pair: PodPair, texts: Texts) -> None:
    apply(pair, texts)

    assert pair.pod.client(1000).connect("127.0.0.1", APP_PORT).label == "app"
    arguments = "tcp", f"127.0.0.1:{APP_PORT}", "--in", "lo"
    traced = run_program(pair.pod, "capture", "trace", *arguments)
    assert "direct: it bypasses the proxy" in traced.stdout
    assert "warning: --in: what comes in over lo was sent by the pod" in traced.stderr
    assert "not captured" in run_program(pair.pod, "capture", "why", *arguments, code=4).stdout


# --- sent ----------------------------------------------------------------------------------------


def test_the_pods_own_address_is_reached_over_lo_whatever_interface_is_named(pair: PodPair) -> None:
    apply(pair)

    def warnings(*arguments: str) -> str:
        return run_program(pair.pod, "capture", "trace", "tcp", *arguments).stderr

    by_lo = "warning: --out: the pod's routes lead to 10.77.0.2 by lo, whatever is named"
    assert by_lo in warnings("10.77.0.2:80", "--out", "eth0")
    assert "--out" not in warnings("10.77.0.2:80", "--out", "lo")
    assert "--out" not in warnings("198.51.100.9:80", "--out", "eth0")


@pytest.mark.parametrize("address", GROUPS)
def test_tcp_has_no_connections_to_many_hosts(pair: PodPair, address: str) -> None:
    apply(pair)

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pair.pod.client(1000).open_socket(family, socket.SOCK_STREAM) as client:
        assert client.connect_ex((address, 80)) == errno.ENETUNREACH
    shown = f"[{address}]:80" if ":" in address else f"{address}:80"
    kind = "multicast" if address.startswith(("224", "ff")) else "broadcast"
    says = f"TCP has no connections to {address}, a {kind} address: connect() fails before any rule decides"
    assert f"no route: {says}" in run_program(pair.pod, "capture", "trace", "tcp", shown).stdout
    assert f"cause no-route: {says}" in run_program(pair.pod, "capture", "why", "tcp", shown, code=4).stdout
    assert operations.trace_packet(address, 80, namespace=pair.pod.path, protocol="udp").outcome == "direct"


@pytest.mark.parametrize(
    ("address", "label", "outcome"),
    [
        ("::ffff:203.0.113.7", "15001", "proxy-outbound"),
        ("0.0.0.0", "app", "direct"),
        ("::", "app", "direct"),
    ],
)
def test_an_address_is_the_one_to_which_the_kernel_connects(
    pair: PodPair, address: str, label: str, outcome: str
) -> None:
    apply(pair)

    assert pair.pod.client(1000).connect(address, 80).label == label
    assert operations.trace_packet(address, 80, namespace=pair.pod.path).outcome == outcome


def test_an_ipv4_address_as_ipv6_sockets_write_it_is_ipv4(pair: PodPair) -> None:
    apply(pair)

    printed = run_program(pair.pod, "capture", "trace", "tcp", "[::ffff:203.0.113.7]:80", "--src", "::ffff:10.77.0.2")

    assert "tcp to 203.0.113.7:80 from 10.77.0.2, out via eth0" in printed.stdout
    assert "warning: ::ffff:203.0.113.7: connections to it are IPv4, to 203.0.113.7" in printed.stderr


def test_a_source_that_the_pod_does_not_have(pair: PodPair) -> None:
    apply(pair)

    with pair.pod.entered(), socket.socket() as client, pytest.raises(OSError, match="Cannot assign"):
        client.bind(("10.77.0.9", 0))
    says = "the source that was named is no address of the pod: connect() from it fails"
    arguments = "tcp", f"{pair.peer.ipv4}:80", "--src", "10.77.0.9"
    assert f"no route: {says}\n" in run_program(pair.pod, "capture", "trace", *arguments).stdout
    assert f"cause no-route: {says}" in run_program(pair.pod, "capture", "why", *arguments, code=4).stdout


def test_trace_tells_whose_rule_leads_to_the_proxy(pair: PodPair) -> None:
    apply(pair)
    pair.pod.run(
        ["iptables", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", "REDIRECT", "--to-ports", "15006"]
    )

    assert pair.pod.client(1000).connect("203.0.113.7", 80).label == "15006"
    traced = run_program(pair.pod, "capture", "trace", "tcp", "203.0.113.7:80").stdout
    assert "as an inbound connection, on port 15006, by a foreign rule\n" in traced


# --- comes in ------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [{}, TPROXY, {option.EXCLUDED_INBOUND_PORTS: str(APP_PORT)}])
def test_sources_that_no_other_host_may_have_are_told_apart(pair: PodPair, texts: Texts) -> None:
    apply(pair, texts)
    rules = (
        f"add rule inet seen input tcp sport {CLIENT_PORT} {family_word(each)} saddr {each} counter"
        for each in (*NO_HOSTS, *HOSTS)
    )
    pair.pod.run(["nft", "-f", "-"], stdin=COUNTERS.format("\n".join(rules)))

    for source in (*NO_HOSTS, *HOSTS):
        send_syn(pair, source)
    wait_until(lambda: HOSTS[-1] in arrived(pair), what="the last packet does not arrive")

    assert arrived(pair) == {*HOSTS}
    by_trace = {source: impediments(pair, source) for source in (*NO_HOSTS, *HOSTS)}
    martian = "the kernel drops what comes in via eth0 from {}: no other host may have that address (martian source)"
    assert by_trace == {each: (martian.format(each),) for each in NO_HOSTS} | dict.fromkeys(HOSTS, ())


def test_a_martian_source_is_a_cause_though_no_proxy_listens(pair: PodPair) -> None:
    operations.apply(settings(), namespace=pair.pod.path)
    packet = operations.trace_packet("10.77.0.2", 80, namespace=pair.pod.path, source="127.0.0.1", in_interface="eth0")

    causes = diagnosis.why(packet.packet, namespace=pair.pod.path).causes

    assert [(each.kind, each.case) for each in causes] == [("no-route", "martian"), ("not-listening", "")]


@pytest.mark.parametrize("lost", ["ip rule add pref 100 sport 15006 prohibit", "ip route add {} dev lo"])
def test_answers_that_routing_loses(pair: PodPair, lost: str) -> None:
    apply(pair)
    arguments = "tcp", f"{pair.pod.ipv4}:80", "--in", "eth0", "--src", pair.peer.ipv4
    assert pair.peer.client().connect(pair.pod.ipv4, 80).label == "15006"
    assert "but" not in run_program(pair.pod, "capture", "trace", *arguments).stdout

    pair.pod.run(lost.format(pair.peer.ipv4).split())

    assert pair.peer.client().connect(pair.pod.ipv4, 80, timeout=0.3).label == ""
    says = f"but the answers to {pair.peer.ipv4} are lost, by the pod's routes or a policy rule"
    assert says in run_program(pair.pod, "capture", "trace", *arguments).stdout


REFUSED = {
    "ipproto tcp dport 15006 prohibit": "in",
    "fwmark 9 unreachable": "in",
    "ipproto tcp dport 8080 prohibit": "app",
    "to 10.77.0.2 prohibit": "out",
    "ipproto tcp dport 15001 prohibit": "out",
    "to 127.0.0.1 ipproto tcp prohibit": "out",
    "to 127.0.0.0/8 ipproto udp prohibit": "",
}
"""Policy rules before the table local, and what they refuse."""
MARK_ALL = "table ip x { chain c { type filter hook prerouting priority -160; iif eth0 meta mark set 9; }; }"


@pytest.mark.parametrize("rule", REFUSED)
def test_a_policy_rule_before_the_local_table(pair: PodPair, rule: str) -> None:
    lost, (pod, peer) = REFUSED[rule], pair
    peer.listener(("0.0.0.0", 80), label="world")
    apply(pair)
    pod.run(["nft", MARK_ALL])
    pod.ip(f"rule add pref 0 {rule}", "rule del pref 0 lookup local", "rule add pref 1 lookup local")

    reached = {
        "out": pod.client(1000).connect("203.0.113.9", 80, timeout=0.3).label == "15001",
        "in": peer.client().connect(pod.ipv4, APP_PORT, timeout=0.3).label == "15006",
        "world": pod.client(1337).connect("203.0.113.9", 80, timeout=0.3).label == "world",
        "app": pod.client(1337).connect(pod.ipv4, APP_PORT, source="127.0.0.6", timeout=0.3).label == "app",
    }
    inbound = "tcp", f"{pod.ipv4}:{APP_PORT}", "--in", "eth0", "--src", peer.ipv4
    for goes, end, arguments in (("out", "world", ("tcp", "203.0.113.9:80")), ("in", "app", inbound)):
        assert ("but " in run_program(pod, "capture", "trace", *arguments).stdout) is not reached[goes]
        is_whole = reached[goes] and reached[end]
        printed = run_program(pod, "capture", "why", *arguments, code=0 if is_whole else 4).stdout
        assert ("cause no-route" in printed) is not is_whole
    assert lost == "" or not reached[lost]


def impediments(pair: PodPair, source: str) -> tuple[str, ...]:
    inside = pair.pod.ipv6 if ":" in source else pair.pod.ipv4
    path = pair.pod.path
    traced = operations.trace_packet(inside, APP_PORT, namespace=path, source=source, in_interface="eth0")
    return traced.impediments


def arrived(pair: PodPair) -> set[str]:
    listed = pair.pod.run(["nft", "list", "table", "inet", "seen"]).stdout
    return set(re.findall(r"saddr (\S+) counter packets [1-9]", listed))


def family_word(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def send_syn(pair: PodPair, source: str) -> None:
    """Let the first packet of a connection come in from any source."""
    inside = pair.pod.ipv6 if ":" in source else pair.pod.ipv4
    sender, receiver = ip_address(source).packed, ip_address(inside).packed
    segment = struct.pack("!HHIIBBHHH", CLIENT_PORT, APP_PORT, 1, 0, 5 << 4, 2, 1024, 0, 0)
    checksum = internet_checksum(sender + receiver + struct.pack("!II", len(segment), socket.IPPROTO_TCP) + segment)
    segment = segment[:16] + checksum + segment[18:]
    if ":" in source:
        packet = struct.pack("!IHBB", 6 << 28, len(segment), socket.IPPROTO_TCP, 64) + sender + receiver + segment
    else:
        header = struct.pack("!BBHIBBH", 4 << 4 | 5, 0, 20 + len(segment), 0, 64, socket.IPPROTO_TCP, 0)
        header += sender + receiver
        packet = header[:10] + internet_checksum(header) + header[12:] + segment
    (link,) = pair.pod.route.link("get", ifname="eth0")
    hardware = bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", ""))
    protocol = 0x86DD if ":" in source else 0x0800
    with pair.peer.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sending:
        sending.sendto(packet, ("eth0", protocol, 0, 0, hardware))


def internet_checksum(data: bytes) -> bytes:
    """Return the checksum of RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
