"""The Pod Security level under which a pod starts: what the standards forbid, as data and rules. Pure.

https://kubernetes.io/docs/concepts/security/pod-security-standards/, v1.34. ``privileged`` allows everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from injection.pods import containers_of

Level = Literal["privileged", "baseline", "restricted"]

BASELINE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip
SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
RESTRICTED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
}  # fmt: skip
CONFINING_PROFILES = ("RuntimeDefault", "Localhost")


def level_of(spec: dict[str, Any]) -> tuple[Level, list[str]]:
    """Return the strictest level that allows a pod, and what keeps it from the next one."""
    against_baseline = list(_against_baseline(spec))
    if against_baseline:
        return "privileged", against_baseline
    against_restricted = list(_against_restricted(spec))
    return ("baseline", against_restricted) if against_restricted else ("restricted", [])


def _against_baseline(spec: dict[str, Any]) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes") or []:
        if "hostPath" in volume:
            yield f"volume {volume.get('name')} is a hostPath"
    yield from _context_against_baseline("the pod", spec.get("securityContext") or {})
    for container in containers_of(spec):
        yield from _container_against_baseline(container)


def _container_against_baseline(container: dict[str, Any]) -> Iterator[str]:
    who = f"container {container.get('name')}"
    context = container.get("securityContext") or {}
    yield from _context_against_baseline(who, context)
    if context.get("privileged"):
        yield f"{who} is privileged"
    added = set((context.get("capabilities") or {}).get("add") or []) - BASELINE_CAPABILITIES
    if added:
        yield f"{who} adds {', '.join(sorted(added))}"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield f"{who} has a hostPort"
    if context.get("procMount", "Default") != "Default":
        yield f"{who} has procMount {context['procMount']}"
    if any(isinstance(call, dict) and call.get("host") for call in _calls_of_kubelet(container)):
        yield f"{who} has a host in a probe or lifecycle hook"


def _calls_of_kubelet(container: dict[str, Any]) -> Iterator[Any]:
    """Yield what kubelet calls in probes and hooks, as far as it may be on another host."""
    hooks = container.get("lifecycle")
    handlers = [container.get(probe) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
    for handler in (*handlers, *(hooks.values() if isinstance(hooks, dict) else ())):
        if isinstance(handler, dict):
            yield from (handler.get("httpGet"), handler.get("tcpSocket"))


def _context_against_baseline(who: str, context: dict[str, Any]) -> Iterator[str]:
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{who} is a Windows host process"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{who} has seLinuxOptions of its own"
    for kind in ("seccompProfile", "appArmorProfile"):
        if (context.get(kind) or {}).get("type") == "Unconfined":
            yield f"{who} has {kind} Unconfined"
    for sysctl in context.get("sysctls") or []:
        if sysctl.get("name") not in SAFE_SYSCTLS:
            yield f"{who} sets {sysctl.get('name')}"


def _against_restricted(spec: dict[str, Any]) -> Iterator[str]:
    of_pod = spec.get("securityContext") or {}
    for volume in spec.get("volumes") or []:
        if not RESTRICTED_VOLUMES & set(volume):
            yield f"volume {volume.get('name')} is of a kind that is not allowed"
    if of_pod.get("runAsUser") == 0:
        yield "the pod sets runAsUser 0"
    for container in containers_of(spec):
        yield from _container_against_restricted(container, of_pod)


def _container_against_restricted(container: dict[str, Any], of_pod: dict[str, Any]) -> Iterator[str]:
    who = f"container {container.get('name')}"
    own = container.get("securityContext") or {}
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{who} does not set allowPrivilegeEscalation: false"
    if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
        yield f"{who} does not set runAsNonRoot: true"
    if own.get("runAsUser") == 0:
        yield f"{who} sets runAsUser 0"
    if (own.get("seccompProfile") or of_pod.get("seccompProfile") or {}).get("type") not in CONFINING_PROFILES:
        yield f"{who} does not set seccompProfile RuntimeDefault"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{who} does not drop ALL"
    if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"{who} adds capabilities"
