"""``why`` about rules of other programs: which are named, in which order, and what cannot be judged."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from capture import operations
from capture.analysis.foreign_effects import STOPS_DISCOVERY
from capture.cli.doctor.examination import examine
from capture.errors import EXIT_UNKNOWN
from capture.operations import diagnosis
from pytest_netns import Pod, PodPair
from support.captures.agreeing import assert_the_connections_agree
from support.captures.diagnosed import (
    APP_PORT,
    BEFORE,
    ELSEWHERE,
    TO_RUN,
    BrokenPod,
    assert_the_verbs_agree,
    counted,
    explained,
    given,
    packet,
    why,
)
from support.traffic.proxies import one_proxy

if TYPE_CHECKING:
    pass
from support.processes.our_programs import run_program


def test_remedies_of_several_foreign_rules_name_them_in_a_way_that_stays_true(pod_pair: PodPair) -> None:
    """A rule of nft by its handle; of iptables, whose numbers change, one of a chain, by its number in the kernel."""
    pod, peer = pod_pair
    operations.apply(given("--backend iptables"), pod.path)
    one_proxy(pod)
    for rule in ("-t nat -I OUTPUT -p tcp --dport 80 -j ACCEPT", "-t nat -I OUTPUT -p tcp -m multiport --dports 8,9"):
        pod.run(["iptables-nft", *rule.split()])
    for port in (15001, 15006):
        pod.run(["iptables-nft", "-I", "INPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP"])
    in_braces = "; nft 'add rule ip x c tcp dport 81 jump { ip saddr 0.0.0.0/0 redirect; }'"
    pod.run(["sh", "-ec", BEFORE % ("nat", -110, "counter accept") + in_braces])

    commands = [command for each in diagnosis.why(namespace=pod.path).causes for command in TO_RUN.findall(each.remedy)]

    entering = f"nsenter --net={pod.path} "
    assert all(command.startswith(entering) for command in commands)
    with pod.entered():
        assert [each for found in examine(pod.path) for each in TO_RUN.findall(found.remedy)][:3] == commands
    assert [command.removeprefix(entering) for command in commands] == [
        "iptables-nft -t filter -D INPUT 1",
        "iptables-nft -t nat -D OUTPUT 2",
        "nft delete rule ip x c handle 5",
    ]
    for command in commands:
        peer.run(command.split())
    (cause,) = diagnosis.why(namespace=pod.path).causes
    peer.run(TO_RUN.findall(cause.remedy)[0].split())
    assert why(pod).causes == ()


def is_unjudged_by_explain(pod: Pod) -> bool:
    return any(each.fate is None for each in explained(pod))


FILTER = (
    "nft 'add table inet fw; add chain inet fw out { type filter hook output priority %s; }; add rule inet fw out %s'"
)
MAY_ACCEPT = "numgen random mod 2 0 accept; add rule inet fw out oifname lo accept"
UNJUDGED = {
    "may be dropped": FILTER % (-160, "numgen random mod 2 0 drop"),
    "may be accepted before a policy drops it": FILTER % ("0; policy drop", MAY_ACCEPT),
    "may be accepted in a chain before a policy drops it": FILTER
    % (
        "-170; policy drop; }; add chain inet fw a { numgen random mod 2 0 accept; }; add chain inet fw b { jump a",
        "tcp dport 443 jump a; add rule inet fw out jump b; add rule inet fw out oifname lo accept",
    ),
    "may be accepted before a rule drops it": FILTER % (0, f"{MAY_ACCEPT}; add rule inet fw out drop"),
    "a quota": FILTER.replace("; add rule", "; add quota inet fw q over 9 mbytes; add rule")
    % (-160, "oifname eth0 quota name q drop"),
    "few may come in": "iptables -A INPUT -m limit --limit 5/sec -j ACCEPT; iptables -P INPUT DROP",
}


@pytest.mark.parametrize("breaks", UNJUDGED.values(), ids=list(UNJUDGED))
def test_no_verb_calls_a_pod_captured_or_broken_that_cannot_be_judged(pod_pair: PodPair, breaks: str) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    with pod.entered():
        operations.apply(given(""))
    pod.run(["sh", "-ec", breaks])

    for sent in (None, packet(BrokenPod(""), pod_pair)):
        found = why(pod, sent)
        assert (found.verdict, found.causes, {each.kind for each in found.notes}) == (
            "cannot be told",
            (),
            {"unjudged"},
        )
        assert len(set(found.notes)) == len(found.notes)
    assert is_unjudged_by_explain(pod)
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))
    for command in ("verify", "why"):
        done = run_program(pod, "capture", command, code=None)
        assert (done.returncode, "without effect" in done.stdout) == (EXIT_UNKNOWN, False)
    trace = ("trace", "tcp", f"{ELSEWHERE}:80")
    is_spared = json.loads(run_program(pod, "capture", *trace, "--format", "json").stdout)["may_be_spared"]
    *_, verdict = run_program(pod, "capture", *trace).stdout.splitlines()
    assert (", unless a rule marked ? accepts it, which" in verdict) is is_spared is ("-160" not in breaks)
    dumped = run_program(pod, "capture", "dump").stdout
    assert "\n# not judged in full: our rules match the applied configuration; foreign ones" in dumped
    assert json.loads(run_program(pod, "capture", "dump", "--format", "json").stdout)["certain"] is False
    assert "warning unjudged" in run_program(pod, "capture", "doctor").stdout


INPUT = "nft 'table inet x { chain c { type filter hook input priority 0; %s drop; }; }'"


@pytest.mark.parametrize(
    "rule",
    [
        "iptables -A INPUT -p tcp -m limit --limit 3/sec -j ACCEPT",
        "iptables -A INPUT -p tcp --dport 15006 -m connlimit --connlimit-upto 100 -j ACCEPT",
        "iptables -t mangle -A PREROUTING -m socket --transparent -j MARK --set-xmark 0x200/0xffffffff",
        INPUT.replace(" drop", " accept") % "tcp dport 15006 limit rate 9/second",
    ],
)
def test_a_rule_with_which_all_ends_alike_is_no_doubt(pod_pair: PodPair, rule: str) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given("--backend iptables"), pod.path)
    pod.run(["sh", "-ec", rule])

    for sent in (None, *(packet(BrokenPod("", goes=goes), pod_pair) for goes in ("in", "out"))):
        found = why(pod, sent)
        assert (found.verdict, found.causes) == ("captured", ())
        assert "unjudged" not in {each.kind for each in found.notes}
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))


@pytest.mark.parametrize(
    ("goes", "rule"),
    [
        ("in", "-t mangle -A PREROUTING -p tcp -m quota --quota 9 -m comment --comment why -j DROP"),
        (
            "out",
            "-t nat -I OUTPUT -p tcp -m owner --uid-owner 1337 -m comment --comment why -j REDIRECT --to-ports 15001",
        ),
    ],
)
def test_a_foreign_rule_is_quoted_not_told_by_its_comment(pod_pair: PodPair, goes: str, rule: str) -> None:
    pod, _ = pod_pair
    one_proxy(pod)
    operations.apply(given("--backend iptables"), pod.path)
    pod.run(["iptables", *rule.split()])

    found = why(pod, packet(BrokenPod("", goes=goes), pod_pair))

    (message,) = {each.message for each in (*found.causes, *found.notes) if each.kind in ("unjudged", "foreign-rule")}
    assert message.partition(": ")[2].startswith("-"), message


LOST = {
    INPUT % "iif eth0 tcp sport 80": ("out", "drops answers to what the proxy sends on: "),
    INPUT % "tcp dport 15001 tcp flags & psh == psh": ("out", "drops what goes to port 15001: "),
    INPUT.replace("input", "output") % f"tcp sport {APP_PORT}": ("in", "drops answers to what the proxy sends on: "),
    f"iptables -A OUTPUT -o lo -p tcp --sport {APP_PORT} -j DROP": ("in", "drops answers to what the proxy sends on: "),
    INPUT.replace("input", "output") % "tcp sport 15006 ct state established": ("in", "drops answers to captured tr"),
    INPUT.replace("input", "output") % "tcp sport 15006 ct direction reply": (
        "in",
        "drops answers to captured traffic",
    ),
    INPUT % "iif lo ct status dnat tcp dport 15001": ("out", "drops what goes to port 15001: "),
    INPUT % "tcp dport { 15001, 15006 }": ("in", "drops what goes to ports 15001 and 15006: "),
}


@pytest.mark.parametrize("breaks", LOST)
def test_the_pod_is_told_what_its_usual_connections_lose(pod_pair: PodPair, breaks: str) -> None:
    """Not what a packet would lose that no one sends: of a client, for example, that calls from port 80."""
    goes, message = LOST[breaks]
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("::", 80), ("0.0.0.0", 53), label="world")
    pod.listener(("0.0.0.0", APP_PORT), ("::", APP_PORT), label="app", uid=1000)
    one_proxy(pod)
    with pod.entered():
        operations.apply(given(""))
    pod.run(["sh", "-ec", breaks])

    of_pod, of_connection = why(pod), why(pod, packet(BrokenPod("", goes=goes), pod_pair))

    assert [each.where for each in of_pod.causes] == [each.where for each in of_connection.causes]
    assert message in of_pod.causes[0].message
    assert {each.kind for each in (*of_pod.notes, *of_connection.notes)} == set()
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod), ends_listen=True)


KUBE_FIREWALL = (
    "iptables -N KUBE-FIREWALL; iptables -A INPUT -j KUBE-FIREWALL; iptables -A OUTPUT -j KUBE-FIREWALL;"
    " iptables -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP"
)


@pytest.mark.usefixtures("in_group_of_proxy")
@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
def test_a_drop_by_a_mark_is_a_cause_only_where_a_rule_sets_it(pod_pair: PodPair, mode: str) -> None:
    """What kubelet writes: no socket has its mark but that of a program that may set any."""
    pod, _ = pod_pair
    one_proxy(pod, transparent=mode == "TPROXY")
    with pod.entered():
        operations.apply(given(f"-m {mode}"))
        pod.run(["sh", "-ec", KUBE_FIREWALL])
        assert operations.verify().holds
        assert why(pod).verdict == "captured"
        pod.run(["sh", "-ec", "iptables -t mangle -A OUTPUT -p tcp --dport 80 -j MARK --set-xmark 0x8000/0x8000"])
        assert not operations.verify().holds
        assert why(pod).verdict == "broken"


def test_a_foreign_rule_and_a_missing_one_are_causes_of_their_own_for_every_verb(pod_pair: PodPair) -> None:
    pod, _ = pod_pair
    operations.apply(given("--backend iptables"), pod.path)
    pod.run(["sh", "-ec", "iptables -t nat -F OUTPUT; iptables -t nat -A OUTPUT -p tcp --dport 80 -j ACCEPT"])

    found = why(pod, packet(BrokenPod(""), pod_pair))
    with pod.entered():
        verified = operations.verify()

    assert [(each.kind, str(each.where)) for each in found.causes] == [
        ("foreign-rule", "IPv4 nat OUTPUT, rule 1"),
        ("rule-missing", "IPv4 nat OUTPUT, rule 1"),
    ]
    of_ipv4 = [each for each in verified.differences if each.family == "ipv4"]
    assert {each.kind: each.effect and each.effect.regions[0].startswith("tcp, port 80,") for each in of_ipv4} == {
        "missing": False,
        "foreign": True,
    }
    assert not verified.harmless_differences


def test_foreign_rules_are_named_by_family_and_chain_the_heaviest_first(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    one_proxy(pod)
    pod.listener(("::", APP_PORT), label="app", uid=1000)
    operations.apply(given("--backend iptables"), pod.path)
    for command in (
        "ip6tables-nft -t nat -I PREROUTING -p tcp -j ACCEPT",
        "iptables-nft -t nat -I PREROUTING -p tcp --dport 9999 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p tcp --dport 443 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p udp --dport 443 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p tcp --dport 80 -j ACCEPT",
        "iptables-nft -t nat -I OUTPUT -p tcp --dport 8080 -j REDIRECT --to-ports 8081",
    ):
        pod.run(command.split())

    assert peer.client().connect(pod.ipv6, APP_PORT).label == "app"
    found = {(each.kind, str(each.where)): each.message.partition("traffic")[2] for each in why(pod).causes}
    assert found == {
        ("foreign-rule", "IPv4 nat PREROUTING, rule 1"): ": -p tcp -m tcp --dport 9999 -j ACCEPT",
        ("foreign-rule", "IPv6 nat PREROUTING, rule 1"): ": -p tcp -j ACCEPT",
        ("foreign-rule", "IPv4 nat OUTPUT, rule 2"): (
            ": -p tcp -m tcp --dport 80 -j ACCEPT, and 1 more rule of this chain"
        ),
        ("nat-first", "IPv4 nat OUTPUT, rule 1"): (
            ", to another address or port: -p tcp -m tcp --dport 8080 -j REDIRECT --to-ports 8081"
        ),
    }
    assert_the_connections_agree(pod_pair, of_pod=assert_the_verbs_agree(pod))


def test_a_filter_of_neighbour_discovery_is_no_cause_while_neighbours_are_known(pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    one_proxy(pod)
    with pod.entered():
        operations.apply(given(""))
    assert peer.client().connect(pod.ipv6, APP_PORT).label == "proxy"
    pod.run(["ip6tables", "-A", "INPUT", "-p", "icmpv6", "-j", "DROP"])

    assert why(pod).verdict == "captured"
    assert f": {STOPS_DISCOVERY}: -p ipv6-icmp -j DROP" in run_program(pod, "capture", "verify").stdout
    assert peer.client().connect(pod.ipv6, APP_PORT).label == "proxy"

    pod.run(["ip", "-6", "neigh", "flush", "dev", "eth0"])
    assert [cause.kind for cause in why(pod).causes] == ["filtered"]


def test_a_line_of_explain_names_the_rule_that_counts_its_connections(pod_pair: PodPair) -> None:
    """Everything goes out, for four reasons: by a foreign rule, by two of the capture, and for want of a redirect."""
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("0.0.0.0", 81), label="world")
    operations.apply(given("--backend iptables"), pod.path)
    pod.run(["sh", "-ec", "iptables -t nat -F ISTIO-REDIRECT; iptables -t nat -I OUTPUT -p tcp --dport 80 -j ACCEPT"])
    lines = {
        each.traffic.removesuffix(", leaving the pod"): each.why
        for each in explained(pod)
        if each.direction == "outbound" and "ipv4" in each.families and "lo" not in each.traffic
    }
    proxy, accepts = "the proxy itself goes out; anything else would be a loop", "-p tcp -m tcp --dport 80 -j ACCEPT"
    assert lines == {
        "tcp, port 80": f"nat OUTPUT 1: {accepts}",
        "tcp, port other than 80, user 1337": proxy,
        "tcp, port other than 80, user other than 1337, group 1337": proxy,
        "tcp, port other than 80, user other than 1337, group other than 1337": "no rule decides",
        "udp": "no rule decides",
    }
    for uid, gid, port, decides in (
        (1000, 1000, 80, accepts),
        (1337, 1337, 80, accepts),
        (1337, 1000, 81, "-m owner --uid-owner 1337 -j RETURN"),
        (1000, 1337, 81, "-m owner --gid-owner 1337 -j RETURN"),
        (1000, 1000, 81, None),
    ):
        before = counted(pod)
        assert pod.client(uid=uid, gid=gid).connect(ELSEWHERE, port, timeout=1).label == "world"
        assert [rule for rule, packets in counted(pod).items() if packets > before[rule]] == [decides] * bool(decides)
