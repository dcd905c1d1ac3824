"""Warnings about a captured pod: what is dangerous, or will surprise. Pure."""

from __future__ import annotations

from capture.settings.config import resolve
from capture.settings.host import AnyPod
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER, misspelt, with_dns_of_all_servers
from injection.pods import RUNS_TO_COMPLETION, containers_of
from injection.template import VALIDATION_CONTAINER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from injection.plan import Plan
    from injection.pods import Workload
    from injection.settings import PodSettings

INJECTED = (PROXY_CONTAINER, INIT_CONTAINER, VALIDATION_CONTAINER)
PROXY_PORTS = range(15000, 15100)
PROBES = ("readinessProbe", "livenessProbe", "startupProbe")
ESCAPES = {
    "NET_ADMIN": "can change the rules",
    "NET_RAW": "can send packets that no rule sees",
    "SETUID": "can become the proxy's user",
    "SYS_ADMIN": "can enter other namespaces",
    "ALL": "can change the rules",
}


def warnings_of(workload: Workload, plan: Plan) -> tuple[str, ...]:
    """Return the warnings about a pod that is injected by a plan."""
    names = [one["name"] for one in plan.last["containers"]]
    lines = list(dangers(workload, plan.settings))
    if workload.kind in RUNS_TO_COMPLETION and PROXY_CONTAINER in names:
        lines.append("a proxy among the containers keeps a Job from ending; let it be a native sidecar")
    if not plan.settings.is_captured:
        lines.append("interceptionMode NONE: nothing is captured; the proxy has to be addressed")
    else:
        lines += resolve(with_dns_of_all_servers(plan.settings.checked()), AnyPod())[1]
    return tuple(lines)


def dangers(workload: Workload, settings: PodSettings) -> tuple[str, ...]:
    """Return what of the pod's own containers escapes capture, or is misled by it; and annotations without effect."""
    spec = workload.pod["spec"]
    own = [one for one in containers_of(spec) if one.get("name") not in INJECTED]
    lines = (line for one in own for line in _of_container(one, spec, settings))
    return tuple(dict.fromkeys([*misspelt(workload.annotations), *lines]))


def _of_container(container: dict[str, Any], spec: dict[str, Any], settings: PodSettings) -> Iterator[str]:
    name = container.get("name")
    of_pod, own = spec.get("securityContext") or {}, container.get("securityContext") or {}
    user, group = own.get("runAsUser"), own.get("runAsGroup")  # a null of a container leaves it to the pod
    if (of_pod.get("runAsUser") if user is None else user) == settings.uid:
        yield f"container {name} runs as the proxy's user {settings.uid}, so what it sends is not captured"
    if (of_pod.get("runAsGroup") if group is None else group) == settings.gid:
        yield f"container {name} runs with the proxy's group {settings.gid}, so what it sends is not captured"
    if own.get("privileged"):
        yield f"container {name} is privileged, and can change the rules"
    for capability in (own.get("capabilities") or {}).get("add") or []:
        what = ESCAPES.get(str(capability).removeprefix("CAP_"))
        if what:
            yield f"container {name} has {capability}, and {what}"
    for port in container.get("ports") or []:
        if port.get("containerPort") in PROXY_PORTS:
            yield f"container {name} listens on port {port['containerPort']}, among the proxy's own (15000-15099)"
    for probe in PROBES:
        if "tcpSocket" in (container.get(probe) or {}):
            yield (
                f"{probe} of container {name}: tcpSocket always succeeds, because the proxy accepts the connection;"
                " use httpGet, grpc or exec"
            )
