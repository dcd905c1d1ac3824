"""How containers of a pod can get round the capture, as far as the pod's object shows. Pure.

An owner match sees the user and the group of the process that made the socket (xt_owner.c, nft_meta.c: ``fsuid`` and
``fsgid``), so a process that takes over one of them escapes; docs/what-capture-is-not.md has each way, measured.
Istio's own containers run as the proxy's user, and get no warning.
"""

from __future__ import annotations

from capture.model.conventions import PROXY_ID
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER, Proxy
from capture.system.capabilities import ESCAPES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    Contexts = dict[str, dict[str, Any]]

ISTIO_CONTAINERS = (PROXY_CONTAINER, INIT_CONTAINER, "istio-validation", "enable-core-dump")

ALL_CAPABILITIES = "can change the rules, and take over the proxy's user"
CAPABILITY_EFFECTS = ESCAPES | {"ALL": ALL_CAPABILITIES}
"""What a container can do with an added capability."""

OWN_NETWORK_STACKS = {
    "kata": "Kata Containers redirects the pod's interface to a virtual machine (tc), which rules here do not see",
    "gvisor": "gVisor has a network stack of its own, which rules here do not see",
    "runsc": "gVisor has a network stack of its own, which rules here do not see",
}
"""Runtimes whose pods are not captured, by a part of the runtime class's name; only the node knows its meaning."""


def escape_warnings(spec: dict[str, Any], containers: Sequence[dict[str, Any]], proxy: Proxy) -> tuple[str, ...]:
    """Return a warning for each way past the capture that a pod has, by its ``spec`` and all its containers."""
    of_pod = _mapping(spec.get("securityContext"))
    contexts = {container["name"]: _mapping(container.get("securityContext")) for container in containers}
    of_app = {name: context for name, context in contexts.items() if name not in ISTIO_CONTAINERS}
    user, group = proxy.uid or PROXY_ID, proxy.gid or PROXY_ID
    return (
        *_proxy_identity_warnings(of_app, of_pod, "runAsUser", f"user ({user})", user),
        *_proxy_identity_warnings(of_app, of_pod, "runAsGroup", f"group ({group})", group),
        *_set_gid_warnings(of_app, of_pod, group),
        *(warning for name, context in of_app.items() for warning in _privilege_warnings(name, context)),
        *_runtime_warnings(spec.get("runtimeClassName")),
    )


def _proxy_identity_warnings(
    contexts: Contexts, of_pod: dict[str, Any], field: str, id_name: str, number: int
) -> Iterator[str]:
    """Yield which containers run with the user or group of the proxy: what they send is not captured."""
    # A null of a container leaves it to the pod.
    owners = {name: of_pod if context.get(field) is None else context for name, context in contexts.items()}
    names = [name for name, owner in owners.items() if owner.get(field) == number]
    if names:
        yield f"{_who_runs(names)} with the proxy's {id_name}: what is sent from there is not captured"


def _set_gid_warnings(contexts: Contexts, of_pod: dict[str, Any], group: int) -> Iterator[str]:
    """Yield the containers that may make a program that runs with the proxy's group: the pod's volumes have it."""
    names = [name for name, context in contexts.items() if context.get("allowPrivilegeEscalation") is not False]
    if names and group in (of_pod.get("fsGroup"), *_items(of_pod.get("supplementalGroups"))):
        yield (
            f"{_who_runs(names)} with fsGroup or supplementalGroups {group}, the proxy's group: a set-gid program is"
            " not captured; allowPrivilegeEscalation: false forbids it"
        )


def _privilege_warnings(name: str, context: dict[str, Any]) -> Iterator[str]:
    if context.get("privileged") is True:
        yield f"container {name} is privileged: it {ALL_CAPABILITIES}"
        return
    added = _items(_mapping(context.get("capabilities")).get("add"))
    for capability in dict.fromkeys(str(name).upper().removeprefix("CAP_") for name in added):
        if capability in CAPABILITY_EFFECTS:
            yield f"container {name} has the capability {capability}: it {CAPABILITY_EFFECTS[capability]}"


def _runtime_warnings(runtime_class: object) -> Iterator[str]:
    name = runtime_class.lower() if isinstance(runtime_class, str) else ""
    reason = next((reason for part, reason in OWN_NETWORK_STACKS.items() if part in name), "")
    if reason:
        yield f"runtimeClassName {runtime_class}: {reason}: if it is what its name suggests, nothing is captured"


def _who_runs(names: Sequence[str]) -> str:
    return f"container {names[0]} runs" if len(names) == 1 else f"containers {', '.join(names)} run"


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> dict[str, Any]:
    """Return an object of the pod; what is none, or not there, is empty."""
    return value if isinstance(value, dict) else {}
