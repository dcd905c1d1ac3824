"""The validation's connections: made all at once, each recognised where it arrives.

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
from collections.abc import Callable, Iterable
from contextlib import suppress

from capture.errors import CaptureError, ValidationError
from capture.model.addresses import FAMILY_NAMES, FAMILY_NUMBERS, IPV4, IPV6, Family
from capture.netlink import sock_diag
from capture.report.packet_text import endpoint
from capture.state.capabilities import missing
from capture.state.netns import InNamespace
from initcontainer.probes import Probe, Proof

TOKEN_BYTES = 16
SO_ORIGINAL_DST = 80
"""linux/netfilter_ipv4.h, and linux/netfilter_ipv6/ip6_tables.h"""
TRANSPARENT: dict[Family, tuple[int, int]] = {IPV4: (socket.IPPROTO_IP, 19), IPV6: (socket.IPPROTO_IPV6, 75)}
"""Level and number of IP_TRANSPARENT and IPV6_TRANSPARENT (linux/in.h, linux/in6.h)."""

RETRY_AFTER = 0.05
"""Seconds between two attempts of a connection."""
CONNECTION_TIMEOUT = 1.0
"""Seconds that one attempt may take, where nothing comes back."""

SEEN, UNSEEN = 0, 200
"""How a process that dials a port of a running proxy ends: the proxy took the connection, or nothing shows who did."""
CONNECTED = (
    sock_diag.TCP_SYN_RECV, sock_diag.TCP_ESTABLISHED, sock_diag.TCP_FIN_WAIT1, sock_diag.TCP_FIN_WAIT2,
    sock_diag.TCP_CLOSE_WAIT, sock_diag.TCP_LAST_ACK, sock_diag.TCP_CLOSING,
)  # fmt: skip


class Prover:
    """Makes the connections of some probes and waits for them."""

    def __init__(self, deadline: float, *, transparent: bool, fail: Callable[[Probe, str], ValidationError]) -> None:
        self._deadline = deadline
        self._transparent = transparent
        self._fail = fail
        self._listeners: dict[tuple[Family, int], socket.socket] = {}
        self._awaited: dict[bytes, Probe] = {}
        self._clients: dict[Probe, int] = {}
        self._proofs: dict[Probe, Proof] = {}
        self._stop = os.pipe()

    def prove(self, probes: Iterable[Probe]) -> list[Proof]:
        """Return what happened to each probe, in their order. Raises ValidationError unless each arrives as it must."""
        in_order = list(probes)
        try:
            for probe in in_order:
                self._begin(probe)
            while (self._awaited or self._clients_of_proxy()) and time.monotonic() < self._deadline:
                self._look()
            for probe in (*self._awaited.values(), *self._clients_of_proxy()):
                raise self._fail(probe, _last_answer(self._clients.pop(probe), self._deadline))
        finally:
            self._end()
        # They end in any order; two runs of one pod print the same.
        return [self._proofs[probe] for probe in in_order]

    def _begin(self, probe: Probe) -> None:
        """Listen where a probe must arrive, if no other process does, and start to dial."""
        endpoint = (probe.destination.family, probe.arrives_on)
        is_taken = False
        if endpoint not in self._listeners:
            listener = _listener(*endpoint, transparent=self._transparent)
            is_taken = listener is None
            if listener is not None:
                self._listeners[endpoint] = listener
        if not is_taken and self._transparent and probe.side == "inbound" and missing("NET_ADMIN"):
            self._note(probe, "not permitted to listen as a transparent proxy does (capability NET_ADMIN)", holds=False)
            return
        token = b"" if is_taken else secrets.token_bytes(TOKEN_BYTES)
        if token:
            self._awaited[token] = probe
        self._clients[probe] = _dial(probe, token, self._deadline, self._stop, transparent=self._transparent)

    def _clients_of_proxy(self) -> list[Probe]:
        """Return the probes that go to a running proxy and are not over."""
        counted = (*self._awaited.values(), *self._proofs)
        return [probe for probe in self._clients if probe not in counted]

    def _note(self, probe: Probe, message: str, *, holds: bool) -> None:
        self._proofs[probe] = Proof(f"{probe}: {message}", holds)

    def _look(self) -> None:
        """Wait a little for connections, and for processes that dial a running proxy."""
        wait = max(0.0, min(RETRY_AFTER, self._deadline - time.monotonic()))
        for listener in select.select(list(self._listeners.values()), [], [], wait)[0]:
            self._receive(listener)
        for probe in self._clients_of_proxy():
            ended, status = os.waitpid(self._clients[probe], os.WNOHANG)
            if not ended:
                continue
            del self._clients[probe]
            code = os.waitstatus_to_exitcode(status)
            if code not in (SEEN, UNSEEN):
                raise self._fail(probe, os.strerror(code) if code > 0 else "no answer")
            if code == SEEN:
                self._note(probe, f"{_arrival(probe)}, where the proxy took it", holds=True)
            else:
                self._note(probe, "the connection was accepted, and nothing shows by which port", holds=False)

    def _receive(self, listener: socket.socket) -> None:
        """Take one connection; if it brings a token, check where it arrived and what it was meant for."""
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(CONNECTION_TIMEOUT)
            try:
                token = connection.recv(TOKEN_BYTES, socket.MSG_WAITALL)
            except OSError:
                return
            probe = self._awaited.get(token)
            if probe is None:
                return  # another's, such as a probe of the kubelet
            port = listener.getsockname()[1]
            if port != probe.arrives_on:
                raise ValidationError(
                    f"validation failed: {probe}: {endpoint(*probe.dialled)} arrived on port {port}"
                    f" instead of {probe.arrives_on}"
                )
            meant = _original_destination(connection)
            if meant != probe.dialled:
                raise ValidationError(
                    f"validation failed: {probe}: {endpoint(*probe.dialled)} arrived as {endpoint(*meant)}",
                    "The proxy would connect to that address. Another rule in this pod translates addresses.",
                )
        del self._awaited[token]
        self._note(probe, _arrival(probe), holds=True)

    def _end(self) -> None:
        for end in self._stop:
            os.close(end)
        for listener in self._listeners.values():
            listener.close()
        for process in self._clients.values():
            _end(process)


def _arrival(probe: Probe) -> str:
    return f"user {probe.dialler.uid} dialled {endpoint(*probe.dialled)} and arrived on port {probe.arrives_on}"


def _listener(family: Family, port: int, *, transparent: bool) -> socket.socket | None:
    """Return a listening socket on a port of the proxy, for all addresses of the family; None if it is taken."""
    listener = socket.socket(FAMILY_NUMBERS[family], socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == IPV6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transparent:
            with suppress(PermissionError):  # then only redirected connections arrive
                listener.setsockopt(*TRANSPARENT[family], 1)
        listener.bind(("::" if family == IPV6 else "0.0.0.0", port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        reason = os.strerror(error.errno or 0)
        raise ValidationError(
            f"validation failed: cannot listen on port {port} ({FAMILY_NAMES[family]}): {reason}"
        ) from None
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


def _dial(probe: Probe, token: bytes, deadline: float, stop: tuple[int, int], *, transparent: bool) -> int:
    """Start a process that connects for the probe, until the pipe is closed or time is over; return its id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        stopped, to_stop = stop
        os.close(to_stop)
        status = _connect(probe, token, deadline, stopped, transparent=transparent)
    finally:
        os._exit(status)


