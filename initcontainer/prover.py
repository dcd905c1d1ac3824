"""The validation's connections: made one after the other, each recognised where it arrives.

Where the port of the proxy is free we listen there: a random token distinguishes our connections from others, and
SO_ORIGINAL_DST what they were meant for. Where the proxy listens already, the kernel's list of sockets shows which port
took the other end of our connection.
"""

from __future__ import annotations

import errno
import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from capture.errors import CaptureError, ValidationError
from capture.model.addresses import ANY_ADDRESS, FAMILY_NAMES, FAMILY_NUMBERS, IPV4, IPV6, Family
from capture.netlink import sock_diag
from capture.report.packet_text import endpoint_text
from capture.system.capabilities import missing_capabilities
from capture.system.child import run_in_child
from capture.system.netns import InNamespace
from initcontainer.probes import Probe, Proof

TOKEN_BYTES = 16
SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h, and linux/netfilter_ipv6/ip6_tables.h"""
TRANSPARENT: dict[Family, tuple[int, int]] = {IPV4: (socket.IPPROTO_IP, 19), IPV6: (socket.IPPROTO_IPV6, 75)}
"""Level and number of IP_TRANSPARENT and IPV6_TRANSPARENT (linux/in.h, linux/in6.h)."""

RETRY_AFTER = 0.05
"""Seconds between two attempts of a connection, and for one that was made to arrive."""
CONNECTION_TIMEOUT = 1.0
"""Seconds that one attempt may take, where nothing comes back."""

CONNECTED, PORT_UNKNOWN = "connected", "port unknown"
"""Outcomes of an attempt: it went well, and nothing shows which port of a running proxy took it."""


class Prover:
    """Makes the connections of some probes, again and again until a deadline that all have in common."""

    def __init__(
        self, deadline: float, *, transparent: bool, error_for: Callable[[Probe, str], ValidationError]
    ) -> None:
        self._deadline = deadline
        self._transparent = transparent
        self._error_for = error_for
        self._listeners: dict[tuple[Family, int], socket.socket | None] = {}

    def prove(self, probes: Sequence[Probe]) -> list[Proof]:
        """Return what happened to each probe. Raises ValidationError unless each arrives as it must."""
        try:
            for end in {(probe.destination.family, probe.arrives_on) for probe in probes}:
                self._listeners[end] = _open_listener(*end, transparent=self._transparent)
            return [self._prove_one(probe) for probe in probes]
        finally:
            for listener in filter(None, self._listeners.values()):
                listener.close()

    def _prove_one(self, probe: Probe) -> Proof:
        is_taken = self._listeners[probe.destination.family, probe.arrives_on] is None
        if not is_taken and self._transparent and probe.side == "inbound" and missing_capabilities("NET_ADMIN"):
            why = "not permitted to listen as a transparent proxy does (capability NET_ADMIN)"
            return Proof(f"{probe}: {why}", holds=False)
        token = b"" if is_taken else secrets.token_bytes(TOKEN_BYTES)
        answer = os.strerror(errno.ETIMEDOUT)  # should the time be over before the first attempt
        while (seconds := self._deadline - time.monotonic()) > 0:
            answer = self._connect_once(probe, token, seconds)
            if answer == PORT_UNKNOWN:
                why = "the connection was accepted, and nothing shows by which port"
                return Proof(f"{probe}: {why}", holds=False)
            if answer == CONNECTED and (is_taken or self._has_arrived(probe, token)):
                arrival = f"dialled {endpoint_text(*probe.endpoint)} and arrived on port {probe.arrives_on}"
                taken = ", where the proxy took it" if is_taken else ""
                return Proof(f"{probe}: user {probe.uid} {arrival}{taken}", holds=True)
            time.sleep(RETRY_AFTER)
        reason = "the connection was accepted by another listener" if answer == CONNECTED else answer
        raise self._error_for(probe, reason)

    def _connect_once(self, probe: Probe, token: bytes, seconds: float) -> str:
        """Connect once in a child, as the probe's user; return CONNECTED, PORT_UNKNOWN or why it failed."""
        # A transparent proxy takes over the port that is dialled, too.
        ports = (probe.arrives_on, probe.port) if self._transparent else (probe.arrives_on,)
        timeout = min(CONNECTION_TIMEOUT, max(RETRY_AFTER, seconds))
        status, answer = run_in_child(lambda: _connect(probe, token, ports, timeout), _failure_reason)
        return answer if status >= 0 else "no answer"

    def _has_arrived(self, probe: Probe, token: bytes) -> bool:
        """Take what has come in; return whether the token is among it. Raises ValidationError if it went wrong."""
        listeners = [*filter(None, self._listeners.values())]
        while ready := select.select(listeners, [], [], RETRY_AFTER)[0]:
            for listener in ready:
                connection, _ = listener.accept()
                with connection:
                    if _first_bytes(connection) == token:  # else another's, such as a probe of the kubelet
                        _require_meant(probe, listener.getsockname()[1], _original_destination(connection))
                        return True
        return False


