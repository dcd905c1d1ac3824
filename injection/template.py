"""What is put into a pod: the sidecar (Envoy, or the user's fragment), and the container before it.

Without a fragment the proxy is a plain Envoy whose whole bootstrap is in its arguments: it needs no ConfigMap and no
image of its own.
"""

from __future__ import annotations

import json
from typing import Any

from capture.cli.input import origin_of, read_input
from capture.errors import EXIT_USAGE, CaptureError
from capture.model.conventions import HEALTH_PORT, METRICS_PORT
from capture.model.values import Value
from capture.settings.config import resolve
from capture.settings.pod import INIT_CONTAINER, PROXY_CONTAINER, with_all_dns
from capture.system.pod_host import AnyPod
from injection.pods import Workload
from injection.settings import BY_ENVIRONMENT, PodSettings
from injection.shape import FRAGMENT_SHAPE, misfits
from sidecar.bootstrap import MeshObjects, read_mesh_objects, render_bootstrap
from sidecar.documents import load_yaml, read_files
from sidecar.fields import Fields
from sidecar.objects import MeshPod

Container = dict[str, Any]

VALIDATION_CONTAINER = "istio-validation"
ENVOY_IMAGE = "envoyproxy/envoy:distroless-v1.40.0"
INIT_IMAGE = "istio-init"
AUTO = "auto"
MAX_ARGUMENT = 128 * 1024
"""The kernel's limit for one argument (MAX_ARG_STRLEN, linux/binfmts.h)."""

