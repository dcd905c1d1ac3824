"""TPROXY and what decides about marked packets: the kernel's switches, and policy rules of other programs.

A client in another namespace calls the app through a proxy that keeps the client's address; what ``verify`` prints has
to be what happens to the call.
"""

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from capture import operations
from capture.cli.doctor.examination import examine
from capture.errors import CaptureError
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.operations.diagnosis import why
from capture.settings import options as option
from capture.state import sysctls
from pytest_netns import NamespaceFactory, Pod, PodPair
from support.captures.settings import DRIVERS, Texts, settings
from support.traffic.envoy_bootstrap import Sidecar
from support.traffic.envoy_proxy import start_envoy
from support.traffic.proxies import get, start_app
from support.traffic.transparent_proxy import TransparentProxy

APP = 8080
TPROXY: Texts = {option.INTERCEPTION_MODE: "TPROXY", option.BACKEND: "nftables"}
ALL_SVM, ETH_SVM = "ipv4/conf/all/src_valid_mark", "ipv4/conf/eth0/src_valid_mark"
RP_FILTER, ACCEPT_LOCAL = "ipv4/conf/all/rp_filter", "ipv4/conf/all/accept_local"
FWMARK_ACCEPT = "ipv4/tcp_fwmark_accept"

FACTORS: dict[str, tuple[str, ...]] = {
    "src_valid_mark": ("", ALL_SVM, ETH_SVM),
    "rp_filter": ("0", "1", "2"),
    "tcp_fwmark_accept": ("0", "1"),
    "accept_local": ("0", "1"),
    "source routing": ("none", "before", "after"),
    "vpn": ("none", "before"),
    "driver": ("nftables-netlink", "iptables-netlink"),
}


