"""One pod's namespace: what has changed there since the last look, and what is wrong.

signature    0.1 ms    generation of nf_tables, ingress filters, addresses, listeners, legacy tables
diagnose    10 ms      what `capture why` would say
"""

from __future__ import annotations

from capture.errors import CaptureError
from capture.model.values import Value
from capture.netlink.interfaces import read_addresses, read_links
from capture.netlink.nfnetlink import read_generation
from capture.netlink.sock_diag import IPPROTO_TCP, open_sock_diag, read_listeners
from capture.netlink.sockets import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from capture.operations.diagnosis import why
from capture.state import record
from capture.state.facts import diverted
from capture.state.netns import Entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.settings.settings import Settings

CAPTURED = "captured"
UNKNOWN = "unknown"
LEGACY_TABLES = ("/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names")
OF_THE_PROXY = ("not-listening",)
"""Causes that are no fault while a pod starts."""


class Finding(Value):
    """The state of a pod: ``captured``, ``unknown``, or the kind of the first cause, with what it says."""

    state: str
    says: str = ""
    remedy: str = ""


def signature(path: str) -> tuple[object, ...]:
    """Return what is another value when something in the namespace has changed that matters. Raises CaptureError."""
    with Entered(path):
        with NetlinkSocket.open(NETLINK_ROUTE, "look at addresses") as route:
            filters = diverted(route, read_links(route))
            addresses = tuple((each.address, each.prefix_length, each.interface) for each in read_addresses(route))
        with NetlinkSocket.open(NETLINK_NETFILTER, "look at the ruleset") as netfilter:
            generation = read_generation(netfilter)
        with open_sock_diag() as diag:
            listeners = tuple(read_listeners(diag, IPPROTO_TCP))
        return generation, filters, addresses, listeners, tuple(map(_content, LEGACY_TABLES))


def diagnose(path: str, settings: Settings, *, is_starting: bool) -> Finding:
    """Return the state of the pod. What should be is what was recorded there, else what the pod's object asks for."""
    try:
        with Entered(path):
            explicit = settings if record.read() is None else None
        diagnosis = why(None, explicit, path)
    except CaptureError as error:
        return Finding(UNKNOWN, error.message, error.remedy)
    causes = [cause for cause in diagnosis.causes if not (is_starting and cause.kind in OF_THE_PROXY)]
    if not causes:
        return Finding(CAPTURED)
    return Finding(causes[0].kind, causes[0].says, causes[0].remedy)


def _content(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
