"""The plugin and a real kernel: what ADD does to packets, what CHECK sees, what is remembered and forgotten."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.state.directory import STATE_DIRECTORY
from capture.state.record import record_path
from capture.system.netns import namespace_id
from cni import codes, protocol
from cni.conf import ANNOTATIONS_CAPABILITY
from pytest_netns import Kind, NamespaceFactory, Pod, PodPair
from support.cluster.fake_kubernetes import FakeKubernetes, status
from support.processes.private_mounts import OWN_MOUNTS
from support.runtimes.cni_calls import INJECTED, RESULT, call, configuration, error_of
from support.traffic.proxies import listen_as_proxy

BACKENDS = ["nftables", "iptables"]
TRAFFIC = "traffic.sidecar.istio.io/"
FD77 = {"cniVersion": "1.0.0", "ips": [{"address": "10.77.0.2/24"}, {"address": "fd77::2/64"}]}


class Attachment:
    """A pod as a runtime sees it: one container, whose interfaces are added, checked and deleted."""

    def __init__(self, pod: Pod, container_id: str) -> None:
        self.pod = pod
        self.container_id = container_id
        self.added: set[str] = set()

    def __call__(
        self, command: str, stdin: object, interface: str = "eth0", namespace: str | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        if command == "ADD":
            self.added.add(interface)
        return call(
            stdin,
            CNI_COMMAND=command,
            CNI_CONTAINERID=self.container_id,
            CNI_NETNS=self.pod.path if namespace is None else namespace,
            CNI_IFNAME=interface,
            **environ,
        )

    def add(self, annotations: dict[str, str] | None = None, **keys: object) -> dict[str, Any]:
        """Do ADD and return the result."""
        done = self("ADD", configuration(INJECTED if annotations is None else annotations, **keys))
        assert done.returncode == 0, done.stdout
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    @property
    def record(self) -> Path:
        """The record of the pod's namespace."""
        return Path(record_path(self.pod.call(namespace_id)))

    def link(self, interface: str = "eth0") -> Path:
        return Path(STATE_DIRECTORY, "attachments", f"pods:{self.container_id}:{interface}")

    def rules(self) -> str:
        """All rules of the namespace, in both places and families."""
        return self.pod.run(["nft", "list", "ruleset"]).stdout


@pytest.fixture
def attachment(pod_pair: PodPair) -> Iterator[Attachment]:
    """A pod that is about to be added; its state is forgotten after the test."""
    made = Attachment(pod_pair.pod, f"test-{os.getpid()}-{pod_pair.pod.inode}")
    yield made
    for interface in made.added:
        made("DEL", configuration(), interface, namespace="")


# --- ADD -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pod_is_captured_both_ways_in_both_families(attachment: Attachment, pod_pair: PodPair, backend: str) -> None:
    pod, peer = pod_pair
    assert attachment.add(backend=backend) == RESULT  # which has an IPv4 address only: the namespace has both

    listen_as_proxy(pod)
    peer.listener(("0.0.0.0", 80), ("::", 80), label="elsewhere")
    for here, there in ((pod.ipv4, peer.ipv4), (pod.ipv6, peer.ipv6)):
        assert pod.client(1000).connect(there, 80).label == "outbound"
        assert pod.client(1337).connect(there, 80).label == "elsewhere"
        assert peer.client(1000).connect(here, 80).label == "inbound"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_network_of_its_own_and_an_entry_in_the_list_give_one_set_of_rules(
    attachment: Attachment, pod_pair: PodPair, backend: str
) -> None:
    """Multus calls the plugin for a NetworkAttachmentDefinition as it calls one that makes interfaces."""
    pod, peer = pod_pair
    of_multus = configuration(INJECTED, backend=backend, name="istio-cni", cniVersion="0.3.1")
    del of_multus["prevResult"]
    done = attachment("ADD", of_multus, interface="net1")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"cniVersion": "0.3.1"})
    pod.listener(("0.0.0.0", 15001), ("::", 15001), label="outbound", uid=1337)
    for there in (peer.ipv4, peer.ipv6):
        assert pod.client(1000).connect(there, 80).label == "outbound"
    rules = attachment.rules()
    attachment.add(backend=backend)
    assert attachment.rules() == rules
    assert attachment("CHECK", of_multus | {"cniVersion": "0.4.0"}, interface="net1").returncode == 0
    assert attachment("DEL", of_multus, interface="net1").returncode == 0
    assert attachment.record.exists()
    assert attachment("CHECK", configuration(INJECTED, backend=backend)).returncode == 0
    assert attachment("DEL", configuration()).returncode == 0
    assert not attachment.record.exists()