def _first_bytes(connection: socket.socket) -> bytes:
    connection.settimeout(CONNECTION_TIMEOUT)
    try:
        return connection.recv(TOKEN_BYTES, socket.MSG_WAITALL)
    except OSError:
        return b""


def _require_meant(probe: Probe, port: int, meant: tuple[str, int]) -> None:
    """Raise ValidationError unless a probe came to the port that it should, and for what it dialled."""
    failed = f"validation failed: {probe}: {endpoint_text(*probe.endpoint)}"
    if port != probe.arrives_on:
        remedy = "Another rule redirects it first: `capture verify` in this pod's namespace names it."
        raise ValidationError(f"{failed} arrived on port {port} instead of {probe.arrives_on}", remedy)
    if meant != probe.endpoint:
        raise ValidationError(
            f"{failed} arrived as {endpoint_text(*meant)}",
            "The proxy would connect to that address. Another rule in this pod translates addresses.",
        )


def _open_listener(family: Family, port: int, *, transparent: bool) -> socket.socket | None:
    """Return a listening socket on a port of the proxy, for all addresses of the family; None if it is taken."""
    try:
        listener = socket.create_server((ANY_ADDRESS[family], port), family=FAMILY_NUMBERS[family])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        reason = os.strerror(error.errno or 0)
        raise ValidationError(
            f"validation failed: cannot listen on port {port} ({FAMILY_NAMES[family]}): {reason}",
            "The rules are in place, and were not tried. A port below 1024 needs the capability NET_BIND_SERVICE.",
        ) from None
    if transparent:
        with suppress(PermissionError):  # then only redirected connections arrive
            listener.setsockopt(*TRANSPARENT[family], 1)
    return listener


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


def _connect(probe: Probe, token: bytes, ports: Iterable[int], timeout: float) -> str:
    """Connect as the probe's user, hand over the token, and return the result in a word. Raises OSError.

    Without a token, for a proxy that runs: look whether one of the ports took the connection.
    """
    if (probe.uid, probe.gid) != (os.geteuid(), os.getegid()):
        os.setgroups([])
        os.setresgid(probe.gid, probe.gid, probe.gid)
        os.setresuid(probe.uid, probe.uid, probe.uid)
    family = FAMILY_NUMBERS[probe.destination.family]
    with InNamespace(probe.namespace_path or None):  # where the socket stays
        connection = socket.socket(family, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(timeout)
        connection.connect(probe.endpoint)
        connection.sendall(token)
        return CONNECTED if token or _is_taken_on(ports, connection) else PORT_UNKNOWN


def _failure_reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return os.strerror(errno.ETIMEDOUT)
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _is_taken_on(ports: Iterable[int], connection: socket.socket) -> bool:
    """Return whether the other end of a connection is in this namespace, on one of the ports.

    The first port is the proxy's. On another, which a transparent proxy takes over, another program must not listen.
    """
    address, port = connection.getsockname()[:2]
    packed = socket.inet_pton(connection.family, address)
    proxy_port, *taken_over = ports
    try:
        with sock_diag.open_sock_diag() as diag:
            sockets = list(sock_diag.read_tcp_sockets(diag, (*sock_diag.OPEN_STATES, sock_diag.TCP_LISTEN)))
    except CaptureError:
        return False
    listening = {tcp.local_port for tcp in sockets if tcp.state == sock_diag.TCP_LISTEN}
    fitting = [proxy_port, *(each for each in taken_over if each not in listening)]
    return any((each.remote, each.remote_port) == (packed, port) and each.local_port in fitting for each in sockets)
