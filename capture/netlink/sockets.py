"""A netlink socket in the current network namespace: requests, dumps, and errors that name what was tried.

``task`` is what the caller does, as an infinitive ("add chain ISTIO-OUTPUT"): every error names it.

The kernel answers requests before ``send`` returns, so no read here ever waits:
an answer that is not there yet will never come.
"""

from __future__ import annotations

import _socket
import errno
import os

from capture.errors import CaptureError, KernelError, MissingFeatureError, PrivilegeError
from capture.netlink import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self


# linux/netlink.h, linux/socket.h, asm-generic/socket.h
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
SO_SNDBUFFORCE = 32

# The kernel fills at most 32 KiB of one datagram in a dump, and less if our buffer is smaller (netlink_dump
# in net/netlink/af_netlink.c); only a single object can be larger, such as a link with many virtual functions.
RECEIVE_SIZE = 256 * 1024

DUMP_ATTEMPTS = 10

UNSUPPORTED = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
NO_ANSWER = messages.Refusal(errno.EAGAIN, "the kernel gave no answer")


def has_ipv6() -> bool:
    """Return whether the kernel makes IPv6 sockets; with ``ipv6.disable=1`` it does not. Raises OSError."""
    try:
        _socket.socket(_socket.AF_INET6, _socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # nor would it make any other
            raise
        return False
    return True


def refusal_error(task: str, refusal: messages.Refusal) -> CaptureError:
    """Return the error for a refusal: a capability is missing, the kernel lacks something, or it refused."""
    error: CaptureError = KernelError(task, refusal.errno, refusal.explanation)
    if refusal.errno == errno.EPERM:
        error = PrivilegeError(task)
    elif refusal.errno in UNSUPPORTED:
        words = ", ".join(filter(None, (os.strerror(refusal.errno), refusal.explanation)))
        error = MissingFeatureError(f"this kernel cannot {task} ({words})", "`capture doctor` says what is missing.")
    error.task = task
    return error


class NetlinkSocket:
    """A connection to one netlink protocol of the namespace in which it was opened."""

    def __init__(self, socket: _socket.socket) -> None:
        self._socket = socket
        self._sequence = 0

    @classmethod
    def open(cls, protocol: int, task: str) -> Self:
        """Open a socket of a NETLINK_... protocol. Raise UnsupportedError if the kernel does not have it."""
        try:
            socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, protocol)
            for option in (NETLINK_EXT_ACK, NETLINK_CAP_ACK):
                _set_if_known(socket, option)
        except OSError as error:
            raise refusal_error(task, _refusal_of(error)) from error
        return cls(socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. After tables were replaced this waits some 10 ms, while the kernel frees the old ones."""
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes, task: str) -> list[bytes]:
        """Send one request, wait for its acknowledgement and return the bodies of the answers before it.

        Raises KernelError, PrivilegeError or UnsupportedError, as the kernel refuses.
        """
        sequence = self._begin(kind, flags | messages.NLM_F_ACK, body, task)
        return self._answers(sequence, task)[0]

    def dump(self, kind: int, body: bytes, task: str) -> list[bytes]:
        """Return the bodies of all objects of a kind, as they were at one moment.

        A dump takes several datagrams; objects that change in between make it inconsistent, and it is begun
        again. Raises KernelError after ten of those, and as ``request`` does.
        """
        for _ in range(DUMP_ATTEMPTS):
            sequence = self._begin(kind, messages.NLM_F_DUMP, body, task)
            bodies, consistent = self._answers(sequence, task)
            if consistent:
                return bodies
        raise KernelError(task, errno.EINTR, f"it changed during each of {DUMP_ATTEMPTS} readings, by another process")

    def request_each(
        self, kind: int, flags: int, bodies: Sequence[bytes], task: str
    ) -> Iterator[tuple[int, messages.Message]]:
        """Send requests in one datagram, and yield the answers, each with the number of its request."""
        first = self.next_sequences(len(bodies))
        encode, flags = messages.encode_message, flags | messages.NLM_F_REQUEST
        self.send(b"".join(encode(kind, flags, first + number, body) for number, body in enumerate(bodies)), task)
        for message in self.drain(task):
            yield message.sequence - first, message

    def next_sequences(self, count: int) -> int:
        """Reserve sequence numbers for a batch and return the first."""
        first = self._sequence + 1
        self._sequence += count
        return first

    def send(self, datagram: bytes | bytearray, task: str) -> None:
        """Send bytes in one piece; the send buffer grows when they need it."""
        try:
            self._send_or_grow(datagram)
        except OSError as error:
            too_large = error.errno == errno.EMSGSIZE
            words = f"{len(datagram)} bytes at once; net.core.wmem_max allows less" if too_large else ""
            raise refusal_error(task, _refusal_of(error, words)) from error

    def drain(self, task: str) -> Iterator[messages.Message]:
        """Yield the messages that are waiting. Those that the kernel dropped for lack of room (ENOBUFS) are missing."""
        while True:
            try:
                datagram = self._receive(task)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise refusal_error(task, _refusal_of(error)) from error
            else:
                yield from messages.decode_messages(datagram)

    def _begin(self, kind: int, flags: int, body: bytes, task: str) -> int:
        sequence = self.next_sequences(1)
        self.send(messages.encode_message(kind, flags | messages.NLM_F_REQUEST, sequence, body), task)
        return sequence

    def _answers(self, sequence: int, task: str) -> tuple[list[bytes], bool]:
        """Read until the request is acknowledged or its dump is done; also return whether the dump is consistent."""
        bodies: list[bytes] = []
        consistent = True
        for message in self.drain(task):
            if message.sequence != sequence:
                continue  # left over from a request that ended in an error
            if message.flags & messages.NLM_F_DUMP_INTR:
                consistent = False
            if message.kind not in (messages.NLMSG_ERROR, messages.NLMSG_DONE):
                bodies.append(message.body)
                continue
            refusal = messages.decode_refusal(message)
            if refusal:
                raise refusal_error(task, refusal)
            return bodies, consistent
        raise refusal_error(task, NO_ANSWER)

    def _receive(self, task: str) -> bytes:
        """Return the next datagram. Raises OSError; BlockingIOError if there is none."""
        datagram = self._socket.recv(RECEIVE_SIZE, _socket.MSG_DONTWAIT | _socket.MSG_TRUNC)
        if len(datagram) > RECEIVE_SIZE:  # MSG_TRUNC: it has the length of what was sent, not of what was read
            raise KernelError(task, errno.EMSGSIZE, f"an answer of {len(datagram)} bytes, we read {RECEIVE_SIZE}")
        return datagram

    def _send_or_grow(self, datagram: bytes | bytearray) -> None:
        try:
            self._socket.send(datagram)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            try:  # to grow beyond net.core.wmem_max needs NET_ADMIN, else the kernel clips it
                self._socket.setsockopt(_socket.SOL_SOCKET, SO_SNDBUFFORCE, len(datagram))
            except PermissionError:
                self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, len(datagram))
            self._socket.send(datagram)


def _refusal_of(error: OSError, words: str = "") -> messages.Refusal:
    return messages.Refusal(error.errno or errno.EIO, words)


def _set_if_known(socket: _socket.socket, option: int) -> None:
    """Request better error reports. A kernel that has none (before 4.12, gVisor) still gives an errno."""
    try:
        socket.setsockopt(SOL_NETLINK, option, 1)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            socket.close()
            raise
