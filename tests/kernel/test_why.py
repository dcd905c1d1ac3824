"""``capture why`` as a command: decisions of the plugin, records, filters that stop nothing, wrong usage.

``test_why_situations`` has the broken pods and the healthy ones, each with its one cause.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from capture.state import record
from capture.system.netns import namespace_id
from pytest_netns import Pod, PodPair
from support.processes.our_programs import run_program
from support.runtimes.cni_calls import call, configuration

ELSEWHERE = "203.0.113.9"
SETPRIV = ("setpriv", "--inh-caps=-all")
OUT = ("tcp", f"{ELSEWHERE}:80", "--uid", "1000")


def apply(pod: Pod, *arguments: str, backend: str = "nftables") -> None:
    run_program(pod, "capture", "apply", "--backend", backend, *arguments)


def why(pod: Pod, *connection: str) -> dict[str, Any]:
    done = run_program(pod, "capture", "why", *connection, "--format", "json", code=None)
    found: dict[str, Any] = json.loads(done.stdout)
    without_cause = 5 if found["verdict"] == "cannot be told" else 0
    assert done.returncode == (4 if found["causes"] else without_cause), done.stderr
    assert found["schema"] == "capture/v1"
    return found


def kinds(pod: Pod, *connection: str) -> list[str]:
    return [cause["kind"] for cause in why(pod, *connection)["causes"]]


def with_proxy(pair: PodPair, *, addresses: tuple[str, ...] = ("0.0.0.0", "::")) -> Pod:
    """Return a pod with a proxy on both ports, and the outside world behind it."""
    pod, peer = pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), ("::", 80), label="world")
    pod.listener(*((address, port) for address in addresses for port in (15001, 15006)), label="proxy", uid=1337)
    return pod


def test_a_pod_that_the_plugin_left_alone_or_refused(pod_pair: PodPair) -> None:
    pod = with_proxy(pod_pair)
    call(configuration({}), CNI_NETNS=pod.path)
    (cause,) = why(pod, *OUT)["causes"]
    assert cause["kind"] == "left-alone"
    assert cause["says"].startswith("the CNI plugin left pod shop/web-0 alone at 2")
    assert cause["says"].endswith(": it has no container istio-proxy")
    assert "label its namespace for injection" in cause["remedy"]
    call(configuration({}, exclude_namespaces=["shop"]), CNI_NETNS=pod.path)
    assert "exclude_namespaces" in why(pod)["causes"][0]["remedy"]
    call(configuration({"sidecar.istio.io/status": "injected"}), CNI_NETNS=pod.path)
    (cause,) = why(pod)["causes"]
    assert (cause["kind"], "the CNI plugin refused the pod at" in cause["says"]) == ("no-rules", True)
    call(configuration({}), CNI_NETNS="", CNI_COMMAND="DEL")
    assert "the CNI plugin" not in why(pod)["causes"][0]["says"]


def test_without_a_record_the_live_rules_are_the_reference(pod_pair: PodPair) -> None:
    pod = with_proxy(pod_pair)
    pod.listener(*((address, port) for address in ("0.0.0.0", "::") for port in (16001, 16006)), uid=1338)
    apply(pod, "-p", "16001", "-z", "16006", "-u", "1338", "-o", "80", backend="iptables")
    with pod.entered():
        record.forget()
    assert kinds(pod) == []
    apply(pod, "-p", "16001", "-z", "16006", "-u", "1338", backend="iptables")
    with pod.entered():
        path = Path(record.record_path(namespace_id()))
        path.write_text("{")
    for command in (["verify"], ["why"], ["why", *OUT], ["dump"], ["doctor"], ["why", "--format", "json"]):
        done = run_program(pod, "capture", *command, code=None)
        shown = done.stderr if command == ["dump"] else done.stdout
        assert f"the record {path} cannot be used: it is not JSON" in shown
    (note,) = why(pod)["notes"]
    assert (note["kind"], note["says"].count(": ")) == ("no-record", 2)
    assert "Run `capture apply -b '*' -i '*' -p 16001 -z 16006 -u 1338" in note["remedy"]
    assert " --backend iptables --" in note["remedy"] or " --backend iptables`" in note["remedy"]
    for damaged in ("[]", "{}"):
        path.write_text(damaged)
        assert "list indices" not in why(pod)["notes"][0]["says"]
    path.unlink()
    pod.run(["iptables", "-t", "nat", "-D", "OUTPUT", "-p", "tcp", "-j", "ISTIO-OUTPUT"])
    done = run_program(pod, "capture", "why", code=None)
    assert (done.returncode, done.stdout.startswith("cannot be told: whether anything is wrong")) == (5, True)
    assert "a rule may be missing" in done.stdout
    for words in ("iptables -t nat -F OUTPUT", "ip6tables -t nat -F OUTPUT", "iptables -t nat -F PREROUTING"):
        pod.run(words.split())
    best = "these settings fit the live rules best, with 3 differences: -b '*' -i '' -z 16006 -e 15008 -d 15090,"
    assert best in run_program(pod, "capture", "verify", code=None).stdout
    pod.run(["ip6tables", "-t", "nat", "-F", "PREROUTING"])
    (cause,) = why(pod)["causes"]
    assert (cause["kind"], "nothing is captured by the live rules" in cause["says"]) == ("excluded", True)
    assert "the live rules amount to: no capture\n" in run_program(pod, "capture", "verify", code=None).stdout


def test_a_message_names_what_differs_and_the_remedy_the_option(pod_pair: PodPair) -> None:
    pod = with_proxy(pod_pair, addresses=("0.0.0.0",))
    apply(pod)

    (cause,) = why(pod, "tcp", "[2001:db8::9]:80", "--uid", "1000")["causes"]
    assert "takes IPv4 only" in cause["says"]
    (cause,) = why(pod, "tcp", f"{pod.ipv4}:22", "--in", "eth0")["causes"]
    assert (cause["kind"], "--profile current" in cause["remedy"]) == ("excluded", True)


@pytest.mark.parametrize(("qdisc", "place"), [("ingress", "parent ffff:"), ("clsact", "ingress")])
def test_a_filter_that_sends_what_comes_in_to_a_virtual_machine(pod_pair: PodPair, qdisc: str, place: str) -> None:
    """As Kata Containers has it; one that copies what comes in is none."""
    pod, peer = with_proxy(pod_pair), pod_pair.peer
    apply(pod)
    pod.ip("tuntap add dev tap0_kata mode tap", "link set tap0_kata up")
    pod.run(["tc", "qdisc", "add", "dev", "eth0", qdisc])
    words = f"tc filter add dev eth0 {place} protocol all u32 match u8 0 0 action mirred egress"
    pod.run([*words.split(), "mirror", "dev", "tap0_kata"])
    assert kinds(pod) == []
    assert peer.client().connect(pod.ipv4, 8080, timeout=2).label == "proxy"

    pod.run(["tc", "filter", "del", "dev", "eth0", *place.split()])
    pod.run([*words.split(), "redirect", "dev", "tap0_kata"])

    (cause,) = why(pod)["causes"]
    assert (cause["kind"], cause["where"]) == ("ingress-filter", "eth0")
    assert "sends what comes in via eth0 to tap0_kata, before any rule" in cause["says"]
    assert peer.client().connect(pod.ipv4, 8080, timeout=0.3).label == ""


def test_half_a_connection_is_a_usage_error(pod_pair: PodPair) -> None:
    done = run_program(pod_pair.pod, "capture", "why", "tcp", code=None)

    assert done.returncode == 2
    assert "name a protocol and a destination" in done.stderr


def test_a_process_that_may_leave_the_capture_is_noted(pod_pair: PodPair) -> None:
    pod = with_proxy(pod_pair)
    apply(pod)
    own = pod.popen([*SETPRIV, "--bounding-set=-all,+net_raw,+net_admin", "sleep", "60"])
    plain = pod.popen(["sleep", "60"], uid=1000)

    found = why(pod, *OUT[:2], "--as-pid", str(own.pid))
    (note,) = found["notes"]
    assert (note["kind"], found["verdict"]) == ("privileged", "captured")
    assert note["says"].endswith(
        "NET_ADMIN (it can change the rules), NET_RAW (it can send frames past the rules (AF_PACKET))"
    )
    assert why(pod, *OUT[:2], "--as-pid", str(plain.pid))["notes"] == []


@pytest.mark.parametrize(
    "breaks",
    [
        "iptables -P INPUT DROP",
        "iptables-legacy -P INPUT DROP",
        "nft add table inet wall; nft 'add chain inet wall in { type filter hook input priority 0; policy drop; }'",
    ],
)
def test_a_policy_that_drops_what_is_redirected_has_the_command_that_accepts_it(pod_pair: PodPair, breaks: str) -> None:
    pod = with_proxy(pod_pair)
    apply(pod)
    pod.run(["sh", "-ec", breaks])
    dropped = "what goes to port 15001, and the chain's policy is DROP"
    (cause,) = (each for each in why(pod, *OUT)["causes"] if dropped in each["says"])

    pod.run(["sh", "-ec", cause["remedy"].rpartition("For port 15001: `")[2].rstrip("`.")])

    assert all(dropped not in each["says"] for each in why(pod, *OUT)["causes"])