def _connect(probe: Probe, token: bytes, deadline: float, stopped: int, *, transparent: bool) -> int:
    """Connect and hand over the token, again and again; return 0 or the number of the last error.

    Without a token, for a proxy that runs: look who took the connection, and return SEEN or UNSEEN.
    """
    if (probe.dialler.uid, probe.dialler.gid) != (os.geteuid(), os.getegid()):
        os.setgroups([])
        os.setresgid(probe.dialler.gid, probe.dialler.gid, probe.dialler.gid)
        os.setresuid(probe.dialler.uid, probe.dialler.uid, probe.dialler.uid)
    ports = (probe.arrives_on, probe.port) if transparent else (probe.arrives_on,)
    last = errno.ETIMEDOUT  # should the time be over before the first attempt
    if probe.outside:
        InNamespace(probe.outside).__enter__()  # for good: this process only dials
    while time.monotonic() < deadline:
        try:
            with socket.socket(FAMILY_NUMBERS[probe.destination.family], socket.SOCK_STREAM) as connection:
                connection.settimeout(min(CONNECTION_TIMEOUT, max(RETRY_AFTER, deadline - time.monotonic())))
                connection.connect(probe.dialled)
                if not token:
                    return SEEN if _is_taken_on(ports, connection) else UNSEEN
                connection.sendall(token)
                connection.recv(1)  # closed by who read it
                last = 0
        except TimeoutError:
            last = errno.ETIMEDOUT
        except OSError as error:
            last = error.errno or 0
        if select.select([stopped], [], [], RETRY_AFTER)[0]:
            break
    return last


def _is_taken_on(ports: Iterable[int], connection: socket.socket) -> bool:
    """Return whether the other end of a connection is in this namespace, on one of the ports.

    The first port is the proxy's. On another, which a transparent proxy takes over, another program must not listen.
    """
    address, port = connection.getsockname()[:2]
    packed = socket.inet_pton(connection.family, address)
    proxy_port, *taken_over = ports
    try:
        with sock_diag.open_sock_diag() as diag:
            sockets = list(sock_diag.read_tcp_sockets(diag, (*CONNECTED, sock_diag.TCP_LISTEN)))
    except CaptureError:
        return False
    listening = {each.local_port for each in sockets if each.state == sock_diag.TCP_LISTEN}
    fitting = [proxy_port, *(each for each in taken_over if each not in listening)]
    return any((each.remote, each.remote_port) == (packed, port) and each.local_port in fitting for each in sockets)


def _last_answer(process: int, deadline: float) -> str:
    """Wait for a process that dials, whose time is over, and return what its last attempt ended with."""
    while time.monotonic() < deadline + CONNECTION_TIMEOUT + 2 * RETRY_AFTER:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            number = os.waitstatus_to_exitcode(status)
            return os.strerror(number) if number > 0 else "the connection was accepted by another listener"
        time.sleep(RETRY_AFTER)
    _end(process)
    return "no answer"


def _end(process: int) -> None:
    with suppress(PermissionError):  # without CAP_KILL; its pipe is closed, so it ends after this attempt
        os.kill(process, 9)
    os.waitpid(process, 0)