def test_families_of_a_mesh_are_those_of_the_primary_address(netns: NamespaceFactory) -> None:
    """An address may be on the way, by the result, or come from elsewhere, as the namespace shows."""
    cases = [
        (netns.pod("v4", ipv6=None), RESULT, {"ipv4"}),
        (netns.pod("v4 and more to come", ipv6=None), FD77, {"ipv4", "ipv6"}),
        (netns.pod("v6", ipv4=None), {"cniVersion": "1.0.0", "ips": [{"address": "fd77::2/64"}]}, {"ipv4", "ipv6"}),
        (netns.pod("nothing set", ipv4=None), {"cniVersion": "1.0.0"}, {"ipv4", "ipv6"}),
        (netns.pod("nothing yet", ipv4=None, ipv6=None), {"cniVersion": "1.0.0"}, {"ipv4", "ipv6"}),
    ]
    for number, (pod, result, families) in enumerate(cases):
        attachment = Attachment(pod, f"families-{os.getpid()}-{number}")
        attachment.add(prevResult=result, backend="iptables", ip_families="mesh")
        tables = set(pod.run(["nft", "list", "tables"]).stdout.split("\n"))
        found = {family for family, table in (("ipv4", "table ip nat"), ("ipv6", "table ip6 nat")) if table in tables}
        attachment("DEL", configuration(), namespace="")
        assert found == families, pod.name


def test_add_twice_is_add_once(attachment: Attachment, tmp_path: Path) -> None:
    log = tmp_path / "log"
    attachment.add(log_file=str(log))
    rules = attachment.rules()
    attachment.add(log_file=str(log))
    assert attachment.rules() == rules
    assert [json.loads(line)["changed"] for line in log.read_text().splitlines()] == [True, False]


def test_another_interface_of_the_pod_changes_nothing(attachment: Attachment) -> None:
    """Multus calls a chain for each network of a pod, in the same namespace."""
    attachment.add()
    rules = attachment.rules()
    assert attachment("ADD", configuration(INJECTED), "net1").returncode == 0
    assert attachment.rules() == rules
    assert attachment("DEL", configuration(), "net1").returncode == 0
    assert attachment.rules() == rules
    assert attachment.record.exists()
    assert attachment("CHECK", configuration()).returncode == 0


def test_annotations_become_rules(attachment: Attachment, pod_pair: PodPair) -> None:
    pod, peer = pod_pair
    attachment.add(
        INJECTED | {TRAFFIC + "excludeOutboundIPRanges": f"{peer.ipv4}/32", TRAFFIC + "excludeInboundPorts": "9000"}
    )
    pod.listener(("0.0.0.0", 15001), ("::", 15001), label="outbound", uid=1337)
    pod.listener(("0.0.0.0", 9000), label="app")
    peer.listener(("0.0.0.0", 80), ("::", 80), label="elsewhere")
    assert pod.client(1000).connect(peer.ipv4, 80).label == "elsewhere"
    assert pod.client(1000).connect(peer.ipv6, 80).label == "outbound"
    assert peer.client().connect(pod.ipv4, 9000).label == "app"
    assert peer.client().connect(pod.ipv4, 15090).kind == Kind.REFUSED  # the proxy's own, which is not up


def test_the_api_server_knows_the_proxys_user(attachment: Attachment, pod_pair: PodPair, tmp_path: Path) -> None:
    pod, peer = pod_pair
    proxy = {
        "name": "istio-proxy",
        "args": ["proxy", "sidecar"],
        "securityContext": {"runAsUser": 1000670000, "runAsGroup": 1000670000},
    }
    with FakeKubernetes() as server:
        server.pods["shop", "web-0"] = {"metadata": {"annotations": INJECTED}, "spec": {"containers": [proxy]}}
        server.will(status(404))  # not there yet
        (tmp_path / "kubeconfig").write_text(server.kubeconfig())
        attachment.add(kubeconfig=str(tmp_path / "kubeconfig"))
    pod.listener(("0.0.0.0", 15001), label="outbound", uid=1000670000)
    peer.listener(("0.0.0.0", 80), label="elsewhere")
    assert pod.client(1000670000).connect(peer.ipv4, 80).label == "elsewhere"
    assert pod.client(1337).connect(peer.ipv4, 80).label == "outbound"


