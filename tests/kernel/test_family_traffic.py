"""Families by traffic: who answers when addresses of a family are there, come later, or are disabled.

pod  eth0 ---- eth0  peer        app 1000 and proxy 1337 in the pod; servers on every address at both ends
"""

import errno
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from capture import operations
from capture.backends.nftables.netlink import NftablesNetlinkDriver
from capture.errors import CaptureError, KernelError
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.model.ruleset import Ruleset
from capture.operations import Verified, diagnosis
from capture.report.verified_text import difference_lines
from capture.settings.options import BACKEND, DUAL_STACK, INTERCEPTION_MODE, IP_FAMILIES, OTHER_FAMILY
from pytest_netns import Kind, Namespace, NamespaceFactory, Pod, PodPair
from support.captures.fake_pod import Texts, explicit
from support.processes.our_programs import run_program

PORT = 80
CAPTURE, ISTIO_INIT = (str(Path(sys.executable).with_name(name)) for name in ("capture", "istio-init"))
REJECTS = ("--ip-families", "ipv4", "--other-family", "reject")
ADDRESS_MISSING = "the address ::6/128 on lo is missing: `ip address add ::6/128 dev lo` adds it"
LATE = {"pod": "2001:db8:7::2", "peer": "2001:db8:7::3"}
ELSEWHERE = {"ipv4": "203.0.113.9", "ipv6": "2001:db8:9::9"}


