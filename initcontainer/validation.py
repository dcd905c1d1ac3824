"""Proof that capture works, by connections of our own. Runs before the proxy does, on the ports of the proxy.

::

    outbound   a process that is not the proxy dials an address outside    -> must arrive on 15001
    inbound    a process with the proxy's user dials the pod's own address -> must arrive on 15006

Each connection brings a random token, so that we know it for ours, and must have been meant for what was
dialled (SO_ORIGINAL_DST). What is dialled is chosen by asking the rules themselves (``capture.analysis.trace``), so
that ports and networks that are left alone do not spoil the proof.

From inside a pod nobody can send through PREROUTING, so where the rules can be read, they are compared too.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import time
from itertools import product

from capture import operations
from capture.analysis.pod_network import NO_WAY_OUT, routed
from capture.analysis.trace import trace
from capture.errors import CaptureError, ValidationError
from capture.model.addresses import (
    AF,
    IPV4,
    IPV6,
    Network,
    address_text,
    parse_address,
)
from capture.model.packet import Packet
from capture.model.values import Value
from capture.report.differences import in_words
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.families import FAMILY_NAMES
from capture.settings.options import PROBE_PORT, PROBE_TIMEOUT, SKIP_RULE_APPLY
from capture.state.netns import Entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from capture.model.addresses import Family
    from capture.model.ruleset import Ruleset, Span
    from capture.settings.config import CaptureConfig, Host
    from capture.settings.settings import Settings

    Side = Literal["outbound", "inbound"]

TOKEN_BYTES = 16
SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h, and linux/netfilter_ipv6/ip6_tables.h"""
IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
"""linux/in.h, linux/in6.h"""
CAP_SETGID, CAP_SETUID = 6, 7
"""linux/capability.h"""

RETRY_AFTER = 0.05
"""Seconds between two attempts of a connection."""
PATIENCE = 1.0
"""Seconds that one attempt may take, where nothing comes back."""

OUTSIDE = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1")
"""Addresses for documentation, where nobody is (RFC 5737, RFC 3849)."""
PASSTHROUGH = {IPV4: "127.0.0.6", IPV6: "::6"}
"""Addresses of the pod itself that every captured pod has."""
OTHER_PORTS = (80, 443, 8080, 9080, 3306, 5432)
ORDINARY_IDS = (65534, 1000, 12345)
"""Users and groups to act as, where ours is the proxy's or is left alone."""


class Identity(Value):
    """A user and a group to connect as."""

    uid: int
    gid: int


class Probe(Value):
    """One connection: who dials what, and where it must arrive."""

    side: Side
    destination: Network
    port: int
    dialler: Identity
    arrives_on: int

    @property
    def dialled(self) -> tuple[str, int]:
        """Return address and port as a socket takes them."""
        return address_text(self.destination.family, self.destination.first), self.port

    def __str__(self) -> str:
        return f"{FAMILY_NAMES[self.destination.family]} {self.side}"


def validate(settings: Settings, namespace: str | None, host: Host) -> list[str]:
    """Prove that capture works in a namespace, and return in words what was proven and what could not be.

    Raises ValidationError if a connection does not arrive, if a rule is missing, or if nothing can be proven.
    """
    with Entered(namespace):
        config, _ = resolve(settings, host)
        ruleset = build_ruleset(config)
        chosen: list[Probe] = []
        words: list[str] = []
        for family in config.families:
            for side in _captured_sides(config):
                probe = _choose(side, family, config, ruleset, settings[PROBE_PORT], host)
                if isinstance(probe, Probe):
                    chosen.append(probe)
                else:
                    words.append(f"not validated: {FAMILY_NAMES[family]} {side}: {probe}")
        if not chosen:
            reasons = "; ".join(words) or "the settings capture nothing"
            raise ValidationError(f"validation failed: nothing could be proven: {reasons}")
        _prove(chosen, settings, host, transparent=config.is_transparent)
        _compare_rules(settings, host, words)
        done = [
            f"validated: {probe}: user {probe.dialler.uid} dialled {_endpoint(*probe.dialled)}"
            f" and arrived on port {probe.arrives_on}"
            for probe in chosen
        ]
        return done + words


