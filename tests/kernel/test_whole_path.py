"""The whole path of a packet: every table, second captures, DNAT, routes; in the kernel's order."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from capture import operations
from capture.settings.options import PROXY_PORT
from capture.state import record
from pytest_netns import NamespaceFactory, PodPair
from support.captures.settings import DRIVERS, settings
from support.processes.our_programs import run_program
from support.processes.waiting import wait_until

PROGRAM = str(Path(sys.executable).with_name("capture"))

ELSEWHERE = "203.0.113.7"
NFT = (
    "nft add table ip other; add chain ip other x { type nat hook output priority -150; };"
    " add rule ip other x tcp dport 80 dnat to 203.0.113.200:8080"
)


@pytest.fixture
def pair(netns: NamespaceFactory) -> PodPair:
    made = netns.pod_pair()
    made.peer.own_every_address()
    for port in (15001, 15009, 15006):
        made.pod.listener(("0.0.0.0", port), ("::", port), label=str(port), uid=1337)
    return made


def trace(pair: PodPair, *arguments: str) -> dict[str, Any]:
    done = run_program(pair.pod, "capture", "trace", *arguments, "--format", "json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == "capture/v1"
    return found


DNAT = "iptables-%s -t nat -I OUTPUT -p tcp --dport 80 -j DNAT --to-destination 203.0.113.200:8080"
UNORDERED = [
    ("iptables-netlink", DNAT % "legacy"),
    ("nftables-netlink", DNAT % "legacy"),
    ("iptables-legacy", DNAT % "nft"),
]
"""The one that is older decides, and that cannot be read."""
ORDERED = [
    ("iptables-netlink", DNAT % "nft"),
    ("nftables-netlink", DNAT % "nft"),
    ("iptables-legacy", DNAT % "legacy"),
    *((driver, NFT) for driver in ("iptables-netlink", "nftables-netlink", "iptables-legacy")),
]


@pytest.mark.parametrize(
    ("driver", "command", "is_older"),
    [*((*each, False) for each in (*ORDERED, *UNORDERED)), *((*each, True) for each in UNORDERED)],
)
def test_dnat_next_to_our_rules_in_any_table(pair: PodPair, driver: str, command: str, *, is_older: bool) -> None:
    program, *rest = command.split(" ", 1) if command.startswith("nft") else command.split()
    for step in (0, 1):
        if step == is_older:
            with pair.pod.entered():
                operations.apply(settings({}, DRIVERS[driver]))
        else:
            pair.pod.run([program, *rest])
    pair.peer.listener(("203.0.113.200", 8080), label="translated")

    found = trace(pair, "tcp", f"{ELSEWHERE}:80")
    printed = run_program(pair.pod, "capture", "trace", "tcp", f"{ELSEWHERE}:80").stdout
    verified = run_program(pair.pod, "capture", "verify", code=None)
    of_connection = run_program(pair.pod, "capture", "why", "tcp", f"{ELSEWHERE}:80", code=None)

    is_known = (driver, command) in ORDERED
    assert pair.pod.client(1000).connect(ELSEWHERE, 80).label == ("15001" if is_older else "translated")
    assert (found["outcome"], found["address"], found["port"]) == ("direct", "203.0.113.200", 8080)
    assert found["certain"] is is_known
    assert f"\n{'' if is_known else 'cannot be told: perhaps '}direct, to 203.0.113.200:8080" in printed
    assert ("\n  => " in printed, "\n  ?  " in printed) == (is_known, not is_known)
    assert verified.returncode == 4
    assert "direct to 203.0.113.200:8080" in verified.stdout
    assert ("not judged: " in verified.stdout, "proxy-outbound 15001 -> ?" in verified.stdout) == (not is_known,) * 2
    assert of_connection.returncode == (4 if is_known else 5)


def test_trace_and_kernel_agree_on_the_port_of_two_captures(pair: PodPair) -> None:
    with pair.pod.entered():
        operations.apply(settings({}, DRIVERS["iptables-netlink"]))
        other = settings({PROXY_PORT: "15009"}, DRIVERS["nftables-netlink"])
        script = operations.render(other)[0][1]
    pair.pod.run(["nft", "-f", "-"], stdin=script)

    assert pair.pod.client(1000).connect(ELSEWHERE, 80).label == "15009"
    assert trace(pair, "tcp", f"{ELSEWHERE}:80")["port"] == 15009
    assert "proxy-outbound 15009" in run_program(pair.pod, "capture", "explain").stdout
    assert (
        "proxy-outbound 15001 -> proxy-outbound 15009" in run_program(pair.pod, "capture", "verify", code=None).stdout
    )


@pytest.mark.parametrize(
    "command", ["ip rule del fwmark 0x539 lookup 133", "ip route del local default dev lo table 133"]
)
def test_the_missing_half_of_the_transparent_route_is_named(pair: PodPair, command: str) -> None:
    run_program(pair.pod, "capture", "apply", "-m", "TPROXY")
    assert trace(pair, "tcp", f"{pair.pod.ipv4}:8080", "--in", "eth0")["missing_routes"] == []

    pair.pod.run(command.split())

    add = command.replace(" del ", " replace " if "route" in command else " add ")
    printed = run_program(pair.pod, "capture", "verify", code=None).stdout
    half, other = ("policy rule", "route") if " rule " in command else ("route", "policy rule")
    assert trace(pair, "tcp", f"{pair.pod.ipv4}:8080", "--in", "eth0")["missing_routes"] == [add]
    shown = run_program(pair.pod, "capture", "trace", "tcp", f"{pair.pod.ipv4}:8080", "--in", "eth0").stdout
    missing = f"IPv4: the {half} for mark 0x539 is missing: `{add}` adds it"
    assert f"\nbut the app's answers leave the pod and miss the proxy; {missing}\n" in shown
    assert missing in printed
    assert f"the {other}" not in printed
    of_node = missing.replace("`ip ", f"`nsenter --net={pair.pod.path} ip ")
    inbound = ("tcp", f"{pair.pod.ipv4}:8080", "--in", "eth0")
    for verb in ("trace", *inbound), ("why", *inbound), ("doctor",):
        from_node = [PROGRAM, *verb, "--netns", pair.pod.path]
        assert of_node in subprocess.run(from_node, capture_output=True, text=True, check=False).stdout


def test_trace_names_a_missing_route(netns: NamespaceFactory) -> None:
    namespace = netns()
    run_program(namespace, "capture", "apply")

    printed = run_program(namespace, "capture", "trace", "tcp", f"{ELSEWHERE}:80").stdout

    assert f"no route: the pod has no route to {ELSEWHERE}" in printed

    namespace.ip(f"route add blackhole {ELSEWHERE}")
    printed = run_program(namespace, "capture", "trace", "tcp", f"{ELSEWHERE}:80").stdout
    assert f"no route: a route or policy rule of type blackhole refuses {ELSEWHERE}: the connection fails" in printed


@pytest.mark.parametrize(
    ("breaks", "message", "is_ipv6_reached"),
    [
        ("ip link set lo down", "the interface lo is down", False),
        ("ip address del 127.0.0.1/8 dev lo", "127.0.0.1 does not lead to lo", True),
    ],
)
def test_redirected_packets_that_do_not_arrive(
    pair: PodPair, breaks: str, message: str, *, is_ipv6_reached: bool
) -> None:
    run_program(pair.pod, "capture", "apply")
    assert trace(pair, "tcp", f"{ELSEWHERE}:80")["impediments"] == []

    pair.pod.run(breaks.split())

    (found,) = trace(pair, "tcp", f"{ELSEWHERE}:80")["impediments"]
    assert found.startswith(message)
    for command in ("trace", "tcp", f"{ELSEWHERE}:80"), ("explain",):
        assert f"but {message}" in run_program(pair.pod, "capture", *command).stdout
    explained = json.loads(run_program(pair.pod, "capture", "explain", "--format", "json").stdout)
    assert explained["impediments"][0].startswith(message)
    verified = run_program(pair.pod, "capture", "verify", code=None).stdout.splitlines()
    assert verified[0].startswith("drift: 1 difference from")
    assert message in verified[1]
    assert "`ip " in verified[1]
    assert (trace(pair, "tcp", "[2001:db8::9]:80")["impediments"] == []) is is_ipv6_reached
    assert pair.pod.client(uid=1000).connect(ELSEWHERE, 80, timeout=0.3).label != "15001"


def test_answers_of_the_proxy_that_are_lost_are_told(pair: PodPair) -> None:
    run_program(pair.pod, "capture", "apply")
    inbound = ("tcp", f"{pair.pod.ipv4}:8080", "--in", "eth0", "--src", pair.peer.ipv4)
    for drop, sent in (
        (("-o", "lo", "-p", "tcp", "--sport", "15001", "-j", "DROP"), ("tcp", f"{ELSEWHERE}:80")),
        (("-o", "eth0", "-p", "tcp", "-j", "DROP"), inbound),
    ):
        assert trace(pair, *sent)["impediments"] == []
        pair.pod.run(["iptables", "-I", "OUTPUT", *drop])

        found = trace(pair, *sent)

        assert (found["outcome"][:5], found["certain"]) == ("proxy", True)
        assert found["impediments"] == [
            "its answers are dropped by ip filter OUTPUT, hook OUTPUT, priority 0, rule 1: the connection hangs"
        ]
        pair.pod.run(["iptables", "-D", "OUTPUT", *drop])
    assert pair.pod.client(uid=1000).connect(ELSEWHERE, 80).label == "15001"


def test_what_comes_in_by_an_interface_that_is_down_does_not_arrive(pair: PodPair) -> None:
    inbound = ("tcp", f"{pair.pod.ipv4}:8080", "--in", "eth0")
    run_program(pair.pod, "capture", "apply")
    assert trace(pair, *inbound)["impediments"] == []

    pair.pod.ip("link set eth0 down")

    assert "\nbut the interface eth0 is down" in run_program(pair.pod, "capture", "trace", *inbound).stdout
    assert pair.peer.client().connect(pair.pod.ipv4, 8080, timeout=0.1).label == ""


@pytest.mark.parametrize("blocked", ["ipproto tcp dport 80", "ipproto udp", "uidrange 1000-1000"])
def test_policy_rules_by_protocol_port_and_user(pair: PodPair, blocked: str) -> None:
    run_program(pair.pod, "capture", "apply")
    for family in ("-4", "-6"):
        pair.pod.run(["ip", family, "rule", "add", *blocked.split(), "prohibit"])

    blocked_packets = [
        (protocol, port, uid)
        for protocol, port, uid in [("tcp", 80, 1000), ("tcp", 81, 1000), ("udp", 80, 1001), ("tcp", 80, 1001)]
        if trace(pair, protocol, f"{ELSEWHERE}:{port}", "--uid", str(uid))["outcome"] == "no-route"
    ]

    assert (
        blocked_packets
        == {
            "ipproto tcp dport 80": [("tcp", 80, 1000), ("tcp", 80, 1001)],
            "ipproto udp": [("udp", 80, 1001)],
            "uidrange 1000-1000": [("tcp", 80, 1000), ("tcp", 81, 1000)],
        }[blocked]
    )


def test_trace_takes_user_and_namespace_of_a_process(pair: PodPair) -> None:
    run_program(pair.pod, "capture", "apply")
    process = pair.pod.popen(["sleep", "60"], uid=1337)
    wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")  # setpriv changes the user first

    found = run_program(pair.peer, "capture", "trace", "tcp", f"{ELSEWHERE}:80", "--as-pid", str(process.pid)).stdout

    assert "of user 1337, group 1337" in found
    assert "direct: " in found


def test_without_a_record_there_is_no_reference(pair: PodPair) -> None:
    """As on a node for a pod whose init container kept its record in its own /run."""
    run_program(pair.pod, "capture", "apply", "-x", "10.96.0.0/12")
    with pair.pod.entered():
        record.forget()

    consistent = run_program(pair.pod, "capture", "verify", code=None)
    pair.pod.run(["iptables", "-t", "nat", "-I", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", "RETURN"])
    diverted = run_program(pair.pod, "capture", "verify", code=None)

    assert consistent.returncode == 5
    assert "-p 15001 -z 15006 -u 1337 -g 1337 -e 15008 -d 15090,15021,15020 -x 10.96.0.0/12" in consistent.stdout
    assert diverted.returncode == 4
    assert "proxy-outbound 15001 -> direct" in diverted.stdout


@pytest.mark.parametrize("driver", ["iptables-netlink", "nftables-netlink", "iptables-legacy"])
def test_without_a_record_a_policy_that_drops_is_drift(pair: PodPair, driver: str) -> None:
    with pair.pod.entered():
        operations.apply(settings({}, DRIVERS[driver]))
        record.forget()
    variant = "iptables-legacy" if driver == "iptables-legacy" else "iptables-nft"

    pair.pod.run([variant, "-t", "raw", "-P", "PREROUTING", "DROP"])
    dropped = run_program(pair.pod, "capture", "verify", code=None)
    pair.pod.run([variant, "-t", "raw", "-P", "PREROUTING", "ACCEPT"])
    accepted = run_program(pair.pod, "capture", "verify", code=None)

    assert dropped.returncode == 4
    assert "proxy-inbound 15006 -> dropped" in dropped.stdout
    assert accepted.returncode == 5


def test_nothing_applied_is_one_line(netns: NamespaceFactory) -> None:
    namespace = netns()
    done = run_program(namespace, "capture", "verify", "-p", "15001", code=None)

    assert done.returncode == 4
    assert done.stdout == "nothing is applied here: the namespace has no rules of the capture\n"
    assert "\n  Recreate the pod, so that istio-init or the CNI plugin captures it" in done.stderr
    assert run_program(namespace, "capture", "explain").stdout.startswith(done.stdout)