READ_ONLY_STATE = """
mount -t tmpfs -o ro,mode=700 tmpfs "$0"
exec "$@"
"""


def test_where_nothing_can_be_remembered_the_pod_is_captured_all_the_same(
    attachment: Attachment, tmp_path: Path
) -> None:
    os.makedirs(STATE_DIRECTORY, mode=0o700, exist_ok=True)
    prefix = [*OWN_MOUNTS, "--", "sh", "-ec", READ_ONLY_STATE, STATE_DIRECTORY]
    log = str(tmp_path / "log")
    done = call(configuration(INJECTED, log_file=log), prefix, CNI_NETNS=attachment.pod.path)
    assert (done.returncode, json.loads(done.stdout)) == (0, RESULT)
    assert attachment.rules() != ""
    warning, captured = map(json.loads, Path(log).read_text().splitlines())
    assert (warning["level"], STATE_DIRECTORY in warning["message"]) == ("warn", True)
    assert captured["message"] == "captured"
    assert attachment("CHECK", configuration(INJECTED)).returncode == 0


WIDE_STATE = """
mount -t tmpfs -o mode=755 tmpfs "$0"
exec "$@"
"""


def test_where_others_could_write_what_is_remembered_no_rule_is_written(attachment: Attachment) -> None:
    prefix = [*OWN_MOUNTS, "--", "sh", "-ec", WIDE_STATE, STATE_DIRECTORY]
    done = call(configuration(INJECTED), prefix, CNI_NETNS=attachment.pod.path)
    error = error_of(done)
    assert (error["code"], error["msg"]) == (
        codes.NOT_APPLIED,
        f"state directory {STATE_DIRECTORY}: its mode is 0755; expected 0700",
    )
    assert "chmod 0700" in error["details"]
    assert attachment.rules() == ""
    assert call(configuration(INJECTED), prefix, CNI_COMMAND="DEL", CNI_NETNS=attachment.pod.path).returncode == 0


HOSTILE = [
    "80\n-A OUTPUT -j ACCEPT",
    "80\nCOMMIT\n*nat\n-F\n",
    '80" -j ACCEPT',
    "--flush",
    "-j ACCEPT",
    "80; flush ruleset",
    "80 } }\ndelete table inet istio-proxy-nat",
    "\u0668\u0660",
    "80," * 400_000,
    "*,80",
    "0.0.0.0/0 -j ACCEPT",
]


@pytest.mark.parametrize(
    "name", ["includeInboundPorts", "excludeInboundPorts", "excludeOutboundIPRanges", "excludeInterfaces"]
)
def test_hostile_annotations_change_nothing_in_the_namespace(attachment: Attachment, name: str) -> None:
    for text in HOSTILE:
        done = attachment("ADD", configuration(INJECTED | {TRAFFIC + name: text}))
        error = error_of(done)
        assert error["code"] == codes.VALUE_REFUSED
        assert error["msg"].startswith("pod shop/web-0: ")
        assert TRAFFIC + name in error["msg"]
        assert attachment("DEL", configuration(), namespace="").returncode == 0
    assert attachment.rules() == ""
    assert not attachment.record.exists()


def test_hostile_annotations_leave_the_rules_of_a_captured_pod_alone(attachment: Attachment) -> None:
    attachment.add()
    rules = attachment.rules()
    for text in HOSTILE:
        error_of(attachment("ADD", configuration(INJECTED | {TRAFFIC + "includeInboundPorts": text})))
    assert attachment.rules() == rules


def test_the_namespace_of_the_node_is_refused(attachment: Attachment) -> None:
    """Also where "the node" is itself in a namespace, as in kind: our own and the target are compared."""
    before = attachment.rules()
    done = call(
        configuration(INJECTED), prefix=["nsenter", f"--net={attachment.pod.path}", "--"], CNI_NETNS=attachment.pod.path
    )
    assert error_of(done)["code"] == codes.HOST_NAMESPACE
    assert error_of(call(configuration(INJECTED), CNI_NETNS="/proc/self/ns/net"))["code"] == codes.HOST_NAMESPACE
    assert attachment.rules() == before


