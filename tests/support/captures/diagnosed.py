"""Pods that are diagnosed: settings by flags, what ``why`` concludes, and whether the other verbs agree."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING
from unittest.mock import patch

from capture import operations
from capture.analysis.explanation import Statement, statements_about
from capture.analysis.judgement import judge
from capture.analysis.trace import trace_whole_path
from capture.backends.iptables.render import shown_rule
from capture.cli.doctor.examination import pod_findings as doctor_findings
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.operations import diagnosis
from capture.settings import options as option
from capture.settings.settings import ExplicitValue, Settings
from pytest_netns import Pod, PodPair

if TYPE_CHECKING:
    from typing import Any

    from capture.model.ruleset import ProtocolName
    from capture.operations.diagnosis import Diagnosis
    from capture.operations.results import Verified


ELSEWHERE, ELSEWHERE6 = "203.0.113.9", "2001:db8::9"
APP_PORT = 8080
NATIVE = "nft %s inet istio-proxy-nat"
DNS = "--redirect-dns --capture-all-dns"
BEFORE = "nft 'add table ip x; add chain ip x c { type %s hook output priority %s; }; add rule ip x c tcp dport 80 %s'"


@dataclass(frozen=True)
class BrokenPod:
    """The one cause that is named, the capture's options, what breaks the pod, the connection, and the proxy."""

    kind: str
    options: str = ""
    breaks: str = ""
    goes: str = "out"
    uid: int = 1000
    gid: int = 1000
    backend: str = "nftables"
    proxy_uid: int | None = 1337
    addresses: tuple[str, ...] = ("0.0.0.0", "::")
    ports: tuple[int, ...] = (15001, 15006)
    transparent: bool = False
    has_traffic: bool = True
    """Whether traffic shows it: a proxy that is captured again answers; the route of TPROXY is for answers alone."""
    is_of_pod: bool = False
    """Whether it is the one cause of the whole pod, too."""
    message: str = ""
    where: str = ""
    behind: str = ""
    """The kind of a second cause, which shows once the first one is mended."""


def given(text: str) -> Settings:
    """Return settings by the names of flags."""
    flags = {f"-{each.short}": each for each in option.OPTIONS if each.short} | {
        each.name: each for each in option.OPTIONS
    }
    found: dict[Any, ExplicitValue] = {}
    words = shlex.split(text)
    while words:
        each = flags[words.pop(0)]
        value = words.pop(0) if words and not words[0].startswith("-") else "true"
        found[each] = ExplicitValue(value, "test")
    return Settings(found)


def packet(situation: BrokenPod, pair: PodPair) -> Packet:
    pod, peer = pair
    goes = situation.goes
    if goes.startswith("in"):
        to, source = map(parse_address, (pod.ipv6, peer.ipv6) if goes == "in6" else (pod.ipv4, peer.ipv4))
        return Packet("tcp", to, APP_PORT, source=source, source_port=45000, in_interface="eth0")
    port = {"dns": 53, "udp": 4433}.get(goes, 80)
    destination = parse_address(ELSEWHERE6 if goes == "out6" else ELSEWHERE)
    protocol: ProtocolName = "udp" if goes in ("dns", "udp") else "tcp"
    return Packet(protocol, destination, port, uid=situation.uid, gid=situation.gid)


def reached(situation: BrokenPod, pair: PodPair) -> str:
    """Return who answers."""
    pod, peer = pair
    sent = packet(situation, pair)
    if situation.goes.startswith("in"):
        return peer.client().connect(pod.ipv6 if situation.goes == "in6" else pod.ipv4, APP_PORT, timeout=0.3).label
    destination = ELSEWHERE6 if situation.goes == "out6" else ELSEWHERE
    client = pod.client(uid=situation.uid, gid=situation.gid)
    return client.connect(destination, sent.port, sent.protocol, timeout=0.3).label


def why(pod: Pod, sent: Packet | None = None) -> Diagnosis:
    with pod.entered():
        return diagnosis.why(sent)


TO_RUN = re.compile(r"(?:\b[Rr]un|that runs:|Set it up:|remove it:) `((?:capture|ip|nft|nsenter|sysctl)[^`]*)`")


def assert_the_verbs_agree(pod: Pod) -> tuple[Verified, Diagnosis]:
    """Return what verify and why conclude of one namespace; fail if dump and doctor, or these, are not compatible.

    Each reads for itself; of the same rules the judgement, a pure function, is the same.
    """
    with pod.entered(), patch("capture.analysis.judgement.judge", cache(judge)):
        verified, dumped, pod_findings = operations.verify(), operations.dump().verified, diagnosis.why()
    assert (dumped.conclusion if dumped else "no reference") in (verified.conclusion, "no reference")
    assert bool(pod_findings.causes) or verified.conclusion not in ("drift", "nothing applied")
    assert not any(may_be_spared(pod, each.effect.packet) for each in verified.obstacles if each.effect)
    assert pod_findings.verdict != "captured" or (verified.is_judged and is_captured_by_explain(pod))
    assert any(each.state == "ok" for each in doctor_findings(pod_findings)) is (pod_findings.verdict == "captured")
    return verified, pod_findings


def explained(pod: Pod) -> list[Statement]:
    with pod.entered():
        situation = operations.situation_of()
        return statements_about(dict.fromkeys(situation.ruleset.families, situation), shown_rule)


def may_be_spared(pod: Pod, sent: Packet) -> bool:
    """Return whether `trace` says of a packet that a rule that cannot be judged may accept it."""
    with pod.entered():
        return trace_whole_path(sent, operations.situation_of()).may_be_spared


def is_captured_by_explain(pod: Pod) -> bool:
    """Return whether `explain` has a line of connections to the proxy that are not all over lo."""
    fates = [each.fate for each in explained(pod) if "over lo" not in each.traffic]
    return any(fate is not None and fate.port is not None for fate in fates)


def counted(pod: Pod) -> dict[str, int]:
    """Return how many packets each rule of nat has let pass."""
    found = {}
    for line in pod.run(["iptables-save", "-c", "-t", "nat"]).stdout.splitlines():
        counters, _, rule = line.partition(" -A ")
        if rule.endswith((" RETURN", " ACCEPT")):
            found[rule.partition(" ")[2]] = int(counters[1:].partition(":")[0])
    return found