@pytest.fixture(params=["iptables", "nftables"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serve(pair: PodPair) -> None:
    """Let the peer answer for every address, and pod and proxy on their own."""
    pair.peer.own_every_address()
    pair.peer.listener(("0.0.0.0", PORT), ("::", PORT), label="outside", protocols=("tcp",))
    pair.pod.listener(("0.0.0.0", PORT), ("::", PORT), label="app", protocols=("tcp",), uid=1000)
    for port, label in ((15001, "proxy-outbound"), (15006, "proxy-inbound")):
        pair.pod.listener(("0.0.0.0", port), ("::", port), label=label, protocols=("tcp",), uid=1337)


def outbound(pair: PodPair, family: str) -> str:
    """Return who answers the app when it calls an address elsewhere."""
    return pair.pod.client(uid=1000).connect(ELSEWHERE[family], PORT, timeout=5).label


def inbound(pair: PodPair, address: str) -> str:
    """Return who answers the peer when it calls the pod."""
    return pair.peer.client().connect(address, PORT, timeout=5).label


def apply(namespace: Namespace, texts: Texts, backend: str) -> operations.Applied:
    return operations.apply(explicit({BACKEND: backend, **texts}), namespace.path)


def verify(namespace: Namespace) -> Verified:
    return operations.verify(None, namespace.path)


def give_ipv6(pair: PodPair) -> None:
    """Give both an IPv6 address, and the pod a way out by it, as a router advertisement would."""
    pair.peer.ip(f"address add {LATE['peer']}/64 dev eth0 nodad")
    pair.pod.ip(f"address add {LATE['pod']}/64 dev eth0 nodad", f"route replace default via {LATE['peer']}")


@pytest.fixture
def only_ipv4(netns: NamespaceFactory) -> PodPair:
    pair = netns.pod_pair(ipv6=(None, None))
    serve(pair)
    return pair


def assert_the_verbs_agree_with_traffic(pod: Pod) -> None:
    """Fail if a verb is not of the kernel's opinion: TCP of IPv6 is refused, both ways, but not over lo."""

    def printed(*words: str) -> str:
        return run_program(pod, "capture", *words, code=None).stdout

    elsewhere, own = f"[{ELSEWHERE['ipv6']}]:{PORT}", f"[fd77::2]:{PORT}"
    for way in ((elsewhere,), (own, "--in", "eth0")):
        assert "\ndropped: refused by the rule marked =>" in printed("trace", "tcp", *way)
        assert "family-not-captured: IPv6 is not captured in this pod, and --other" in printed("why", "tcp", *way)
    assert "\ndirect: it bypasses the proxy" in printed("trace", "tcp", own)
    for way in ((elsewhere,), (own, "--in", "eth0"), (own,)):
        assert printed("trace", "tcp", *way, "--from-options", *REJECTS) == printed("trace", "tcp", *way)
    explained = json.loads(printed("explain", "--format", "json"))["ipv6"]
    assert json.loads(printed("explain", "--format", "json", "--from-options", *REJECTS))["ipv6"] == explained
    tcp = {each["traffic"]: each["outcome"] for each in explained if each["direction"] == "outbound"}
    assert tcp == {"tcp, leaving the pod": "dropped", "tcp, over lo": "direct", "udp": "direct"}
    assert "refused: --other-family reject refuses TCP of this family (IPv6 only)" in printed("watch", "--once")
    for part, is_shown in (((), True), (("--family", "ipv6"), True), (("--family", "ipv4"), False)):
        shown = printed("dump", *part)
        assert shown.startswith("# nftables, IPv6, table inet istio-proxy-reject: refuses TCP") is is_shown
    assert json.loads(printed("dump", "--format", "json"))["rejected_families"] == ["ipv6"]


def assert_what_is_rendered_rejects(pod: Pod) -> None:
    """Fail if nft does not take what is printed, or what it makes of it does not reject."""
    text = run_program(pod, "capture", "render", *REJECTS, "--family", "ipv6").stdout
    dry = pod.run([ISTIO_INIT, "--dry-run", *REJECTS]).stdout
    assert dry.endswith(text.partition("\n")[2])
    pod.run(["nft", "-f", "-"], stdin=text)
    assert pod.client(uid=1000).connect(ELSEWHERE["ipv6"], PORT, timeout=5).kind is Kind.REFUSED


def assert_foreign_rules_are_told_from_the_rejecting_one(pod: Pod) -> None:
    """Fail if a foreign rule in the table is taken for the rejecting one."""
    accept, drop = "ip6 daddr 2001:db8:9::9 tcp dport 80 accept", "ip6 daddr 2001:db8:9::6 drop"
    for rule in (accept, drop):
        pod.run(["nft", "insert", "rule", "inet", "istio-proxy-reject", "output", *rule.split()])
    causes = {"tcp [2001:db8:9::9]:80": "family-not-captured", "udp [2001:db8:9::6]:80": "filtered"}
    for sent, kind in ({**causes, "tcp [2001:db8:9::9]:81": "family-not-captured"}).items():
        assert f"\ncause {kind}: " in run_program(pod, "capture", "why", *sent.split(), code=None).stdout
    assert "tcp dport 80 accept\ndirect" in run_program(pod, "capture", "trace", "tcp", "[2001:db8:9::9]:80").stdout
    explained = json.loads(run_program(pod, "capture", "explain", "--format", "json").stdout)["ipv6"]
    reasons = {each["outcome"]: each["why"] for each in explained if "2001:db8:9::9, port 80" in each["traffic"]}
    assert reasons["direct"].endswith("tcp dport 80 accept")


@pytest.mark.parametrize("families", ["both", "mesh"])
def test_link_local_ipv4_with_global_ipv6_is_captured(netns: NamespaceFactory, backend: str, families: str) -> None:
    """As every pod of an EKS cluster of IPv6 has it: 169.254.172.x is the way to IPv4 services."""
    pair = netns.pod_pair(ipv4=("169.254.172.2/22", "169.254.172.3/22"))
    serve(pair)
    apply(pair.pod, {IP_FAMILIES: families}, backend)

    for family in ("ipv4", "ipv6"):
        assert outbound(pair, family) == "proxy-outbound"
    assert inbound(pair, "169.254.172.2") == inbound(pair, "fd77::2") == "proxy-inbound"


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_an_address_that_comes_later_is_captured_under_both(only_ipv4: PodPair, backend: str, mode: str) -> None:
    pod = only_ipv4.pod
    applied = apply(pod, {INTERCEPTION_MODE: mode}, backend)
    assert applied.ruleset.families == ("ipv4", "ipv6")
    assert "::6" not in pod.ip("address show dev lo")
    assert verify(pod).holds

    give_ipv6(only_ipv4)
    assert outbound(only_ipv4, "ipv6") == "proxy-outbound"
    if mode == "REDIRECT":
        assert inbound(only_ipv4, LATE["pod"]) == "proxy-inbound"
    assert list(difference_lines(verify(pod))) == [ADDRESS_MISSING]

    assert apply(pod, {INTERCEPTION_MODE: mode}, backend).changed
    assert "inet6 ::6/128" in pod.ip("address show dev lo")
    assert verify(pod).holds


def test_an_address_that_comes_later_is_a_note_under_mesh(only_ipv4: PodPair, backend: str) -> None:
    pod = only_ipv4.pod
    apply(pod, {IP_FAMILIES: "mesh"}, backend)
    assert [line for line in verify(pod).notes if "fe80::" in line]

    give_ipv6(only_ipv4)
    assert outbound(only_ipv4, "ipv6") == "outside"
    verified = verify(pod)
    assert verified.holds
    assert [line for line in verified.notes if LATE["pod"] in line]


@pytest.mark.parametrize("switch", ["all", "lo"])
def test_where_ipv6_is_disabled_both_families_are_captured_all_the_same(
    netns: NamespaceFactory, backend: str, switch: str
) -> None:
    pair = netns.pod_pair(ipv6=(None, None)) if switch == "all" else netns.pod_pair()
    pair.pod.sysctl(f"net.ipv6.conf.{switch}.disable_ipv6", "1")
    serve(pair) if switch == "lo" else serve_ipv4(pair)

    applied = apply(pair.pod, {DUAL_STACK: "true"}, backend)

    assert applied.ruleset.families == ("ipv4", "ipv6")
    assert outbound(pair, "ipv4") == "proxy-outbound"
    assert verify(pair.pod).holds == (switch == "all")
    if switch == "lo":
        assert pair.pod.client(uid=1000).connect(ELSEWHERE["ipv6"], PORT, timeout=0.3).label == ""
        assert [line for line in applied.warnings if "disable_ipv6" in line]
        pair.pod.sysctl("net.ipv6.conf.lo.disable_ipv6", "0")
        assert list(difference_lines(verify(pair.pod))) == [ADDRESS_MISSING]
        assert apply(pair.pod, {DUAL_STACK: "true"}, backend).changed
    assert verify(pair.pod).holds


def serve_ipv4(pair: PodPair) -> None:
    pair.peer.own_every_address()
    pair.peer.listener(("0.0.0.0", PORT), label="outside", protocols=("tcp",))
    pair.pod.listener(("0.0.0.0", 15001), label="proxy-outbound", protocols=("tcp",), uid=1337)


@pytest.mark.parametrize(("texts", "is_captured"), [({}, False), ({DUAL_STACK: "true"}, True)])
def test_a_dual_stack_pod_in_a_mesh_that_is_or_is_not(
    pod_pair: PodPair, backend: str, texts: Texts, is_captured: object
) -> None:
    serve(pod_pair)
    applied = apply(pod_pair.pod, {IP_FAMILIES: "mesh", **texts}, backend)

    assert (outbound(pod_pair, "ipv6"), inbound(pod_pair, "fd77::2")) == (
        ("proxy-outbound", "proxy-inbound") if is_captured else ("outside", "app")
    )
    assert (outbound(pod_pair, "ipv4"), inbound(pod_pair, "10.77.0.2")) == ("proxy-outbound", "proxy-inbound")
    assert bool(applied.warnings) is not is_captured
    assert verify(pod_pair.pod).holds


REJECT_FAULTS = {
    "add rule inet istio-proxy-reject input tcp dport 1 accept": (
        "is not as it was written: it is switched off, or other rules are in it"
    ),
    "flush chain inet istio-proxy-reject output": "lacks the rule that rejects TCP over IPv6 in chain output",
    "flush table inet istio-proxy-reject": (
        "lacks the rule that rejects TCP over IPv6 in chain input and in chain output"
    ),
    "delete table inet istio-proxy-reject": "is missing: TCP over IPv6 is not rejected",
}


LEAVING = Packet("tcp", parse_address(ELSEWHERE["ipv6"]), PORT + 1, uid=1000)


def test_the_other_family_is_rejected_both_ways_but_not_over_lo(pod_pair: PodPair) -> None:
    """By a table of its own, whatever the backend of the rules: here another one."""
    backend = "iptables"
    serve(pod_pair)
    pod = pod_pair.pod
    texts = {IP_FAMILIES: "ipv4", OTHER_FAMILY: "reject"}
    assert_what_is_rendered_rejects(pod)
    assert apply(pod, texts, backend).changed

    assert pod.client(uid=1000).connect(ELSEWHERE["ipv6"], PORT, timeout=5).kind is Kind.REFUSED
    assert pod_pair.peer.client().connect("fd77::2", PORT, timeout=5).kind is Kind.REFUSED
    assert pod.client(uid=1000).connect("::1", PORT).label == "app"
    assert pod.client(uid=1000).connect("fd77::2", PORT).label == "app"
    assert (outbound(pod_pair, "ipv4"), inbound(pod_pair, "10.77.0.2")) == ("proxy-outbound", "proxy-inbound")

    assert_the_verbs_agree_with_traffic(pod)

    assert not apply(pod, texts, backend).changed
    assert verify(pod).holds
    assert_foreign_rules_are_told_from_the_rejecting_one(pod)
    for breaks, fault in REJECT_FAULTS.items():
        pod.run(["nft", *breaks.split()])
        verified = verify(pod)
        (line,) = difference_lines(verified)
        assert line.startswith(f"table inet istio-proxy-reject {fault}. Run `capture apply --recorded`, or")
        assert verified.notes == ()
        assert operations.dump(pod.path).reject_fault == ("" if "delete" in breaks else fault)
        assert [each.kind for each in diagnosis.why(namespace=pod.path).causes] == ["rule-missing"]
        kinds = [each.kind for each in diagnosis.why(LEAVING, namespace=pod.path).causes]
        assert kinds == [*([] if "add rule" in breaks else ["rule-missing"]), "family-not-captured"]
    assert apply(pod, texts, backend).changed
    assert verify(pod).holds

    assert apply(pod, {IP_FAMILIES: "ipv4"}, backend).changed
    assert outbound(pod_pair, "ipv6") == "outside"
    apply(pod, texts, backend)
    assert operations.clean(pod.path)
    assert "istio-proxy" not in pod.run(["nft", "list", "tables"]).stdout


def test_a_kernel_without_nat_for_ipv6_is_an_error_only_in_a_pod_that_has_ipv6(
    netns: NamespaceFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This kernel has it: the refusal is the one of a kernel that has not."""
    write = NftablesNetlinkDriver.write

    def refuse_ipv6(driver: NftablesNetlinkDriver, desired: Ruleset, *others: Any) -> None:
        if "ipv6" in desired.families:
            raise KernelError("add chain PREROUTING to table ip6 nat", errno.EOPNOTSUPP)
        write(driver, desired, *others)

    monkeypatch.setattr(NftablesNetlinkDriver, "write", refuse_ipv6)
    alone, dual = netns.pod("alone", ipv6=None), netns.pod("dual")

    applied = apply(alone, {}, "nftables")
    assert applied.ruleset.families == ("ipv4",)
    assert "this kernel cannot capture IPv6: only IPv4 is captured" in applied.warnings
    assert verify(alone).holds
    with pytest.raises(CaptureError):
        apply(dual, {}, "nftables")
    assert apply(dual, {IP_FAMILIES: "ipv4"}, "nftables").changed

    alone.ip("address add 2001:db8:7::2/64 dev eth0 nodad")
    assert [line for line in difference_lines(verify(alone)) if "2001:db8:7::2" in line]
