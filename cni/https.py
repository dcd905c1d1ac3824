"""One request to a server, over TLS or without, that ends by a deadline, whatever the server and the network do.

    URL ─> addresses of its host ─> TCP ─> TLS ─> request ─> answer
           (a thread: getaddrinfo(3) has no deadline of its own)

The modules ``ssl``, ``socket`` and ``http.client`` cost 40 ms at import, twice what the plugin takes for a pod
without a look-up. So this uses the C modules ``_ssl`` and ``_socket`` that they are built on, as they do.
"""

from __future__ import annotations

import _socket
import _ssl
import _thread
import os
import time

from capture.model.addresses import is_decimal
from capture.model.values import Value
from cni import http_response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.http_response import HttpResponse

TlsError = _ssl.SSLError
"""An OSError; ``reason`` has OpenSSL's words."""
CertificateError = _ssl.SSLCertVerificationError
"""A TlsError: the server's certificate is not trusted; ``verify_message`` has the reason."""
HangupError = (_ssl.SSLEOFError, _ssl.SSLZeroReturnError)
"""TlsErrors: the server has closed the connection in the middle."""


class UnresolvedError(TimeoutError):
    """The resolver did not answer in time."""


DEFAULT_PORTS = {"http": 80, "https": 443}
READ_SIZE = 65536


class UrlServer(Value):
    """The server of a URL: ``https://[fd00::1]:6443/prefix``."""

    scheme: str
    host: str
    port: int
    authority: str
    """Host and port as the URL has them."""
    path: str


def parse_url(url: str) -> UrlServer | None:
    """Return the server of a URL without user, query and fragment; None if it is something else."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    if not url.isascii() or not url.isprintable() or any(sign in url for sign in " @?#"):
        return None
    if authority.startswith("["):
        host, bracket, port = authority[1:].partition("]")
        if not bracket or not (port == "" or port.startswith(":")):
            return None
        port = port[1:]
    else:
        host, _, port = authority.partition(":")
    number = int(port) if is_decimal(port, 5) else 0 if port else DEFAULT_PORTS.get(scheme.lower(), 0)
    if scheme.lower() not in DEFAULT_PORTS or not host or not 0 < number < 65536:
        return None
    return UrlServer(scheme.lower(), host, number, authority, f"/{path}".rstrip("/"))


def tls_context(authority: str | None, *, verifies: bool, client: tuple[bytes, bytes] | None) -> _ssl._SSLContext:
    """Return how a server is verified, and what it is shown; raise OSError or ValueError for what cannot be used.

    ``authority`` has certificates in PEM that are trusted, in place of the system's. ``client`` is a certificate and
    its key in PEM.
    """
    context = _ssl._SSLContext(_ssl.PROTOCOL_TLS_CLIENT)  # noqa: SLF001  # see the module's description
    if authority is not None:
        context.load_verify_locations(None, None, authority)
    elif verifies:
        context.set_default_verify_paths()
    # As Go's clients: each authority of the kubeconfig is trusted, an intermediate one too.
    context.verify_flags |= _ssl.VERIFY_X509_PARTIAL_CHAIN
    if not verifies:
        context.check_hostname = False
        context.verify_mode = _ssl.CERT_NONE
    if client is not None:
        _show_certificate(context, *client)
    return context


def _show_certificate(context: _ssl._SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a certificate and its key. OpenSSL reads them from a file: one in memory, of which nothing stays."""
    memory = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        os.write(memory, certificate + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{memory}", None, "")  # without a password it would ask a terminal
    finally:
        os.close(memory)


class Socket(_socket.socket):
    """A socket that can be referred to weakly, as TLS does."""

    __slots__ = ("__weakref__",)


def exchange(
    server: UrlServer, tls: _ssl._SSLContext | None, name: str, request: bytes, deadline: float
) -> HttpResponse:
    """Send a request and return the answer. ``name`` is what the server's certificate has to be for.

    ``deadline`` is a moment of ``time.monotonic``. Raises TimeoutError after it, other kinds of OSError, and what
    ``http_response.parse_response`` raises; ConnectionResetError if there is no answer at all.
    """
    plain = connect_to_server(server, deadline)
    try:
        write, read = plain.send, plain.recv
        if tls is not None:
            plain.settimeout(seconds_until(deadline))
            secured = tls._wrap_socket(plain, False, name)  # type: ignore[attr-defined]  # noqa: SLF001  # without the module ssl
            secured.do_handshake()
            write, read = secured.write, secured.read
        while request:
            plain.settimeout(seconds_until(deadline))
            request = request[write(request) :]
        return http_response.parse_response(_read_all(plain, read, deadline))
    finally:
        plain.close()


def _read_all(plain: Socket, read: Callable[[int], bytes], deadline: float) -> bytearray:
    """Return all that comes until the server closes the connection, as the request tells it to."""
    received = bytearray()
    while True:
        plain.settimeout(seconds_until(deadline))  # also against a server that sends a byte now and then
        try:
            piece = read(READ_SIZE)
        except HangupError:
            piece = b""
        if not piece and not received:
            raise ConnectionResetError
        if not piece:
            return received
        received += piece
        http_response.require_http(received)


def connect_to_server(server: UrlServer, deadline: float) -> Socket:
    """Return a connection to the first address of the server that takes one; each gets its share of the time."""
    addresses = resolve_host(server.host, server.port, deadline)
    failure: OSError = TimeoutError()
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = Socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
        try:
            connection.settimeout(seconds_until(deadline) / (len(addresses) - index))
            connection.connect(address)
            # The request comes right after the end of the handshake: it must not wait for an answer to that.
            connection.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure


def resolve_host(host: str, port: int, deadline: float) -> list[tuple[int, int, int, str, Any]]:
    """Return what getaddrinfo(3) knows of a host; raise OSError, and TimeoutError without an answer by ``deadline``."""
    text = host.encode()  # getaddrinfo would import the codec "idna" for str
    try:
        return _socket.getaddrinfo(text, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    except _socket.gaierror:
        pass
    answers: list[list[tuple[int, int, int, str, Any]] | OSError] = []
    is_answered = _thread.allocate_lock()
    is_answered.acquire()

    def query() -> None:
        try:
            answers.append(_socket.getaddrinfo(text, port, 0, _socket.SOCK_STREAM))
        except OSError as error:
            answers.append(error)
        is_answered.release()

    _thread.start_new_thread(query, ())
    if not is_answered.acquire(timeout=seconds_until(deadline)):
        raise UnresolvedError(f"its name {host} is not resolved in time")
    if isinstance(answers[0], OSError):
        raise answers[0]
    return answers[0]


def seconds_until(deadline: float) -> float:
    """Return the seconds until a moment; TimeoutError if it has passed."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
