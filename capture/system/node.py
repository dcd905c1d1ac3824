"""Evidence that a network namespace is a node's, also where the node is a container itself (kind, k3d)."""

from __future__ import annotations

import os

from capture.errors import HostNamespaceError
from capture.system.files import content_of, names_in, process_ids
from capture.system.netns import is_host, own_namespace, refuse_host

NODE_PROGRAMS = ("kubelet", "kubelite", "k3s", "k3s-server", "rke2", "k0s", "containerd", "crio")
"""As the kernel names their processes (comm in proc(5))."""
NAMED_NAMESPACES = "/run/netns"
"""The directory in which iproute2 and container runtimes name network namespaces (ip-netns(8))."""
MANY_PEERS = 3
"""Namespaces at the other ends of a node's interfaces. A pod has one there, the node's, or few with Multus."""


def refuse_node(*, allowed: bool, verb: str = "capture") -> None:
    """Raise HostNamespaceError if the namespace we are in is the host's or that of a nested node (kind, k3d).

    A node that is itself a container is in none of the machine's first namespaces, and the kernel reports nothing about
    it. So this looks for evidence: a kubelet or runtime that runs in the namespace, or pods that hang on it. Process 1
    in the namespace is no evidence: it is in every container of a pod.
    """
    refuse_host(allowed=allowed, verb=verb)
    evidence = "" if allowed else evidence_of_node()
    if evidence:
        raise HostNamespaceError(evidence, verb)


def evidence_of_host() -> str | None:
    """Return what shows that the namespace we are in is the host's; "" if the kernel does, None if nothing does."""
    return "" if is_host() else evidence_of_node() or None


def evidence_of_node() -> str:
    """Return what shows that the namespace we are in is a node's; "" if nothing does."""
    own = own_namespace()
    for process in process_ids():
        name = content_of(f"/proc/{process}/comm").decode(errors="replace").rstrip("\n")
        if name in NODE_PROGRAMS and _is_in(own, process):
            return f"{name} (process {process}) runs in it"
    if not _is_in(own, "1"):
        return ""
    other_names = _other_names(own)
    if other_names:
        return f"other network namespaces are named in {NAMED_NAMESPACES}: {', '.join(other_names[:3])}"
    from capture.netlink.interfaces import read_links
    from capture.netlink.rtnetlink import open_rtnetlink

    with open_rtnetlink() as rtnetlink:
        peers = len({link.peer_namespace for link in read_links(rtnetlink)} - {None})
    return f"its interfaces lead to {peers} other network namespaces" if peers >= MANY_PEERS else ""


def _is_in(own: os.stat_result, process: str) -> bool:
    try:
        return os.path.samestat(own, os.stat(f"/proc/{process}/ns/net"))
    except OSError:  # it has ended, or we may not look (ptrace(2), "Ptrace access mode checking")
        return False


def _other_names(own: os.stat_result) -> list[str]:
    """Return the names of other network namespaces; none if our own has a name, too, as a pod's has."""
    names = []
    for name in names_in(NAMED_NAMESPACES):
        try:
            status = os.stat(f"{NAMED_NAMESPACES}/{name}")
        except OSError:
            continue
        if os.path.samestat(status, own):
            return []
        if status.st_dev == own.st_dev:  # nsfs: what is left of a namespace that has ended is a plain file
            names.append(name)
    return names