def _captured_sides(config: CaptureConfig) -> Iterator[Side]:
    if config.outbound_networks or config.outbound_ports:
        yield "outbound"
    if config.inbound_ports:
        yield "inbound"


# --- what to dial --------------------------------------------------------------------------------


def _choose(side: Side, family: Family, config: CaptureConfig, ruleset: Ruleset, port: int, host: Host) -> Probe | str:
    """Return a connection that the rules would capture, or why there is none that can be made here."""
    own = [address for address in host.pod_addresses() if address.family == family and not address.is_link_local]
    if side == "outbound":
        destinations = [*_outside(config, family, own)]
        identities = [*_ordinary(config)]
    else:
        destinations = [*own, parse_address(PASSTHROUGH[family])]
        identities = [*_proxies(config)]
    if not identities:
        return "not permitted to act as another user (capabilities SETUID and SETGID)"
    is_reachable = False
    for destination, dialled_port, identity in product(destinations, _ports(config, port), identities):
        packet = routed(Packet("tcp", destination, dialled_port, uid=identity.uid, gid=identity.gid))
        if packet.out_interface == NO_WAY_OUT:
            continue
        is_reachable = True
        traced = trace(ruleset, packet)
        if traced.outcome == f"proxy-{side}":
            return Probe(side, destination, dialled_port, identity, traced.port)
    return "nothing that could be dialled from here is captured" if is_reachable else "no route leads anywhere"


def _outside(config: CaptureConfig, family: Family, own: Iterable[Network]) -> Iterator[Network]:
    """Yield destinations that are not the pod: in what is captured, in nobody's networks, beside the pod."""
    for network in config.outbound_networks.entries:
        if network.family == family:
            yield _within(network)
    for text in OUTSIDE:
        address = parse_address(text)
        if address.family == family:
            yield address
    for address in own:
        yield address.replace(first=address.first ^ 1)


def _within(network: Network) -> Network:
    """Return an address of a network that is more than its name."""
    first = network.first if network.is_address else network.first + 1
    return parse_address(address_text(network.family, first))


def _ports(config: CaptureConfig, port: int) -> list[int]:
    return list(dict.fromkeys((port, *(span.first for span in config.outbound_ports), *OTHER_PORTS)))


def _ordinary(config: CaptureConfig) -> Iterator[Identity]:
    """Yield who we are, and whom else we may be, but for the proxy."""
    ours = Identity(os.geteuid(), os.getegid())
    groups = [span.first for span in config.owner_groups.entries]
    for identity in (ours, *_others(ORDINARY_IDS, (*groups, *ORDINARY_IDS))):
        if not _is_among(identity.uid, config.proxy_uids) and not _is_among(identity.gid, config.proxy_gids):
            yield identity


def _proxies(config: CaptureConfig) -> Iterator[Identity]:
    """Yield the proxy's identities that we have or may take."""
    ours = Identity(os.geteuid(), os.getegid())
    if _is_among(ours.uid, config.proxy_uids):
        yield ours
    uids = [span.first for span in config.proxy_uids]
    yield from _others(uids, (*(span.first for span in config.proxy_gids), *ORDINARY_IDS))


def _others(uids: Iterable[int], gids: Iterable[int]) -> Iterator[Identity]:
    if _may_change_identity():
        for uid, gid in product(uids, gids):
            yield Identity(uid, gid)


def _is_among(number: int, spans: Iterable[Span]) -> bool:
    return any(span.contains(number) for span in spans)


def _may_change_identity() -> bool:
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as status:
        held = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return bool(held >> CAP_SETUID & held >> CAP_SETGID & 1)


# --- the proof -----------------------------------------------------------------------------------


