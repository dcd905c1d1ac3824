"""Pods as Istio's injection makes them for a node with a CNI plugin: a sidecar, no istio-init.

They run the machine's own programs: /usr and this checkout are mounted read-only into an image that holds nothing.
"""

import json
import sys
from pathlib import Path
from typing import Any

from support.cluster.node import IMAGE
from support.traffic.envoy_bootstrap import HEALTH_PORT, Sidecar
from support.traffic.envoy_proxy import envoy_command

ROOT = Path(__file__).resolve().parents[3]
APP_PORT, HOST_PORT = 8080, 18080
LOCKED: dict[str, Any] = {"allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}}
PYTHON = "/usr/bin/python3"
MOUNTS = [{"name": name, "mountPath": path, "readOnly": True} for name, path in (("usr", "/usr"), ("root", str(ROOT)))]
VOLUMES = [{"name": name, "hostPath": {"path": path}} for name, path in (("usr", "/usr"), ("root", str(ROOT)))]


def container(name: str, command: list[str], **more: Any) -> dict[str, Any]:
    """Return a container that runs a program of the machine."""
    made = {"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": command, "volumeMounts": MOUNTS}
    return made | {"securityContext": LOCKED | {"runAsUser": 1000}} | more


PAUSED = container("istio-proxy", ["/pause", "-P"], securityContext=LOCKED | {"runAsUser": 1337})
"""A sidecar that does nothing."""


def proxy(*, transparent: bool = False, uid: int = 1337, dns: bool = False) -> dict[str, Any]:
    """Return the container istio-proxy: a real Envoy."""
    context = LOCKED | {"runAsUser": uid, "runAsGroup": uid}
    if transparent:
        context = {
            "runAsUser": 0, "runAsGroup": 1337, "runAsNonRoot": False, "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        }  # fmt: skip
    command = envoy_command(Sidecar(transparent=transparent, http_ports=(APP_PORT,)))
    if dns:
        program = f"{PYTHON} {ROOT}/tests/support/traffic/dns_answers.py & exec "
        command = ["/usr/bin/sh", "-c", f'{program}"$0" "$@"', *command]
    probe = {"httpGet": {"path": "/healthz/ready", "port": HEALTH_PORT}, "periodSeconds": 1, "failureThreshold": 60}
    return container(
        "istio-proxy",
        command,
        args=["proxy", "sidecar"] if not command else [],
        env=[{"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}] if dns else [],
        readinessProbe=probe,
        securityContext=context,
    )


def pod(
    name: str,
    *,
    mesh: bool = True,
    native: bool = False,
    transparent: bool = False,
    uid: int = 1337,
    dns: bool = False,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    init: list[dict[str, Any]] | None = None,
    command: list[str] | None = None,
    pause_proxy: bool = False,
    **spec: Any,
) -> dict[str, Any]:
    """Return a pod with an application that names its callers, and, in the mesh, a sidecar before it.

    ``pause_proxy`` gives a sidecar that does nothing, for pods that are many.
    """
    port = HOST_PORT if spec.get("hostNetwork") else APP_PORT
    app = container("app", command or [PYTHON, f"{ROOT}/tests/support/traffic/http_app.py", name, str(port)])
    containers, inits, written = [app], list(init or []), dict(annotations or {})
    if mesh:
        sidecar = PAUSED if pause_proxy else proxy(transparent=transparent, uid=uid, dns=dns)
        if native:
            inits.insert(0, sidecar | {"restartPolicy": "Always", "startupProbe": sidecar["readinessProbe"]})
        else:
            containers.append(sidecar)
        if transparent:
            written["sidecar.istio.io/interceptionMode"] = "TPROXY"
        status = {"initContainers": [each["name"] for each in inits], "containers": [] if native else ["istio-proxy"]}
        written.setdefault("sidecar.istio.io/status", json.dumps(status))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "labels": {"app": name} | (labels or {}), "annotations": written,
        },
        "spec": {
            "containers": containers, "initContainers": inits, "volumes": VOLUMES, "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
        } | spec,
    }  # fmt: skip


def service(name: str) -> dict[str, Any]:
    """Return a service for a pod of that name, of as many families as the cluster has."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"app": name},
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"name": "http", "port": APP_PORT}],
        },
    }


def deployment(name: str, replicas: int, **options: Any) -> dict[str, Any]:
    """Return a Deployment of such pods."""
    made = pod(name, **options)
    template = {"metadata": made["metadata"] | {"namespace": None}, "spec": made["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


if __name__ == "__main__":
    json.dump(pod(sys.argv[1]), sys.stdout)