def pairwise(factors: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    """Yield combinations in which any two values of two factors occur together, as few as a greedy choice finds."""
    pairs = {
        ((one, a), (other, b))
        for one, other in itertools.combinations(range(len(factors)), 2)
        for a, b in itertools.product(factors[one], factors[other])
    }
    while pairs:
        best = max(
            itertools.product(*factors),
            key=lambda row: sum(pair in pairs for pair in itertools.combinations(enumerate(row), 2)),
        )
        pairs -= set(itertools.combinations(enumerate(best), 2))
        yield best


EVERY = list(itertools.product(*FACTORS.values()))
SOME = list(pairwise(list(FACTORS.values())))


@pytest.fixture(scope="module")
def factory() -> Iterator[NamespaceFactory]:
    with NamespaceFactory() as namespaces:
        yield namespaces


@pytest.mark.parametrize("row", SOME, ids="-".join)
def test_any_two_conditions_are_handled(factory: NamespaceFactory, row: tuple[str, ...]) -> None:
    expect_delivery(factory, dict(zip(FACTORS, row, strict=True)))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_conditions_together_are_handled(factory: NamespaceFactory) -> None:
    for row in EVERY:
        expect_delivery(factory, dict(zip(FACTORS, row, strict=True)))


def expect_delivery(factory: NamespaceFactory, case: dict[str, str]) -> None:
    """Capture under the conditions of a case: calls arrive, or verify names the family for which they do not."""
    pair = factory.pod_pair()
    pod, peer = pair
    put(pod, {RP_FILTER: case["rp_filter"], ACCEPT_LOCAL: case["accept_local"]})
    put(
        pod,
        {FWMARK_ACCEPT: case["tcp_fwmark_accept"]} | ({case["src_valid_mark"]: "1"} if case["src_valid_mark"] else {}),
    )
    if case["vpn"] == "before":
        route_like_a_vpn(pod)
    if case["source routing"] == "before":
        route_by_source(pair)
    before = switches(pod)
    with pod.entered():
        applied = operations.apply(settings(TPROXY, DRIVERS[case["driver"]]))
    if case["source routing"] == "after":
        route_by_source(pair)

    needs_what_kills = case["vpn"] == "before" and bool(case["src_valid_mark"])
    is_dead = needs_what_kills and not (case["accept_local"] == "1" and case["rp_filter"] != "1")
    assert_arrives(pair, {"ipv4": not is_dead, "ipv6": True})
    with pod.entered():
        verified = operations.verify()
        assert {found.family for found in verified.impediments} == ({"ipv4"} if is_dead else set())
        assert verified.holds is not is_dead
        assert bool(applied.warnings) is is_dead
        operations.clean()
    assert switches(pod) == before
    assert "0x539" not in pod.run(["ip", "rule"]).stdout + pod.run(["ip", "-6", "rule"]).stdout
    pod.close()
    peer.close()


def assert_arrives(pair: PodPair, expected: dict[str, bool]) -> None:
    """Call the app from the peer in each family: it is reached, as from the peer, exactly where expected."""
    pod, peer = pair
    app = pod.listener(("0.0.0.0", APP), ("::", APP), label="app", uid=1000)
    found = {}
    with TransparentProxy(pod) as proxy:
        for family, to, own in (("ipv4", pod.ipv4, peer.ipv4), ("ipv6", pod.ipv6, peer.ipv6)):
            proxy.passed.clear()
            answer = peer.client().connect(to, APP, timeout=5 if expected[family] else 0.4).answer
            found[family] = bool(answer and answer.peer.address == own and proxy.passed)
    app.close()
    assert found == expected


def route_by_source(pair: PodPair) -> None:
    """Route what the pod sends by a table of its own, as Multus' plugin sbr does."""
    pod, peer = pair
    for family, own, gateway in (("-4", pod.ipv4, peer.ipv4), ("-6", pod.ipv6, peer.ipv6)):
        lines = f"rule add from {own} lookup 100\nroute add default via {gateway} table 100\n"
        pod.run(["ip", family, "-batch", "-"], stdin=lines)


def route_like_a_vpn(pod: Pod) -> None:
    """Route what has not the VPN's mark through the VPN, but for the networks of its interfaces, as wg-quick does."""
    lines = (
        "rule add not fwmark 51820 lookup 51820",
        "rule add lookup main suppress_prefixlength 0",
        "route add unreachable default table 51820 metric 4242",
    )
    for family in ("-4", "-6"):
        pod.run(["ip", family, "-batch", "-"], stdin="\n".join(lines) + "\n")


def put(pod: Pod, values: dict[str, str]) -> None:
    with pod.entered():
        for path, value in values.items():
            Path(sysctls.DIRECTORY, path).write_text(value)


def switches(pod: Pod) -> dict[str, str]:
    """Return the switches that we may change."""
    with pod.entered():
        paths = [FWMARK_ACCEPT, *(str(path) for path in Path(sysctls.DIRECTORY).glob("ipv4/conf/*/src_valid_mark"))]
        return {path: Path(sysctls.DIRECTORY, path).read_text() for path in paths}


@pytest.mark.parametrize("driver", FACTORS["driver"])
def test_a_real_envoy_keeps_the_clients_address_under_all_of_them(pod_pair: PodPair, driver: str) -> None:
    pod, peer = pod_pair
    put(pod, {ALL_SVM: "1", ETH_SVM: "1", RP_FILTER: "1", FWMARK_ACCEPT: "1"})
    with pod.entered():
        operations.apply(settings(TPROXY, DRIVERS[driver]))
    route_by_source(pod_pair)
    start_app(pod, APP)
    envoy = start_envoy(pod, Sidecar(transparent=True))
    for to, own in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
        assert get(peer.client(), to, APP).peer.address == own
    assert [flow.side for flow in envoy.flows(2)] == ["inbound", "inbound"]


@pytest.mark.parametrize(
    ("owner", "rp_filter", "accept_local"), list(pairwise([["all", "eth0", "lo"], ["0", "1", "2"], ["0", "1"]]))
)
def test_verify_shows_what_happens_to_calls_when_switches_change_later(
    pod_pair: PodPair, owner: str, rp_filter: str, accept_local: str
) -> None:
    pod, peer = pod_pair
    peer.listener(("0.0.0.0", 80), label="world")
    with pod.entered():
        operations.apply(settings(TPROXY))
        put(pod, {f"ipv4/conf/{owner}/src_valid_mark": "1", ACCEPT_LOCAL: accept_local, RP_FILTER: rp_filter})
        assert_arrives(pod_pair, {"ipv4": operations.verify().holds, "ipv6": True})
        causes = [cause.kind for cause in why(Packet("tcp", parse_address(peer.ipv4), 80, uid=1000, gid=1000)).causes]
        is_answered = pod.client(uid=1337, gid=1337).connect(peer.ipv4, 80, timeout=0.4).label == "world"
        assert is_answered == ("sysctl" not in causes)


def test_verify_knows_connections_that_take_over_marks(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    with pod.entered():
        operations.apply(settings(TPROXY))
        put(pod, {FWMARK_ACCEPT: "1"})
        (found,) = operations.verify().impediments
        assert found.message.startswith("net.ipv4.tcp_fwmark_accept is 1")
        assert_arrives(pod_pair, {"ipv4": False, "ipv6": False})
        packet = Packet("tcp", parse_address(pod.ipv4), APP, in_interface="eth0")
        assert "sysctl" in [cause.kind for cause in why(packet).causes]
        assert any("tcp_fwmark_accept" in finding.message for finding in examine())
        operations.apply(settings(TPROXY))
        assert_arrives(pod_pair, {"ipv4": True, "ipv6": True})


@pytest.mark.parametrize("version", ["4", "6"])
def test_another_default_route_is_replaced_by_the_remedy(pod_pair: PodPair, version: str) -> None:
    pod, _ = pod_pair
    metric = "metric 1024" if version == "6" else ""
    pod.run(["ip", f"-{version}", *f"route add prohibit default table 133 {metric}".split()])
    with pod.entered():
        with pytest.raises(CaptureError, match="File exists: another default route is there") as caught:
            operations.apply(settings(TPROXY))
        pod.run(caught.value.remedy.split("`")[1].split())
        operations.apply(settings(TPROXY))
        assert operations.verify().holds


def test_the_rule_of_upstream_is_taken_over(pod_pair: PodPair) -> None:
    """It has no preference of its own, so that source routing that comes later goes before it."""
    pod, _ = pod_pair
    pod.ip("rule add fwmark 1337 lookup 133", "route add local default dev lo table 133")
    with pod.entered():
        operations.apply(settings(TPROXY))
        assert [line.split(":")[0] for line in pod.run(["ip", "rule"]).stdout.splitlines() if "0x539" in line] == ["0"]
        assert not operations.apply(settings(TPROXY)).changed
        pod.ip("rule del fwmark 1337", "rule add fwmark 1337 lookup 133")
        route_by_source(pod_pair)
        (found,) = operations.verify().impediments
        assert f"from {pod.ipv4}/32 lookup 100" in found.message
        assert_arrives(pod_pair, {"ipv4": False, "ipv6": True})
        assert operations.apply(settings(TPROXY)).changed
        assert operations.verify().holds
    assert_arrives(pod_pair, {"ipv4": True, "ipv6": True})


NOT_FOR_ANSWERS = (
    "oif eth0 lookup main",
    "iif eth0 unreachable",
    "from 192.0.2.0/24 blackhole",
    "ipproto udp lookup main",
    "uidrange 1000-1000 lookup main",
    "lookup main suppress_prefixlength 32",
    "lookup 79",
    "to 10.77.0.2 unreachable",
    "to 127.0.0.0/8 unreachable",
    "not from 10.77.0.0/24 unreachable",
    "not iif lo unreachable",
    "not fwmark 1337 from 10.77.0.2 lookup main",
)


def test_rules_before_our_own_for_other_packets_do_no_harm(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    pod.ip("route add throw default table 79", *(f"rule add pref 0 {each}" for each in NOT_FOR_ANSWERS))
    with pod.entered():
        operations.apply(settings(TPROXY))
        assert operations.verify().holds
        assert_arrives(pod_pair, {"ipv4": True, "ipv6": True})
        for selector in ("iif lo", "not to 10.77.0.0/24", "not from 10.77.0.2 to 192.0.2.1", "to 10.77.0.0/24"):
            rule = f"rule add pref 0 {selector} lookup main"
            pod.ip("rule del fwmark 1337 lookup 133", rule, "rule add pref 0 fwmark 1337 lookup 133")
            assert not operations.verify().holds, selector
            assert_arrives(pod_pair, {"ipv4": selector == "not to 10.77.0.0/24", "ipv6": True})
            pod.ip(rule.replace("add", "del"))


@pytest.mark.parametrize("kind", ["unreachable", "throw"])
def test_a_route_in_our_table_that_leads_elsewhere_is_named(pod_pair: PodPair, kind: str) -> None:
    pod, peer = pod_pair
    with pod.entered():
        operations.apply(settings(TPROXY))
        pod.ip(f"route add {kind} {peer.ipv4} table 133")
        (found,) = operations.verify().impediments
        assert f"the route to {peer.ipv4}/32 in table 133 leads packets" in found.message
    assert_arrives(pod_pair, {"ipv4": False, "ipv6": True})


def test_rules_before_our_own_that_decide_nothing_do_no_harm(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    with pod.entered():
        pod.ip("rule add pref 0 fwmark 77 lookup main", "rule add pref 0 lookup 4711")
        operations.apply(settings(TPROXY))
        pod.ip("rule add pref 0 lookup main")
        assert operations.verify().holds
        assert_arrives(pod_pair, {"ipv4": True, "ipv6": True})
        operations.clean()
        operations.apply(settings(TPROXY))
        assert not operations.verify().holds
    assert_arrives(pod_pair, {"ipv4": False, "ipv6": True})


def test_a_switch_that_another_program_changed_meanwhile_stays(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    put(pod, {ALL_SVM: "1", FWMARK_ACCEPT: "1"})
    with pod.entered():
        operations.apply(settings(TPROXY))
        operations.apply(settings(TPROXY, {option.INBOUND_CAPTURE_PORT: "16006"}))
        put(pod, {FWMARK_ACCEPT: "0"})
        put(pod, {ALL_SVM: "2"})
        operations.apply(settings({option.BACKEND: "nftables"}))
        assert switches(pod)[FWMARK_ACCEPT] == "1\n"
        assert Path(sysctls.DIRECTORY, ALL_SVM).read_text() == "2\n"


def test_where_proc_is_read_only_the_switch_is_named(pod_pair: PodPair) -> None:
    """As in a container: nothing can be set, and every program reports it."""
    pod, _ = pod_pair
    put(pod, {ALL_SVM: "1"})
    read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
    program = f"{sys.executable} -m initcontainer -p 15001 -z 15006 -u 1337 -m TPROXY"
    ran = pod.run(
        ["unshare", "--mount", "sh", "-c", f"{read_only} && exec {program}"],
        cwd=str(Path(__file__).parents[2]),
        env=dict(os.environ),
    )
    assert "warning: net.ipv4.conf.all.src_valid_mark is 1" in ran.stderr
    with pod.entered():
        assert any("src_valid_mark" in finding.message for finding in examine())
        put(pod, {ALL_SVM: "0"})  # what another sets then is not given back
        operations.clean()
        assert Path(sysctls.DIRECTORY, ALL_SVM).read_text() == "0\n"


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_lo_down_is_named(pod_pair: PodPair, mode: str) -> None:
    pod, _ = pod_pair
    chosen = settings({option.INTERCEPTION_MODE: mode})
    with pod.entered():
        operations.apply(chosen)
        pod.ip("link set lo down")
        assert any("lo is down" in found.message for found in operations.verify().impediments)
        assert any("lo is down" in finding.message for finding in examine())
        if mode == "REDIRECT":
            assert any("lo is down" in warning for warning in operations.apply(chosen).warnings)
