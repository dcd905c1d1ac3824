"""``why`` about our own rules: those that differ from the applied ones, and what live rules tell without a record."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from capture import operations
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.operations import tracing
from capture.operations.exclusions import uncaptured_cause
from capture.operations.situation import read_situation
from capture.state import record
from pytest_netns import PodPair
from support.captures.agreeing import assert_the_connections_agree
from support.captures.diagnosed import NATIVE, BrokenPod, assert_the_verbs_agree, given, packet, why
from support.traffic.proxies import one_proxy

if TYPE_CHECKING:
    from typing import Any

    from capture.analysis.base_chains import Situation
    from capture.model.ruleset import Ruleset


def test_a_chain_without_rules_is_shown_as_one(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    operations.apply(given("--backend nftables"), pod.path)
    pod.run(shlex.split(f"{NATIVE % 'flush chain'} ISTIO-OUTPUT"))

    message = why(pod).causes[-1].message
    assert "; missing: all rules of ISTIO-OUTPUT, so that outbound connections bypass the proxy, and 9 more" in message

    operations.apply(given("--backend iptables"), pod.path)
    for change, does in (("-E ISTIO-OUTPUT X", "which other rules make up for, and"), ("-F OUTPUT", "so that")):
        pod.run(shlex.split(f"iptables -t nat {change}"))
        assert f"; missing: -p tcp -j ISTIO-OUTPUT, {does}" in why(pod).causes[-1].message


def test_other_rules_make_up_for_one_if_they_do_so_for_all_its_packets(pod_pair: PodPair) -> None:
    """The port of the witness is one that a foreign rule accepts; at all others the connection comes back in."""
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given("--backend iptables"), pod.path)
    for change in ("-I OUTPUT -p tcp --dport 80 -j ACCEPT", "-D ISTIO-OUTPUT 3"):
        pod.run(shlex.split(f"iptables -t nat {change}"))

    sent = Packet("tcp", parse_address(pod.ipv4), 81, uid=1000, gid=1337)
    assert operations.trace(sent, namespace=pod.path).outcome == "proxy-inbound"
    (message,) = (each.message for each in why(pod).causes if "missing:" in each.message)
    assert "missing: -o lo -m owner ! --uid-owner 1337 -j RETURN, so that" in message
    assert "make up for" not in message


@pytest.mark.parametrize(
    ("backend", "breaks", "told"),
    [
        (
            "iptables",
            "iptables -t nat -I ISTIO-OUTPUT -j ISTIO-REDIRECT",
            ": `-j ISTIO-REDIRECT` was not applied",
        ),
        (
            "iptables",
            "iptables -t nat -I ISTIO-OUTPUT -p tcp -j DNAT --to-destination 192.0.2.1:9",
            "a rule that was not applied decides on the connection: -p tcp -j DNAT",
        ),
        (
            "nftables",
            f"{NATIVE % 'insert rule'} ISTIO-OUTPUT limit rate 1/second return",
            "a rule that was not applied decides on the connection: limit rate 1/second",
        ),
    ],
)
def test_no_rule_of_our_own_chains_is_called_foreign(pod_pair: PodPair, backend: str, breaks: str, told: str) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given(f"--backend {backend}"), pod.path)
    pod.run(shlex.split(breaks))

    for sent in (packet(BrokenPod("", goes=goes), pod_pair) for goes in ("in", "out")):
        found = why(pod, sent)
        assert [each.kind for each in (*found.causes, *found.notes)] == ["rule-unexpected"], found
        assert told in found.causes[0].message or sent.in_interface is None
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))


def test_one_diagnosis_is_of_one_state_of_the_kernel(pod_pair: PodPair, monkeypatch: pytest.MonkeyPatch) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    readings: list[Ruleset] = []

    def counted(ruleset: Ruleset, *more: Any) -> Situation:
        readings.append(ruleset)
        return read_situation(ruleset, *more)

    monkeypatch.setattr(tracing, "read_situation", counted)

    for sent in (packet(BrokenPod(""), pod_pair), packet(BrokenPod("", goes="in"), pod_pair), None):
        assert why(pod, sent).causes == ()
        assert len(readings) == 1
        readings.clear()


@pytest.mark.parametrize(
    ("options", "breaks", "cause", "note", "of_inbound"),
    [
        ("-m TPROXY", "ip rule del fwmark 1337", "route-missing", "", "route-missing"),
        ("--backend iptables", "iptables -t nat -D ISTIO-OUTPUT 1", "rule-missing", "", "rule-missing"),
        ("-b ''", "", "", "excluded", "unknown"),
        ("-d 8080", "", "", "", "excluded"),
        ("-k eth0 --backend iptables", "iptables -t nat -D PREROUTING 1", "", "excluded", "unknown"),
        (
            "--backend iptables",
            "iptables -t nat -D ISTIO-INBOUND -p tcp -j ISTIO-IN-REDIRECT",
            "",
            "no-record",
            "unknown",
        ),
        ("-c eth0", "", "excluded", "", "excluded"),
        ("--ip-families ipv4", "", "", "family-not-captured", ""),
        ("--backend nftables", f"{NATIVE % 'flush chain'} prerouting", "", "no-record", "unknown"),
        ("--backend iptables", "iptables -t nat -F", "rule-missing", "", "rule-missing"),
    ],
)
def test_without_a_record_the_live_rules_tell(
    pod_pair: PodPair, options: str, breaks: str, cause: str, note: str, of_inbound: str, request: pytest.FixtureRequest
) -> None:
    pod, _ = pod_pair
    if "TPROXY" in options:
        request.getfixturevalue("in_group_of_proxy")
    one_proxy(pod, transparent="TPROXY" in options)
    with pod.entered():
        operations.apply(given(options))
        record.forget()
    pod.run(["sh", "-ec", breaks or ":"])

    found, inbound = why(pod), why(pod, packet(BrokenPod("", goes="in"), pod_pair))

    assert [each.kind for each in found.causes] == [cause] * bool(cause), found.causes
    assert [each.kind for each in found.notes] == ["no-record", *[note] * bool(note)], found.notes
    if of_inbound == "unknown":
        assert (inbound.verdict, inbound.causes, inbound.notes[0]) == ("cannot be told", (), uncaptured_cause())
    else:
        assert [each.kind for each in inbound.causes] == [of_inbound] * bool(of_inbound), inbound.causes
    assert not found.is_certain
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))