def _prove(probes: list[Probe], settings: Settings, host: Host, *, transparent: bool) -> None:
    """Make the connections, all at once, and raise ValidationError unless each arrives where it must."""
    deadline = time.monotonic() + settings[PROBE_TIMEOUT]
    awaited = {secrets.token_bytes(TOKEN_BYTES): probe for probe in probes}
    listeners = [
        _listener(family, port, transparent=transparent)
        for family, port in dict.fromkeys((probe.destination.family, probe.arrives_on) for probe in probes)
    ]
    clients: dict[Probe, int] = {}
    stop = os.pipe()
    try:
        for token, probe in awaited.items():
            clients[probe] = _dial(probe, token, deadline, stop)
        while awaited and time.monotonic() < deadline:
            for listener in select.select(listeners, [], [], max(0.0, deadline - time.monotonic()))[0]:
                _receive(listener, awaited)
        if awaited:
            probe = next(iter(awaited.values()))
            raise _failure(probe, _last_answer(clients.pop(probe), deadline), settings, host)
    finally:
        for end in stop:
            os.close(end)
        for listener in listeners:
            listener.close()
        for process in clients.values():
            _end(process)


def _listener(family: Family, port: int, *, transparent: bool) -> socket.socket:
    """Return a listening socket on a port of the proxy, for every address of the family."""
    listener = socket.socket(AF[family], socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == IPV6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            _make_transparent(listener, family)
        listener.bind(("::" if family == IPV6 else "0.0.0.0", port))
        listener.listen()
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno or 0)
        raise ValidationError(
            f"validation failed: cannot listen on port {port} ({FAMILY_NAMES[family]}): {reason}",
            "Validate before the proxy starts: the port has to be free, since connections to it are the proof."
            if error.errno == errno.EADDRINUSE
            else "",
        ) from None
    return listener


def _make_transparent(listener: socket.socket, family: Family) -> None:
    """Let the socket accept what is addressed to others, if we may; without, only redirected connections arrive."""
    level, option = (socket.IPPROTO_IPV6, IPV6_TRANSPARENT) if family == IPV6 else (socket.IPPROTO_IP, IP_TRANSPARENT)
    try:
        listener.setsockopt(level, option, 1)
    except PermissionError:
        return


def _receive(listener: socket.socket, awaited: dict[bytes, Probe]) -> None:
    """Take one connection; if it brings a token, check where it arrived and what it was meant for."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(PATIENCE)
        try:
            token = connection.recv(TOKEN_BYTES, socket.MSG_WAITALL)
        except OSError:
            return
        probe = awaited.get(token)
        if probe is None:
            return  # somebody else's, such as a probe of the kubelet
        port = listener.getsockname()[1]
        if port != probe.arrives_on:
            raise ValidationError(
                f"validation failed: {probe}: {_endpoint(*probe.dialled)} arrived on port {port}"
                f" instead of {probe.arrives_on}"
            )
        meant = _original_destination(connection)
        if meant != probe.dialled:
            raise ValidationError(
                f"validation failed: {probe}: {_endpoint(*probe.dialled)} arrived as {_endpoint(*meant)}",
                "The proxy would go on to there. Something else translates addresses in this pod.",
            )
        del awaited[token]


def _original_destination(connection: socket.socket) -> tuple[str, int]:
    """Return what a connection was meant for, before it was redirected."""
    is_ipv6 = connection.family == socket.AF_INET6
    level, size = (socket.IPPROTO_IPV6, 28) if is_ipv6 else (socket.IPPROTO_IP, 16)
    try:
        # struct sockaddr_in: family, port, address; struct sockaddr_in6: family, port, flow, address, scope
        packed = connection.getsockopt(level, SO_ORIGINAL_DST, size)
    except OSError:  # not translated: it came with its own destination
        address, port = connection.getsockname()[:2]
        return address, port
    start, length = (8, 16) if is_ipv6 else (4, 4)
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    return socket.inet_ntop(family, packed[start : start + length]), int.from_bytes(packed[2:4], "big")


def _dial(probe: Probe, token: bytes, deadline: float, stop: tuple[int, int]) -> int:
    """Start a process that connects as the probe says, until the pipe is closed or time is over; return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        stopped, to_stop = stop
        os.close(to_stop)
        status = _connect(probe, token, deadline, stopped)
    finally:
        os._exit(status)