@pytest.mark.parametrize("capability", ["sys_admin", "net_admin"])
def test_a_missing_capability_is_named(attachment: Attachment, capability: str) -> None:
    prefix = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", "--"]
    error = error_of(call(configuration(INJECTED), prefix, CNI_NETNS=attachment.pod.path))
    assert error["code"] == codes.CANNOT_CAPTURE
    assert capability.upper() in error["details"]
    error = error_of(call(configuration(INJECTED, cniVersion="1.1.0"), prefix, CNI_COMMAND="STATUS"))
    assert (error["code"], capability.upper() in error["msg"]) == (protocol.NOT_AVAILABLE, True)


@pytest.mark.parametrize("path", ["/proc/self/ns/mnt", "/etc/passwd", "/does/not/exist"])
def test_a_path_of_no_network_namespace_is_refused(path: str) -> None:
    error = error_of(call(configuration(INJECTED), CNI_NETNS=path))
    assert error["code"] == protocol.INVALID_ENVIRONMENT
    assert path in error["msg"]


# --- CHECK -----------------------------------------------------------------------------------------------------

TAMPER = {
    "a foreign rule before our own": "nft insert rule {table} {output} ip daddr 10.9.9.0/24 accept",
    "a rule in our chain": "nft add rule {table} {chain} tcp dport 81 return",
    "our rules flushed": "nft flush chain {table} {chain}",
    "our table gone": "nft delete table {table}",
}
PLACES = {
    "nftables": {"table": "inet istio-proxy-nat", "output": "output", "chain": "ISTIO-OUTPUT"},
    "iptables": {"table": "ip nat", "output": "OUTPUT", "chain": "ISTIO-OUTPUT"},
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_check_does_not_fail_for_what_cannot_be_judged(attachment: Attachment, backend: str, tmp_path: Path) -> None:
    log = tmp_path / "cni.log"
    attachment.add(backend=backend)
    command = "nft insert rule {table} {output} tcp dport 80 numgen random mod 2 0 accept"
    attachment.pod.run(["sh", "-c", command.format(**PLACES[backend])])

    done = attachment("CHECK", configuration(INJECTED, backend=backend, log_file=str(log)))

    assert (done.returncode, done.stdout) == (0, "")
    assert "not judged" in log.read_text()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("command", TAMPER.values(), ids=TAMPER.keys())
def test_check_passes_after_add_and_fails_after_tampering(attachment: Attachment, backend: str, command: str) -> None:
    attachment.add(backend=backend)
    done = attachment("CHECK", configuration(INJECTED, backend=backend))
    assert (done.returncode, done.stdout) == (0, "")

    attachment.pod.run(["sh", "-c", command.format(**PLACES[backend])])
    error = error_of(attachment("CHECK", configuration(INJECTED, backend=backend)))
    assert error["code"] == codes.DRIFT
    where = "nothing is applied here" if "delete table" in command and backend == "nftables" else "IPv4 nat "
    assert error["msg"].startswith(f"the namespace is not as it was left: {where}")
    assert error["details"].count("\n") >= 1
    again = (
        rf"recreate the pod, or run ADD again or `capture apply --recorded --netns {attachment.pod.path}`, to repair\."
    )
    assert re.search(rf"\nRun `capture verify --netns {attachment.pod.path}` for details; {again}$", error["details"])

    if "flush chain" in command:
        expected = (
            r"IPv4 nat ISTIO-OUTPUT: all \d+ rules are missing \(tcp, .*: proxy-outbound 15001 -> direct; witness: "
        )
        assert re.search(f"it was left: {expected}", error["msg"])
        families = 2 if backend == "nftables" else 1
        assert len(error["details"].splitlines()) == families + 1, "a line for each family, and what to do"

    attachment.add(backend=backend)
    if command != TAMPER["a foreign rule before our own"]:  # rules of others stay
        assert attachment("CHECK", configuration(INJECTED, backend=backend)).returncode == 0


def test_check_compares_with_what_was_applied_and_not_with_the_settings_of_now(attachment: Attachment) -> None:
    attachment.add(INJECTED | {TRAFFIC + "excludeInboundPorts": "9000"})
    assert attachment("CHECK", configuration(INJECTED)).returncode == 0
    assert attachment("CHECK", configuration()).returncode == 0


def test_check_without_a_record_reads_the_sources_as_add_does(attachment: Attachment) -> None:
    attachment.add()
    attachment.record.unlink()
    assert attachment("CHECK", configuration(INJECTED)).returncode == 0
    other = configuration(INJECTED | {TRAFFIC + "excludeInboundPorts": "9000"})
    assert error_of(attachment("CHECK", other))["code"] == codes.DRIFT


def test_check_of_a_pod_that_was_left_alone(attachment: Attachment) -> None:
    attachment.add({})
    assert attachment.rules() == ""
    assert attachment("CHECK", configuration({})).returncode == 0


def test_check_of_a_namespace_that_is_gone(attachment: Attachment) -> None:
    error = error_of(attachment("CHECK", configuration(INJECTED), namespace="/does/not/exist"))
    assert error["code"] == protocol.UNKNOWN_CONTAINER


# --- DEL, GC ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", [None, "", "/does/not/exist"])
def test_del_forgets_with_or_without_a_namespace_and_as_often_as_called(
    attachment: Attachment, namespace: str | None
) -> None:
    attachment.add()
    rules = attachment.rules()
    assert attachment.record.exists()
    for _ in range(3):
        done = attachment("DEL", {"cniVersion": "1.0.0", "name": "pods", "type": "capture-cni"}, namespace=namespace)
        assert (done.returncode, done.stdout) == (0, "")
        assert not attachment.record.exists()
        assert not attachment.link().is_symlink()
    assert attachment.rules() == rules  # they end with the namespace: until then traffic stays captured


def test_garbage_is_collected(netns: NamespaceFactory) -> None:
    here, gone = (Attachment(netns.pod(name), f"{name}-{os.getpid()}") for name in ("here", "gone"))
    for attachment in (here, gone):
        attachment.add()
    valid: list[object] = [{"containerID": here.container_id, "ifname": "eth0"}]
    others = [link.name.split(":") for link in here.link().parent.iterdir()]
    valid += [
        {"containerID": container, "ifname": interface}
        for network, container, interface, *_ in others
        if network == "pods" and container not in (here.container_id, gone.container_id)
    ]
    collect = configuration() | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    for _ in range(2):
        done = call(collect, CNI_COMMAND="GC")
        assert (done.returncode, done.stdout) == (0, "")
        assert here.record.exists()
        assert not gone.record.exists()
        assert not gone.link().is_symlink()
    here("DEL", configuration(), namespace="")


# --- STATUS ----------------------------------------------------------------------------------------------------


def ask_status(**keys: object) -> subprocess.CompletedProcess[str]:
    return call(configuration() | {"cniVersion": "1.1.0"} | keys, CNI_COMMAND="STATUS")


CAPABLE = {"capabilities": {ANNOTATIONS_CAPABILITY: True}}


def test_status_is_silent_when_add_would_work() -> None:
    done = ask_status(**CAPABLE)
    assert (done.returncode, done.stdout) == (0, "")


def test_status_says_why_add_would_not_work() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({}, "no source of facts about pods"),
        (CAPABLE | {"backend": "nftables", "driver": "restore"}, "--driver"),
    ]
    for keys, message in cases:
        error = error_of(ask_status(**keys))
        assert error["code"] == protocol.NOT_AVAILABLE
        assert message in error["msg"]


