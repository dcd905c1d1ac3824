"""One pod's namespace: what has changed there since the last look, and what is wrong.

changed_owners      0.03 ms   who listens on the proxy's ports
audit_signature     0.1 ms    also the generation of nf_tables, legacy tables
network_signature   0.2 ms    addresses, interfaces, policy rules: after an event, in a sweep, or where no events come
diagnose            3 ms      what `capture why` would print
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from capture.errors import CaptureError
from capture.model.addresses import IPV6
from capture.model.conventions import PASSTHROUGH_SOURCE
from capture.model.location import Cause
from capture.model.routing import LoopbackAddress
from capture.model.ruleset import Ruleset
from capture.netlink.interfaces import read_addresses, read_links
from capture.netlink.nfnetlink import read_generation
from capture.netlink.policy_rules import FIB_RULE_HDR_SIZE, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTM_GETRULE
from capture.netlink.routing import RTM_GETROUTE, RTMSG_SIZE
from capture.netlink.rtnetlink import AF_INET, AF_INET6
from capture.netlink.sock_diag import open_sock_diag, read_owners
from capture.netlink.sockets import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from capture.operations import why
from capture.settings.settings import Settings
from capture.state import record, routes
from capture.system.files import content_of
from capture.system.netns import InNamespace, enter_each
from capture.system.pod_facts import ingress_redirects
from cni.agent.pod_state import STATE_CAPTURED, STATE_LEFT_ALONE, STATE_UNKNOWN, PodState

Owners = dict[tuple[int, int], bytes]
"""The listeners: by family and port, user and inode."""

LEGACY_TABLES = ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names")
TABLE_OFFSET = 4
"""The offset of the table in struct rtmsg (linux/rtnetlink.h)."""
KERNEL_TABLES = (RT_TABLE_MAIN, RT_TABLE_LOCAL)
"""Tables whose routes come and go with addresses."""
STARTING_CAUSES = ("not-listening",)
"""Causes that are no fault while a pod starts."""
ROOT_CAUSES = ("lo-down", "ingress-filter", "no-rules", "second-set")
"""Causes that have others as their consequences, and so come first."""


def audit_signature(path: str, ports: Iterable[int]) -> tuple[tuple[object, ...], Owners]:
    """Return a value that changes with the rules of the namespace, and who listens there.

    Raises CaptureError.
    """
    with InNamespace(path):
        with NetlinkSocket.open(NETLINK_NETFILTER, "look at the ruleset") as netfilter:
            generation = read_generation(netfilter)
        with open_sock_diag() as diag:
            owners = read_owners(diag, [(family, port) for port in ports for family in (AF_INET, AF_INET6)])
        return (generation, *map(content_of, LEGACY_TABLES)), owners


def network_signature(path: str) -> tuple[object, ...]:
    """Return a value that changes with addresses, interfaces, their filters, policy rules and routes.

    Raises CaptureError.
    """
    with InNamespace(path), NetlinkSocket.open(NETLINK_ROUTE, "look at addresses and routes") as rtnetlink:
        addresses = tuple((each.address, each.interface) for each in read_addresses(rtnetlink))
        present = read_links(rtnetlink)
        links = tuple((each.index, each.name, each.is_up) for each in present)
        filters = ingress_redirects(rtnetlink, present)
        rules = tuple(rtnetlink.dump(RTM_GETRULE, bytes(FIB_RULE_HDR_SIZE), "look at policy rules"))
        routes_of_rules = tuple(
            (body[0], body[1], body[TABLE_OFFSET])
            for body in rtnetlink.dump(RTM_GETROUTE, bytes(RTMSG_SIZE), "look at routes")
            if body[TABLE_OFFSET] not in KERNEL_TABLES
        )
    return addresses, links, filters, rules, routes_of_rules


def changed_owners(known: Mapping[str, Owners]) -> list[str]:
    """Return which of the namespaces have other listeners than the known ones; ended namespaces are left out."""
    changed = []
    for path in enter_each(known):
        sockets = _first_owner(known[path])
        try:
            with open_sock_diag() as diag:
                if read_owners(diag, sockets) != sockets:
                    changed.append(path)
        except CaptureError:
            continue
    return changed


def _first_owner(owners: Owners) -> Owners:
    """Return one listener: a proxy that ends, or is replaced, does so on all ports and in both families."""
    key = min(owners)
    return {key: owners[key]}


def diagnose(path: str, settings: Settings, *, is_starting: bool) -> PodState:
    """Return the state of the pod. The reference is the record of the namespace, else the pod's object.

    A global IPv6 address that came after the capture needs ::6 on lo, without which inbound connections of that family
    fail: it is added here, even without repairs, since it completes what the plugin was to do.
    """
    try:
        with InNamespace(path):
            explicit = settings if record.read() is None else None
        diagnosis = why(None, explicit, path)
        late = any(map(_is_late_family, diagnosis.causes)) and _add_passthrough_address(path)
        if late:
            diagnosis = why(None, explicit, path)
    except CaptureError as error:
        return PodState(STATE_UNKNOWN, error.message, error.remedy)
    causes = [cause for cause in diagnosis.causes if not (is_starting and cause.kind in STARTING_CAUSES)]
    unjudged = next((note for note in diagnosis.notes if note.kind == "unjudged"), None)
    if not causes and unjudged is not None:
        return PodState(STATE_UNKNOWN, unjudged.message, unjudged.remedy)
    if not causes:
        return PodState(STATE_CAPTURED, "an IPv6 address came late: ::6 was added to lo" if late else "")
    if all(cause.kind == "excluded" for cause in causes):  # the settings capture nothing
        return PodState(STATE_LEFT_ALONE, causes[0].message)
    ranks = {kind: rank for rank, kind in enumerate(ROOT_CAUSES)}
    heaviest = min(causes, key=lambda cause: ranks.get(cause.kind, len(ranks)))
    return PodState(heaviest.kind, heaviest.message, heaviest.remedy)


def _is_late_family(cause: Cause) -> bool:
    return (cause.kind, cause.where) == ("rule-missing", "lo")


def _add_passthrough_address(path: str) -> bool:
    passthrough = LoopbackAddress(PASSTHROUGH_SOURCE[IPV6])
    with InNamespace(path):
        return routes.add_missing(Ruleset((IPV6,), (), loopback_addresses=(passthrough,)))