def _connect(probe: Probe, token: bytes, deadline: float, stopped: int) -> int:
    """Connect and hand over the token, again and again; return 0 or the number of the last error."""
    if (probe.dialler.uid, probe.dialler.gid) != (os.geteuid(), os.getegid()):
        os.setgroups([])
        os.setresgid(probe.dialler.gid, probe.dialler.gid, probe.dialler.gid)
        os.setresuid(probe.dialler.uid, probe.dialler.uid, probe.dialler.uid)
    last = 0
    while time.monotonic() < deadline:
        try:
            with socket.socket(AF[probe.destination.family], socket.SOCK_STREAM) as connection:
                connection.settimeout(min(PATIENCE, max(RETRY_AFTER, deadline - time.monotonic())))
                connection.connect(probe.dialled)
                connection.sendall(token)
                connection.recv(1)  # closed by who read it
        except TimeoutError:
            last = errno.ETIMEDOUT
        except OSError as error:
            last = error.errno or 0
        if select.select([stopped], [], [], RETRY_AFTER)[0]:
            break
    return last


def _last_answer(process: int, deadline: float) -> str:
    """Wait for a process that dials, whose time is over, and return what its last attempt ended with."""
    while time.monotonic() < deadline + PATIENCE + 2 * RETRY_AFTER:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            number = os.waitstatus_to_exitcode(status)
            return os.strerror(number) if number > 0 else "it was let in, by somebody else"
        time.sleep(RETRY_AFTER)
    _end(process)
    return "no answer"


def _end(process: int) -> None:
    try:
        os.kill(process, 9)
    except PermissionError:
        pass  # another user's, and we have no CAP_KILL; its pipe is closed, so it ends after this attempt
    os.waitpid(process, 0)


# --- what is wrong -------------------------------------------------------------------------------


def _failure(probe: Probe, answer: str, settings: Settings, host: Host) -> ValidationError:
    """Return the error for a connection that did not arrive, with the first rule that is missing."""
    message = (
        f"validation failed: {probe}: user {probe.dialler.uid} dialled {_endpoint(*probe.dialled)}, and within"
        f" {settings[PROBE_TIMEOUT]:g} s nothing arrived on port {probe.arrives_on} ({answer})"
    )
    try:
        first = next(in_words(operations.verify(settings, None, host)), None)
    except CaptureError as error:
        return ValidationError(message, f"The rules cannot be read here: {error.message}. {_author(settings)}")
    if first is None:
        return ValidationError(
            message,
            "All rules are in place, so something else is in the way: rules of others in the table filter, a CNI plugin"
            " that works on sockets, or another program on that port.",
        )
    return ValidationError(message, f"First of what is wrong: {first}. {_author(settings)}")


def _compare_rules(settings: Settings, host: Host, words: list[str]) -> None:
    """Raise ValidationError if a rule is missing that no connection from inside can prove; note what is unreadable."""
    try:
        verified = operations.verify(settings, None, host)
    except CaptureError as error:
        words.append(f"not validated: connections from outside the pod: the rules cannot be read here: {error.message}")
        return
    first = next(in_words(verified), None)
    if first is not None:
        raise ValidationError(
            "validation failed: our own connections are captured, but the rules are not what they should be",
            f"First of what is wrong: {first}. {_author(settings)}",
        )


def _author(settings: Settings) -> str:
    """Return who should have written the rules, and where to look."""
    if settings[SKIP_RULE_APPLY]:
        return (
            "The CNI plugin capture-cni should have written the rules when this pod was created: look at its log on the"
            " node, and at `capture dump` there."
        )
    return "istio-init should have written the rules: look at what it printed, or run it again."


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