def test_status_depends_on_the_api_server_only_where_all_pods_do(tmp_path: Path) -> None:
    kubeconfig, log = tmp_path / "kubeconfig", tmp_path / "cni.log"
    keys: dict[str, object] = CAPABLE | {"kubeconfig": str(kubeconfig), "log_file": str(log), "log_level": "debug"}
    alone = keys | {"pod_sources": ["kubernetes"]}
    reasons = ["cannot be read"]
    with FakeKubernetes() as server:
        assert ask_status(**keys).returncode == 0
        assert error_of(ask_status(**alone))["code"] == protocol.NOT_AVAILABLE_LIMITED
        kubeconfig.write_text(server.kubeconfig({"token": "t"}))
        assert ask_status(**keys).returncode == ask_status(**alone).returncode == 0
        server.accepts("another")
        reasons.append("does not accept our credentials")
        assert ask_status(**keys).returncode == 0
        assert reasons[-1] in error_of(ask_status(**alone))["msg"]
    reasons.append("Connection refused")
    assert ask_status(**keys).returncode == 0
    error = error_of(ask_status(**alone))
    assert (error["code"], reasons[-1] in error["msg"]) == (protocol.NOT_AVAILABLE_LIMITED, True)
    warnings = [
        entry["message"] for line in log.read_text().splitlines() if (entry := json.loads(line))["level"] == "warn"
    ]
    assert len(warnings) == len(reasons)
    assert all(reason in warning for reason, warning in zip(reasons, warnings, strict=True))
