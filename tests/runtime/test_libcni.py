"""libcni, the library of the specification: the whole life of an attachment, and CHECK, which no runtime sends."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_netns import Namespace, require
from support.runtimes.cni_calls import INJECTED, POD_ARGUMENTS
from support.runtimes.networks import bridge, capture, network
from support.runtimes.node import Node

GO_PATH = "/usr/share/gocode"
"""Where Debian puts the sources of Go libraries."""

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client, built."""
    # The distribution's Go comes with its standard library compiled, which takes others half a minute.
    go = shutil.which("go", path=f"/usr/bin:{os.environ['PATH']}")
    require(go, "the program go is missing")
    require(Path(GO_PATH, "src/github.com/containernetworking/cni").exists(), "golang-github-appc-cni-dev is missing")
    program = tmp_path_factory.mktemp("cni_client") / "cni_client"
    environ = os.environ | {"GO111MODULE": "off", "GOPATH": GO_PATH, "GOFLAGS": ""}
    source = Path(__file__).with_name("cni_client.go")
    subprocess.run([str(go), "build", "-o", program, source], env=environ, check=True, timeout=110)
    return program


@pytest.fixture
def namespace(node: Node) -> Iterator[Namespace]:
    """A namespace with a name in the node, as runtimes make them."""
    name = "libcni"
    node.run(["ip", "netns", "add", name])
    joined = node.namespace(f"/run/netns/{name}")
    joined.ip("link set lo up")  # which runtimes do
    yield joined
    node.run(["ip", "netns", "delete", name])


@pytest.fixture
def call(node: Node, client: Path, namespace: Namespace) -> Iterator[Call]:
    """Calls the client in the node; the attachment is deleted after the test."""

    def call(
        command: str,
        conflist: str,
        path: str = "/run/netns/libcni",
        interface: str = "eth0",
        arguments: str = POD_ARGUMENTS,
        *,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        file = node.write("libcni.conflist", conflist)
        environ = {
            "CNI_PATH": f"{node.directory}/plugins:{node.directory}",
            "CNI_CACHE": str(node.directory / "cache"),
            "CNI_ARGS": arguments,
        }
        return node.run([client, command, file, path, "libcni-1", interface], env=environ, check=check)

    yield call
    call("del", captured(node), "")


def captured(node: Node, version: str = "1.0.0", **keys: object) -> str:
    """Return a network whose pods are captured; the client hands over no annotations, so the configuration does."""
    handed_over = {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": INJECTED}}
    return network("libcni", bridge(node.directory, 7), capture(node.directory, **handed_over, **keys), version=version)


def state_of(node: Node) -> set[str]:
    return {path.name for path in node.outside("/run/istio-capture").glob("**/*") if "libcni" in path.name}


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_the_life_of_an_attachment(node: Node, call: Call, namespace: Namespace, backend: str, version: str) -> None:
    conflist = captured(node, version, backend=backend)
    assert "capture" not in call("validate", conflist).stderr

    result = json.loads(call("add", conflist).stdout)
    assert result["cniVersion"] == version
    assert len(result["ips"]) == 2
    namespace.listener(("0.0.0.0", 15001), ("::", 15001), label="outbound", uid=1337)
    for gateway in (address["gateway"] for address in result["ips"]):
        assert namespace.client(1000).connect(gateway, 80).label == "outbound"

    call("check", conflist)
    table, chain = ("inet istio-proxy-nat", "output") if backend == "nftables" else ("ip nat", "OUTPUT")
    namespace.run(["sh", "-c", f"nft insert rule {table} {chain} ip daddr 10.9.9.0/24 accept"])
    refused = call("check", conflist, check=False)
    assert refused.returncode == 1
    assert "the namespace is not as it was left: IPv4 nat " in refused.stderr
    assert "foreign rule precedes ours and diverts captured traffic" in refused.stderr

    for path in ("/run/netns/libcni", "", "/run/netns/gone", ""):
        call("del", conflist, path)
        assert state_of(node) == set()


def test_the_oldest_version_knows_no_check(node: Node, call: Call) -> None:
    conflist = captured(node, "0.3.1")
    assert json.loads(call("add", conflist).stdout)["cniVersion"] == "0.3.1"
    assert call("check", conflist, check=False).returncode == 1  # libcni's own answer: there is no CHECK yet
    call("del", conflist)


def test_adding_twice_and_a_second_interface(node: Node, call: Call, namespace: Namespace) -> None:
    """What Multus does, and runtimes that try again. Only our plugin is in the chain: the bridge refuses to."""
    result = {"cniVersion": "1.0.0", "ips": [{"address": "10.9.8.7/24"}, {"address": "fd09::7/64"}]}
    handed_over = {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": INJECTED}, "prevResult": result}
    alone = network("libcni", capture(node.directory, **handed_over))
    call("add", alone)
    rules = namespace.run(["nft", "list", "ruleset"]).stdout
    call("add", alone)
    call("add", alone, interface="net1")
    call("del", alone, interface="net1")
    assert namespace.run(["nft", "list", "ruleset"]).stdout == rules
    call("check", alone)


@pytest.mark.parametrize(
    "arguments",
    [
        "K8S_POD_NAME=web-0;K8S_POD_UID=uid;K8S_POD_NAMESPACE=shop;IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=cafe",
        "IgnoreUnknown=1;SOMETHING_ELSE=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
    ],
)
def test_arguments_come_in_any_order(node: Node, call: Call, namespace: Namespace, arguments: str) -> None:
    call("add", captured(node), arguments=arguments)
    assert namespace.run(["nft", "list", "ruleset"]).stdout != ""


@pytest.mark.parametrize("arguments", ["", "IgnoreUnknown=1;K8S_POD_NAME=web-0"])
def test_a_sandbox_that_is_no_pod_of_kubernetes_is_left_alone(
    node: Node, call: Call, namespace: Namespace, arguments: str
) -> None:
    call("add", captured(node), arguments=arguments)
    assert namespace.run(["nft", "list", "ruleset"]).stdout == ""
    call("check", captured(node), arguments=arguments)


def test_a_failed_add_is_taken_back(node: Node, call: Call, namespace: Namespace) -> None:
    bad = INJECTED | {"sidecar.istio.io/interceptionMode": "x"}
    handed_over = {"runtimeConfig": {"io.kubernetes.cri.pod-annotations": bad}}
    conflist = network("libcni", bridge(node.directory, 7), capture(node.directory, **handed_over))
    refused = call("add", conflist, check=False)
    assert refused.returncode == 1
    assert "(annotation sidecar.istio.io/interceptionMode): invalid value 'x': expected REDIRECT" in refused.stderr
    call("del", conflist)
    assert state_of(node) == set()
    assert namespace.run(["nft", "list", "ruleset"]).stdout == ""