READY = {"httpGet": {"path": "/healthz/ready", "port": HEALTH_PORT}}
CONFINED_CONTEXT = {"allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}}


class InjectionError(CaptureError):
    """A pod that cannot be injected, or a file that cannot be used for it."""

    exit_code = EXIT_USAGE


class Fragment(Value):
    """Part of a pod: containers of both lists, and volumes."""

    init_containers: tuple[Container, ...] = ()
    containers: tuple[Container, ...] = ()
    volumes: tuple[dict[str, Any], ...] = ()


class Template(Value):
    """How pods are injected."""

    uses_plugin: bool = False
    is_native: bool = True
    image: str = ENVOY_IMAGE
    init_image: str = INIT_IMAGE
    fragment: Fragment | None = None
    mesh_objects: MeshObjects = MeshObjects()

    def proxy(self, workload: Workload, settings: PodSettings) -> Container:
        if self.fragment is not None:
            return self.proxy_of_fragment()
        return _envoy_container(self.image, _bootstrap_yaml(self.mesh_objects, workload, settings), settings)

    def others(self) -> Fragment:
        """Return what a fragment has in addition to the proxy."""
        if self.fragment is None:
            return Fragment()
        return self.fragment.replace(
            init_containers=tuple(each for each in self.fragment.init_containers if each["name"] != PROXY_CONTAINER),
            containers=tuple(each for each in self.fragment.containers if each["name"] != PROXY_CONTAINER),
        )

    def proxy_of_fragment(self) -> Container:
        """Return the proxy of the fragment; nothing without a fragment."""
        fragment = self.fragment or Fragment()
        containers = (*fragment.init_containers, *fragment.containers)
        return dict(next((each for each in containers if each["name"] == PROXY_CONTAINER), {}))


def read_fragment(name: str) -> Fragment:
    """Return the fragment of a file: the ``spec`` of a pod, or only what it adds to one. It has the proxy in it."""
    loaded = load_yaml(read_input(name), origin_of(name))
    fields = Fields(loaded[0] if loaded else None, origin_of(name))
    if "spec" in fields:
        fields = fields.inner("spec")
    fields.require_known("initContainers", "containers", "volumes")
    misfit = next(misfits(fields.plain(), FRAGMENT_SHAPE), "")
    if misfit:
        raise InjectionError(f"{origin_of(name)}: {misfit}")
    lists = {
        key: [dict(each.plain()) for each in fields.objects(key)] for key in ("initContainers", "containers", "volumes")
    }
    for key, entries in lists.items():
        if any(not isinstance(each.get("name"), str) for each in entries):
            raise fields.error(key, "expected a name in each")
    fragment = Fragment(tuple(lists["initContainers"]), tuple(lists["containers"]), tuple(lists["volumes"]))
    proxies = [each for each in (*fragment.init_containers, *fragment.containers) if each["name"] == PROXY_CONTAINER]
    names = [each["name"] for each in (*fragment.init_containers, *fragment.containers)]
    taken = next(
        (each for each in names if each in (INIT_CONTAINER, VALIDATION_CONTAINER) or names.count(each) > 1), None
    )
    if taken not in (None, PROXY_CONTAINER):
        others = f"neither {INIT_CONTAINER} nor {VALIDATION_CONTAINER}"
        raise InjectionError(f"{origin_of(name)}: the name {taken} is taken: expected each name once, and {others}")
    if len(proxies) != 1:
        raise InjectionError(f"{origin_of(name)}: expected one container {PROXY_CONTAINER}, found {len(proxies)}")
    if not proxies[0].get("image"):
        raise InjectionError(f"{origin_of(name)}: container {PROXY_CONTAINER} names no image")
    return fragment


def read_mesh_files(names: tuple[str, ...]) -> MeshObjects:
    """Return the mesh objects of files, for the bootstrap."""
    return read_mesh_objects(read_files(names))


# --- the proxy -----------------------------------------------------------------------------------


def _bootstrap_yaml(mesh_objects: MeshObjects, workload: Workload, settings: PodSettings) -> str:
    config, _ = resolve(with_all_dns(settings.checked()), AnyPod())
    pod = MeshPod(workload.namespace, workload.name or "pod", workload.labels)
    text = json.dumps(render_bootstrap(config, mesh_objects, pod), separators=(",", ":"))
    if len(text.encode()) >= MAX_ARGUMENT:
        raise InjectionError(
            f"{workload}: Envoy's bootstrap has {len(text.encode())} bytes; an argument has at most {MAX_ARGUMENT - 1}",
            "Put the output of `capture sidecar` into a ConfigMap, and mount it by a template (--proxy-file).",
        )
    return text.replace("$(", "$$(")  # kubelet replaces $(NAME) in arguments


def _envoy_container(image: str, bootstrap: str, settings: PodSettings) -> Container:
    transparent = settings.mode == "TPROXY"
    return {
        "name": PROXY_CONTAINER,
        "image": image,
        "command": ["envoy"],
        "args": [
            *("--config-yaml", bootstrap),
            "--disable-hot-restart",  # its shared memory is writable by the first user only
            *("--log-level", "warning", "--concurrency", "2", "--file-flush-interval-msec", "1000"),
        ],
        "ports": [{"containerPort": METRICS_PORT, "name": "http-envoy-prom", "protocol": "TCP"}],
        "readinessProbe": {**READY, "periodSeconds": 15, "timeoutSeconds": 3, "failureThreshold": 4},
        "securityContext": proxy_security(settings, transparent=transparent),
    }


def proxy_security(settings: PodSettings, *, transparent: bool) -> dict[str, Any]:
    """Return the security context of the proxy: no capability; for TPROXY root with NET_ADMIN, as Istio has it."""
    capabilities: dict[str, Any] = {"drop": ["ALL"]}
    if transparent:
        capabilities["add"] = ["NET_ADMIN"]
    return {
        **CONFINED_CONTEXT,
        "capabilities": capabilities,
        "readOnlyRootFilesystem": True,
        "runAsGroup": settings.gid,
        "runAsNonRoot": not transparent,
        "runAsUser": 0 if transparent else settings.uid,
    }


def as_native(proxy: Container) -> Container:
    """Return the proxy as a native sidecar: an init container that goes on, and is ready before the application."""
    probe = proxy.get("readinessProbe") or READY
    started = {key: value for key, value in probe.items() if key in ("httpGet", "tcpSocket", "exec", "grpc")}
    return {
        **proxy,
        "restartPolicy": "Always",
        "startupProbe": proxy.get("startupProbe") or {**started, "periodSeconds": 1, "failureThreshold": 600},
    }


# --- before the proxy ----------------------------------------------------------------------------


def init_container(image: str, settings: PodSettings) -> Container:
    """Return ``istio-init``, which writes the rules."""
    return {
        "name": INIT_CONTAINER,
        "image": image,
        "args": settings.arguments(),
        **_environment_variables(settings),
        "securityContext": {
            **CONFINED_CONTEXT,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "runAsUser": 0,
        },
    }


def validation_container(image: str, settings: PodSettings) -> Container:
    """Return ``istio-validation``, which fails where the plugin has written no rules: nothing runs uncaptured."""
    return {
        "name": VALIDATION_CONTAINER,
        "image": image,
        "args": [*settings.arguments(), "--run-validation", "--skip-rule-apply"],
        **_environment_variables(settings),
        "securityContext": {
            **CONFINED_CONTEXT,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": settings.gid,
            "runAsNonRoot": True,
            "runAsUser": settings.uid,
        },
    }


def with_variables(proxy: Container, own: Container, settings: PodSettings) -> Container:
    """Return the proxy with what the annotation ``proxy.istio.io/config`` says about capture, as Istio's injector does.

    The CNI plugin reads it there, where it queries the API server. What the container has by itself (``own``) stays.
    """
    named = {each.get("name") for each in (proxy, own) for each in each.get("env") or []}
    missing = [each for each in _environment_variables(settings).get("env", []) if each["name"] not in named]
    return {**proxy, "env": [*(proxy.get("env") or []), *missing]} if missing else proxy


def _environment_variables(settings: PodSettings) -> dict[str, Any]:
    """Return what of the proxy's environment is about capture."""
    names = [name for each in BY_ENVIRONMENT for name in each.environment if name in settings.environment]
    variables = [{"name": name, "value": settings.environment[name]} for name in names]
    return {"env": variables} if variables else {}
