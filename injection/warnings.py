"""Warnings about a captured pod: what is dangerous, or will surprise. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from capture.model.conventions import SIDECAR_PORTS
from capture.settings.config import resolve
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER, Proxy, misspelling_warnings, with_all_dns
from capture.system.pod_host import AnyPod
from cni.escapes import escape_warnings
from injection.plan import InjectionPlan
from injection.pods import RUNS_TO_COMPLETION, Workload, containers_of
from injection.settings import PodSettings
from injection.template import VALIDATION_CONTAINER

INJECTED = (PROXY_CONTAINER, INIT_CONTAINER, VALIDATION_CONTAINER)
PROBE_FIELDS = ("readinessProbe", "livenessProbe", "startupProbe")


def warnings_of(workload: Workload, plan: InjectionPlan) -> tuple[str, ...]:
    """Return the warnings about a pod that is injected by a plan."""
    names = [each["name"] for each in plan.last["containers"]]
    lines = list(dangers(workload, plan.settings))
    if workload.kind in RUNS_TO_COMPLETION and PROXY_CONTAINER in names:
        lines.append("a proxy among the containers keeps a Job from ending; let it be a native sidecar")
    if not plan.settings.is_captured:
        lines.append("interceptionMode NONE: nothing is captured; the proxy has to be addressed")
    else:
        lines += resolve(with_all_dns(plan.settings.checked()), AnyPod())[1]
    return tuple(lines)


def dangers(workload: Workload, settings: PodSettings) -> tuple[str, ...]:
    """Return what of the pod's own containers escapes capture, or is misled by it; and annotations without effect."""
    spec = workload.pod["spec"]
    own = [each for each in containers_of(spec) if each.get("name") not in (None, *INJECTED)]
    escapes = escape_warnings(spec, own, Proxy(uid=settings.uid, gid=settings.gid))
    lines = (line for each in own for line in _container_warnings(each))
    return tuple(dict.fromkeys([*misspelling_warnings(workload.annotations), *escapes, *lines]))


def _container_warnings(container: dict[str, Any]) -> Iterator[str]:
    name = container.get("name")
    for port in container.get("ports") or []:
        if port.get("containerPort") in SIDECAR_PORTS:
            own = f"the proxy's own ({SIDECAR_PORTS.start}-{SIDECAR_PORTS[-1]})"
            yield f"container {name} listens on port {port['containerPort']}, among {own}"
    for probe in PROBE_FIELDS:
        if "tcpSocket" in (container.get(probe) or {}):
            yield (
                f"{probe} of container {name}: tcpSocket always succeeds, because the proxy accepts the connection;"
                " use httpGet, grpc or exec"
            )
