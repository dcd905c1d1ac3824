"""``why`` about the pod: its proxy, queues, links, routes and IPsec policies, and what stops no connection."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from capture import operations
from capture.cli.doctor.examination import examine
from capture.netlink import ipsec
from pytest_netns import PodPair
from support.captures.diagnosed import APP_PORT, ELSEWHERE, BrokenPod, given, packet, reached, why
from support.traffic.proxies import one_proxy

if TYPE_CHECKING:
    pass


def test_a_proxy_that_accepts_nothing_is_noted_while_connections_wait(pod_pair: PodPair) -> None:
    """Its queue is not full yet: the app's connections are made, and no process reads what they send."""
    pod, _ = pod_pair
    operations.apply(given("--backend nftables"), pod.path)
    with pod.entered():
        silent = [
            socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in (15001, 15006)
        ]
    assert why(pod).notes == ()
    outcome = pod.client(1000).connect(ELSEWHERE, 80, timeout=0.3)
    (note,) = why(pod).notes
    for listener in silent:
        listener.close()
    assert outcome.kind.name == "SILENT"
    assert note.message == "the proxy has not accepted 1 connection on tcp port 15001 yet"


@pytest.mark.parametrize("name", ["lo", "eth0"])
def test_a_queue_that_loses_packets_is_named(pod_pair: PodPair, name: str) -> None:
    """As netem of a chaos experiment, which this kernel need not have: no rule sees what is lost."""
    pod, peer = pod_pair
    peer.own_every_address()
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    pod.run(["tc", "qdisc", "add", "dev", name, "root", "blackhole"])
    for sent in (None, packet(BrokenPod("", goes="in"), pod_pair)):
        found = why(pod, sent)
        assert found.verdict == "cannot be told"
        assert f"the queueing discipline blackhole of {name}" in "".join(note.message for note in found.notes)
    client = peer.client() if name == "eth0" else pod.client(uid=1000)
    assert client.connect(pod.ipv4 if name == "eth0" else ELSEWHERE, APP_PORT, timeout=0.3).label != "proxy"


@pytest.mark.parametrize(
    "rule", ["ipproto udp prohibit", "uidrange 0-0 prohibit", "uidrange 0-1336 prohibit", "sport 15001 prohibit"]
)
def test_a_policy_rule_for_others_stops_no_connection_that_comes_in(pod_pair: PodPair, rule: str) -> None:
    pod, peer = pod_pair
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    pod.ip(f"rule add pref 100 {rule}")
    assert why(pod, packet(BrokenPod("", goes="in"), pod_pair)).causes == ()
    assert peer.client().connect(pod.ipv4, APP_PORT, timeout=1).label == "proxy"
    assert rule.startswith("uidrange") or why(pod).causes == ()


def test_a_fault_of_the_pod_that_stops_no_such_connection_is_a_note(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    one_proxy(pod)
    with pod.entered():
        operations.apply(given("-c net7"))
    outbound, inbound = (packet(BrokenPod("", goes=goes), pod_pair) for goes in ("out", "in"))
    for sent in (None, outbound, inbound):
        found = why(pod, sent)
        assert (found.verdict, [note.kind for note in found.notes]) == ("captured", ["interface-missing"]), sent
    assert "interface-missing" in [cause.kind for cause in why(pod, inbound.replace(in_interface="net7")).causes]

    pod.ip("link set lo down")

    found = why(pod, inbound)
    assert (found.verdict, [each.kind for each in found.causes]) == ("broken", ["lo-down"])
    assert reached(BrokenPod("", goes="in"), pod_pair) == "proxy"  # whose call to the app fails
    assert pod.client(1337).connect(pod.ipv4, APP_PORT, source="127.0.0.6", timeout=0.3).label == ""
    direct = why(pod, outbound.replace(uid=1337, gid=1337))
    assert [each.kind for each in direct.causes] == ["proxy-user"]
    assert [each.kind for each in direct.notes] == ["lo-down", "interface-missing"]
    with pod.entered():
        operations.clean()
    assert [cause.kind for cause in why(pod, outbound).causes] == ["no-rules"]


def test_a_link_without_its_other_end_is_a_cause(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    pod.listener(*[(each, port) for each in ("0.0.0.0", "::") for port in (15001, 15006)], label="proxy", uid=1337)
    operations.apply(given(""), pod.path)
    assert why(pod).causes == ()

    peer.ip("link set eth0 down")

    assert peer.client().connect(pod.ipv4, APP_PORT, timeout=0.1).label == ""
    for sent in (None, *(packet(BrokenPod("", goes=goes), pod_pair) for goes in ("out", "in"))):
        (cause,) = why(pod, sent).causes
        assert (cause.kind, cause.where) == ("interface-down", "eth0")
        assert "the other end of the interface eth0 is down or gone" in cause.message


def test_a_pod_whose_ipsec_policies_cannot_be_read_is_not_called_captured(
    pod_pair: PodPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    monkeypatch.setattr(ipsec, "NETLINK_SOCKETS", "/proc/none")

    for sent in (None, packet(BrokenPod(""), pod_pair)):
        found = why(pod, sent)
        assert (found.verdict, found.causes, found.notes[-1].kind) == ("cannot be told", (), "unjudged")


def test_doctor_names_ipsec_policies_also_where_nothing_is_applied(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    pod.ip(
        "xfrm policy add dir out src 10.0.0.0/8 dst 192.0.2.0/24 action block",
        "xfrm policy add dir out src 10.0.0.0/8 dst 198.51.100.0/24 tmpl proto esp mode transport",
        "xfrm policy add dir out src 10.0.0.0/8 dst 203.0.113.0/24",
    )
    with pod.entered():
        found = {each.state: each.message for each in examine() if each.name == "IPsec"}
    packets = "packets, whatever the rules are: 1, such as `src 10.0.0.0/8 dst"
    assert found == {
        "warning": f"policies that drop {packets} 192.0.2.0/24 dir out`",
        "note": f"policies that encrypt {packets} 198.51.100.0/24 dir out`",
    }


AT_POSTROUTING = "chain p { type nat hook postrouting priority 99;"


def test_another_source_of_what_leaves_the_pod_is_a_note(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), label="world")
    one_proxy(pod)
    operations.apply(given(""), pod.path)
    assert pod.client(uid=1337, gid=1337).connect(ELSEWHERE, 80).label == "world"
    pod.run(["nft", f"table ip l {{ {AT_POSTROUTING} oif lo tcp dport 15001 snat to 127.0.0.1:100-200; }}; }}"])
    pod.run(["nft", f"table ip t {{ {AT_POSTROUTING} oif eth0 snat to 10.88.99.9; }}; }}"])

    assert why(pod, packet(BrokenPod("", goes="out6"), pod_pair)).notes == ()  # the rules are for IPv4
    for sent in (None, packet(BrokenPod(""), pod_pair)):
        found = why(pod, sent)
        assert (found.causes, [note.kind for note in found.notes]) == ((), ["source-translated"])
        assert "snat to 10.88.99.9" in found.notes[0].message
    assert pod.client(uid=1337, gid=1337).connect(ELSEWHERE, 80, timeout=0.3).label == ""
