"""The seed's pods on a real node: kubelet, containerd and a real Envoy, injected by command and by namespace."""

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_netns import require
from support.cluster import builds
from support.cluster.node import KubernetesNode
from support.cluster.pods import PYTHON, ROOT, VOLUMES, container
from support.processes.waiting import wait_until
from support.runtimes.oci_image import write_archive
from support.traffic.envoy_proxy import envoy_program

pytestmark = pytest.mark.timeout(600)

BUNDLE = ROOT / "dist" / "bundle"
INIT_IMAGE, ENVOY_IMAGE = "capture.test/istio-init:1", "capture.test/envoy:1"
IMAGES = ("--init-image", INIT_IMAGE, "--image", ENVOY_IMAGE)
CAPTURE = str(Path(sys.executable).with_name("capture"))
VIP = "10.96.94.35"
READY = "--timeout=150s"


class Node(KubernetesNode):
    """A node whose API server takes mutating policies."""

    def _daemon(self, name: str) -> list[str]:
        gates = (
            "--feature-gates=MutatingAdmissionPolicy=true",
            "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        )
        return [*super()._daemon(name), *(gates if name == "kube-apiserver" else ())]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """The node, with both images, and three endpoints that run."""
    for name in (*builds.PROGRAMS, "etcd", "catatonit", "ctr", "curl"):
        require(builds.find(name), f"the program {name} is missing: `make test-cluster` installs or builds it")
    require(BUNDLE.exists(), "dist/bundle is missing: `make bundle`")
    node = Node(tmp_path_factory.mktemp("node"))
    try:
        node.start()
        for name, layer, settings in (
            (INIT_IMAGE, _bundle(), {"Entrypoint": ["/usr/libexec/istio-capture/istio-init"]}),
            (ENVOY_IMAGE, _envoy(), {"Env": ["PATH=/usr/local/bin"]}),
        ):
            archive = node.disk / "image-to-load.tar"
            write_archive(archive, name, layer, {**settings})
            node.load_image(archive)
        for name in ("one", "two", "three"):
            node.apply(pod_of(name, [app(name)]))
        node.kubectl("wait", "pod", "one", "two", "three", "--for=condition=Ready", READY)
        yield node
    finally:
        node.stop()
        shutil.rmtree(node.disk, ignore_errors=True)


def _bundle() -> bytes:
    return _layer({"usr/libexec/istio-capture": BUNDLE})


def _envoy() -> bytes:
    program = envoy_program()
    printed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", printed)
    return _layer({"usr/local/bin/envoy": Path(program), **{path[1:]: Path(path).resolve() for path in libraries}})


def _layer(files: dict[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name, path in files.items():
            layer.add(path, arcname=name)
    return buffer.getvalue()


def app(name: str, command: list[str] | None = None) -> dict[str, Any]:
    return container(name, command or [PYTHON, f"{ROOT}/tests/support/traffic/http_app.py", name, "8080"])


def pod_of(name: str, containers: list[dict[str, Any]], **spec: Any) -> dict[str, Any]:
    inner = {"containers": containers, "volumes": VOLUMES, "terminationGracePeriodSeconds": 1, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": inner}


def workload(kind: str, name: str, pod: dict[str, Any], **spec: Any) -> dict[str, Any]:
    group = {"ReplicationController": "v1", "Job": "batch/v1", "CronJob": "batch/v1"}.get(kind, "apps/v1")
    template = {"metadata": {"labels": {"app": name}}, "spec": pod["spec"]}
    return {
        "apiVersion": group, "kind": kind, "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"template": template, **spec},
    }  # fmt: skip


def selecting(name: str) -> dict[str, Any]:
    return {"selector": {"matchLabels": {"app": name}}}


def endpoints(node: Node, *names: str) -> str:
    """Return a service whose address never answers, with these pods behind it."""
    addresses = [node.get("pod", name)["status"]["podIP"] for name in names]
    return f"""
kind: Service
metadata: {{name: details, namespace: default}}
spec: {{clusterIPs: [{VIP}], ports: [{{name: http, port: 9080}}]}}
---
kind: EndpointSlice
metadata: {{name: details-1, namespace: default, labels: {{kubernetes.io/service-name: details}}}}
ports: [{{name: http, port: 8080}}]
endpoints: {json.dumps([{"addresses": [address]} for address in addresses])}
---
kind: DestinationRule
metadata: {{name: details}}
spec: {{host: details, trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}}}
"""


def files(node: Node, **texts: str) -> list[str]:
    """Write mesh files and return the options that name them."""
    options = []
    for name, text in texts.items():
        path = node.disk / f"{name}.yaml"
        path.write_text(text)
        options += ["--mesh-file", str(path)]
    return options


def inject(plain: dict[str, Any], *options: str) -> str:
    """Return a manifest after `capture inject -f -`."""
    command = [CAPTURE, "inject", "-f", "-", *IMAGES, *options]
    done = subprocess.run(command, input=yaml.safe_dump(plain), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def answers(node: Node, target: str, calls: int = 6, namespace: str = "default") -> set[str]:
    """Return which endpoints answer calls of the service, from an application that is captured."""
    loop = f"for i in $(seq {calls}); do curl -sS -m8 -H host:details:9080 http://{VIP}:9080/; echo; done"
    shown = node.kubectl("-n", namespace, "exec", target, "-c", "nginx", "--", "/usr/bin/sh", "-c", loop)
    return {json.loads(line)["label"] for line in shown.splitlines() if line.startswith("{")}


def log(node: Node, target: str, expected: int = 6) -> list[str]:
    """Return the access log of a pod's sidecar, when it has so many lines, or after a while."""
    lines: list[str] = []
    for _ in range(40):
        lines = [line for line in node.kubectl("logs", target, "-c", "istio-proxy").splitlines() if "outbound|" in line]
        if len(lines) >= expected:
            break
        time.sleep(0.3)
    return lines


FILE_3 = "mesh: |-\n  accessLogFile: /dev/stdout\n"
FILE_4 = """apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {namespace: default, name: mesh-default}
spec:
  selector: {matchLabels: {app: nginx-deployment}}
  accessLogging: [{providers: [{name: envoy}]}]
"""
ALL = {"one", "two", "three"}


def deployment() -> dict[str, Any]:
    name = "nginx-deployment"
    return workload(
        "Deployment", name, pod_of(name, [app("nginx")]), replicas=1, strategy={"type": "Recreate"}, **selecting(name)
    )


def roll_out(node: Node, manifest: str) -> None:
    node.kubectl("apply", "-f", "-", stdin=manifest)
    node.kubectl("rollout", "status", "deployment/nginx-deployment", READY, timeout=200)


def test_the_seeds_deployment_balances_and_logs_as_the_mesh_says(node: Node) -> None:
    details = endpoints(node, "one", "two", "three")
    roll_out(node, inject(deployment(), *files(node, details=details, mesh=FILE_3)))
    target = "deploy/nginx-deployment"

    assert answers(node, target) == ALL
    assert len([line for line in log(node, target) if "details.default.svc.cluster.local " in line]) == 6
    pid = node.run(["pgrep", "-f", "http_app.py nginx"]).split()[0]
    table = node.run([BUNDLE / "capture", "dump", "--pid", pid, "--family", "ipv4", "--table", "nat"])
    chains = re.findall(r"^Chain (\S+)", table, re.MULTILINE)
    assert chains[4:] == ["ISTIO-INBOUND", "ISTIO-IN-REDIRECT", "ISTIO-OUTPUT", "ISTIO-REDIRECT"]

    roll_out(node, inject(deployment(), *files(node, details=details)))
    assert answers(node, target) == ALL
    assert log(node, target, expected=0) == []

    roll_out(node, inject(deployment(), *files(node, details=details, telemetry=FILE_4)))
    assert answers(node, target) == ALL
    assert len(log(node, target)) == 6


KINDS = ("Pod", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController")


def test_a_workload_of_each_kind_starts_and_jobs_end(node: Node) -> None:
    mesh = files(node, details=endpoints(node, "one", "two", "three"))
    for kind in KINDS:
        name = f"kind-{kind.lower()}"
        pod = pod_of(name, [app("nginx")])
        selector = {"selector": {"app": name}} if kind == "ReplicationController" else selecting(name)
        plain = pod if kind == "Pod" else workload(kind, name, pod, **selector)
        node.kubectl("apply", "-f", "-", stdin=inject(plain, *mesh))
        node.kubectl("wait", "pod", "-l", f"app={name}", "--for=create", "--timeout=60s")
        node.kubectl("wait", "pod", "-l", f"app={name}", "--for=condition=Ready", READY, timeout=200)
        (running,) = node.get("pod", "-l", f"app={name}")["items"]
        assert answers(node, running["metadata"]["name"]) == ALL, kind
        node.kubectl("delete", "-f", "-", "--wait=false", stdin=inject(plain, *mesh))
    call = app("nginx", ["/usr/bin/curl", "-sSf", "-m8", "-H", "host:details:9080", f"http://{VIP}:9080/"])
    job = pod_of("job", [call], restartPolicy="Never")
    node.kubectl("apply", "-f", "-", stdin=inject(workload("Job", "job", job, backoffLimit=0), *mesh))
    schedule = {
        "schedule": "0 0 1 1 *",
        "jobTemplate": {"spec": {"template": {"spec": job["spec"]}, "backoffLimit": 0}},
    }
    cron = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cron"}, "spec": schedule}
    node.kubectl("apply", "-f", "-", stdin=inject(cron, *mesh))
    node.kubectl("create", "job", "--from=cronjob/cron", "from-cron")
    for name in ("job", "from-cron"):
        node.kubectl("wait", f"job/{name}", "--for=condition=complete", READY, timeout=200)


def test_endpoints_change_while_the_sidecar_runs(node: Node) -> None:
    """They come from a ConfigMap, which kubelet updates and Envoy watches."""
    node.disk.joinpath("eds").mkdir(exist_ok=True)
    bootstrap = render_endpoints(node, "one", "two")
    fragment = node.disk / "fragment.yaml"
    mount = {"name": "endpoints", "mountPath": "/etc/endpoints"}
    proxy = {
        "name": "istio-proxy", "image": ENVOY_IMAGE, "volumeMounts": [mount],
        "command": ["envoy", "--config-yaml", bootstrap, "--disable-hot-restart", "--concurrency", "1"],
        "securityContext": {"runAsUser": 1337, "runAsGroup": 1337},
        "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021}},
    }  # fmt: skip
    volume = {"name": "endpoints", "configMap": {"name": "endpoints"}}
    fragment.write_text(yaml.safe_dump({"containers": [proxy], "volumes": [volume]}))
    node.kubectl("apply", "-f", "-", stdin=inject(pod_of("eds", [app("nginx")]), "--proxy-file", str(fragment)))
    node.kubectl("wait", "pod/eds", "--for=condition=Ready", READY, timeout=200)
    assert answers(node, "eds") == {"one", "two"}

    render_endpoints(node, "two", "three")
    wait_until(lambda: answers(node, "eds") == {"two", "three"}, 120, pause=1)
    assert node.get("pod", "eds")["status"]["initContainerStatuses"][1]["restartCount"] == 0


def render_endpoints(node: Node, *names: str) -> str:
    """Write the endpoints into the ConfigMap and return the bootstrap that reads them."""
    directory, details = node.disk / "eds", node.disk / "eds.yaml"
    details.write_text(endpoints(node, *names))
    command = [CAPTURE, "sidecar", "--filename", str(details), "--endpoints", str(directory), "--compact"]
    done = subprocess.run([*command, "--endpoints-path", "/etc/endpoints"], capture_output=True, text=True, check=True)
    made = node.kubectl(
        "create", "configmap", "endpoints", f"--from-file={directory}", "--dry-run=client", "-o", "yaml"
    )
    node.kubectl("apply", "-f", "-", stdin=made)
    return str(done.stdout).strip()


def test_the_api_server_injects_by_the_namespaces_label(node: Node) -> None:
    mesh = files(node, details=endpoints(node, "one", "two", "three"))
    command = [CAPTURE, "inject", "--policy", "--api-version", "v1beta1", *IMAGES, *mesh]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    node.kubectl("apply", "-f", "-", stdin=made)
    node.kubectl("create", "namespace", "shop")
    node.kubectl("label", "namespace", "shop", "istio-injection=enabled")
    for _ in range(60):
        node.kubectl("-n", "shop", "delete", "pod", "web", "--ignore-not-found", "--wait")
        node.kubectl("-n", "shop", "apply", "-f", "-", stdin=json.dumps(pod_of("web", [app("nginx")])))
        if "istio-proxy" in node.kubectl("-n", "shop", "get", "pod", "web", "-o", "name,yaml", "-o", "yaml"):
            break
        time.sleep(1)
    node.kubectl("-n", "shop", "wait", "pod/web", "--for=condition=Ready", READY, timeout=200)

    assert answers(node, "web", namespace="shop") == ALL


def test_without_the_plugin_a_pod_does_not_start_and_with_it_it_is_captured(node: Node) -> None:
    manifest = inject(
        pod_of("cni", [app("nginx")]), "--cni", *files(node, details=endpoints(node, "one", "two", "three"))
    )
    node.kubectl("apply", "-f", "-", stdin=manifest)
    states = wait_until(lambda: _terminated(node, "cni"), 120, pause=0.5)
    assert states[0]["exitCode"] == 126, states
    node.kubectl("delete", "pod", "cni", "--wait")

    node.run([BUNDLE / "capture", "cni", "install", "--plugin", BUNDLE, "--pod-source", "runtime"])
    time.sleep(2)
    node.kubectl("apply", "-f", "-", stdin=manifest)
    node.kubectl("wait", "pod/cni", "--for=condition=Ready", READY, timeout=200)

    assert answers(node, "cni") == ALL


def _terminated(node: Node, name: str) -> list[dict[str, Any]]:
    """Return how the containers of a pod ended, the one that proves the rules first."""
    statuses = node.get("pod", name)["status"].get("initContainerStatuses", [])
    states = [{**one.get("lastState", {}), **one.get("state", {})} for one in statuses]
    return [state["terminated"] for state in states if "terminated" in state]
