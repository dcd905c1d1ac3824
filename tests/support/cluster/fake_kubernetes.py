"""A server that answers like the API server of Kubernetes, and misbehaves on command.

    with FakeKubernetes() as server:
        server.pods["shop", "web-0"] = {"metadata": ..., "spec": ...}
        server.will(status(429, "slow down", retry_after=1), cut_off())      # the next two requests
        path.write_text(server.kubeconfig(token="secret"))

It listens on 127.0.0.1 with TLS; ``Authority`` makes the certificates. ``requests`` is what it was sent.
"""

import base64
import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

# --- certificates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority like that of a cluster."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._build(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.pem = self._signed(certificate)

    def issue(
        self, name: str, *addresses: str, names: tuple[str, ...] = (), expired: bool = False, group: str = ""
    ) -> Certificate:
        """Return a certificate for a server at these addresses, or for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
        subject = x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternatives: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(text)) for text in addresses]
        alternatives += [x509.DNSName(text) for text in names]
        certificate = self._build(subject, key, expired=expired)
        if alternatives:
            certificate = certificate.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return Certificate(
            self._signed(certificate),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        last = now - dt.timedelta(days=1) if expired else now + dt.timedelta(days=1)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(last)
        )

    def _signed(self, certificate: x509.CertificateBuilder) -> bytes:
        return certificate.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@cache
def authority(name: str) -> Authority:
    """Return the authority of that name; making one takes milliseconds, and all tests can share it."""
    return Authority(name)


@cache
def server_certificate(
    authority_name: str = "kubernetes", address: str = "127.0.0.1", *, expired: bool = False
) -> Certificate:
    """Return a server's certificate."""
    return authority(authority_name).issue("kube-apiserver", address, names=("kubernetes.default",), expired=expired)


# --- misbehaviour ----------------------------------------------------------------------------------------------

Behaviour = Callable[["_Handler"], None]


def status(code: int, message: str = "as the test wants", retry_after: object = None) -> Behaviour:
    """Answer with an object ``Status``, as the API server does."""

    def behave(handler: _Handler) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        handler.answer(code, {"kind": "Status", "apiVersion": "v1", "message": message, "code": code}, headers)

    return behave


def raw(answer: bytes) -> Behaviour:
    """Answer with these bytes, and close."""

    def behave(handler: _Handler) -> None:
        handler.wfile.write(answer)

    return behave


def html(code: int) -> Behaviour:
    """Answer as a web server that knows nothing of Kubernetes."""
    first = f"HTTP/1.1 {code} {HTTPStatus(code).phrase}".encode()
    return raw(first + b"\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>")


def cut_off() -> Behaviour:
    """Promise more than is sent."""
    return raw(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"kind": "Pod", "metadata": {')


def cut_off_without_length() -> Behaviour:
    """Send half an object and no length, so that only the object shows it."""
    return raw(b'HTTP/1.1 200 OK\r\n\r\n{"kind": "Pod", "metadata": {')


def nothing() -> Behaviour:
    """Close without an answer."""
    return raw(b"")


def slow(seconds: float) -> Behaviour:
    """Send nothing for a while, then close."""

    def behave(handler: _Handler) -> None:
        handler.server.stopping.wait(seconds)

    return behave


def dribble() -> Behaviour:
    """Send a header that never ends, byte by byte, so that no single wait is long."""

    def behave(handler: _Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not handler.server.stopping.wait(0.05):
            handler.wfile.write(b"x")

    return behave


# --- the server ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """One request: when, for what, as whom."""

    at: float
    path: str
    token: str
    client: str
    """The name in the client's certificate; "" without one."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    fake: "FakeKubernetes"
    stopping: threading.Event

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # the base class would look its own name up

    def get_request(self) -> Any:
        connection, address = super().get_request()
        if self.fake.tls is not None:
            # The handshake comes with the first read, in the thread of the connection.
            connection = self.fake.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up, or refuse TLS with us, are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5

    def do_GET(self) -> None:
        self.close_connection = True
        fake = self.server.fake
        certificate: Any = self.request.getpeercert() if fake.tls is not None else None
        names = dict(entry[0] for entry in certificate["subject"]) if certificate else {}
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        behaviour = fake.next_behaviour(Recorded(time.monotonic(), self.path, token, names.get("commonName", "")))
        if behaviour is not None:
            behaviour(self)
        elif fake.token is not None and token != fake.token:
            status(401, "Unauthorized")(self)
        else:
            self._answer_well()

    def do_PATCH(self) -> None:
        self.do_POST()

    def do_DELETE(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.close_connection = True
        sent = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or "null")
        self.server.fake.posted.append((self.path, sent))
        behaviour = self.server.fake.next_behaviour(Recorded(time.monotonic(), self.path, "", ""))
        if behaviour is not None:
            behaviour(self)
        else:
            self.answer(201, sent if isinstance(sent, dict) else {})

    def _answer_well(self) -> None:
        fake = self.server.fake
        path, _, query = self.path.removeprefix(fake.prefix).partition("?")
        parts = path.split("/")
        if path == "/api/v1/pods":
            parameters = dict(parse_qsl(query))
            if parameters.get("watch") == "true":
                fake.history.stream(self, parameters)
            else:
                fake.history.answer_list(self)
        elif path in fake.objects:
            self.answer(200, fake.objects[path])
        elif path == "/version":
            self.answer(200, {"major": "1", "minor": "30"})
        elif parts[:4] == ["", "api", "v1", "namespaces"] and (pod := fake.pods.get((parts[4], parts[6]))):
            self.answer(200, pod)
        else:
            status(404, f'pods "{parts[-1]}" not found')(self)

    def answer(self, code: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content, separators=(",", ":")).encode()  # as the API server's own
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name http.server gives it
        """Be quiet."""


class History:
    """The history of the pods: a list, and watches from any version that is not forgotten."""

    def __init__(self, pods: dict[tuple[str, str], object]) -> None:
        self._pods = pods
        self._changed = threading.Condition()
        self._events: list[tuple[int, str, object]] = []
        self._cuts = 0
        self.version = 1000
        self.oldest = 0

    def happens(self, kind: str, pod: dict[str, Any]) -> None:
        """Let a pod be ADDED, MODIFIED or DELETED."""
        with self._changed:
            self.version += 1
            pod = pod | {"metadata": pod["metadata"] | {"resourceVersion": str(self.version)}}
            key = pod["metadata"]["namespace"], pod["metadata"]["name"]
            if kind == "DELETED":
                self._pods.pop(key, None)
            else:
                self._pods[key] = pod
            self._events.append((self.version, kind, pod))
            self._changed.notify_all()

    def bookmark(self) -> None:
        """Send watches the version, and nothing else."""
        with self._changed:
            self.version += 1
            self._events.append((self.version, "BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}))
            self._changed.notify_all()

    def cut(self) -> None:
        """Close the connections of all watches."""
        with self._changed:
            self._cuts += 1
            self._changed.notify_all()

    def forget(self) -> None:
        """Answer 410 to watches that request what happened before now."""
        with self._changed:
            self.version += 1
            self.oldest = self.version
        self.cut()

    def answer_list(self, handler: _Handler) -> None:
        """Answer with all pods."""
        with self._changed:
            items, version = list(self._pods.values()), str(self.version)
        handler.answer(200, {"kind": "PodList", "metadata": {"resourceVersion": version}, "items": items})

    def stream(self, handler: _Handler, parameters: dict[str, str]) -> None:
        """Answer with what happens after a version, until the test cuts it off."""
        version = int(parameters.get("resourceVersion", "0"))
        handler.send_response(200)
        handler.end_headers()
        if version < self.oldest:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            handler.wfile.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
            return
        with self._changed:
            cuts = self._cuts
            while self._cuts == cuts and not handler.server.stopping.is_set():
                for number, kind, pod in self._events:
                    if number > version and (kind != "BOOKMARK" or "allowWatchBookmarks" in parameters):
                        handler.wfile.write(json.dumps({"type": kind, "object": pod}).encode() + b"\n")
                        version = number
                self._changed.wait(0.1)


class FakeKubernetes:
    """See the module's description. ``certificate`` None means no TLS; ``prefix`` comes before the paths of the API."""

    def __init__(
        self,
        certificate: Certificate | None = server_certificate(),  # noqa: B008  # shared by all, and never changed
        *,
        clients_of: Authority | None = None,
        prefix: str = "",
        address: str = "127.0.0.1",
    ) -> None:
        self.pods: dict[tuple[str, str], object] = {}
        self.history = History(self.pods)
        self.objects: dict[str, object] = {}
        """Further objects, by path."""
        self.posted: list[tuple[str, Any]] = []
        self.requests: list[Recorded] = []
        self.token: str | None = None
        self.prefix = prefix
        self.tls = _server_context(certificate, clients_of) if certificate else None
        self._behaviours: list[Behaviour] = []
        self._always: Behaviour | None = None
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server_class = type("Server", (_Server,), {"address_family": family})
        self._server: _Server = server_class((address, 0), _Handler)
        self._server.fake = self
        self._server.stopping = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        host = f"[{address}]" if ":" in address else address
        self.url = f"{'https' if certificate else 'http'}://{host}:{self._server.server_address[1]}{prefix}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def will(self, *behaviours: Behaviour) -> None:
        """Behave so for the next requests, one each, before behaving well again."""
        with self._lock:
            self._behaviours += behaviours

    def always(self, behaviour: Behaviour | None) -> None:
        """Behave so from now on."""
        self._always = behaviour

    def accepts(self, token: str) -> None:
        """Accept this token from now on, and no request without it."""
        self.token = token

    def next_behaviour(self, request: Recorded) -> Behaviour | None:
        """Note a request and return how to misbehave; None for not at all."""
        with self._lock:
            self.requests.append(request)
            return self._behaviours.pop(0) if self._behaviours else self._always

    def kubeconfig(self, user: dict[str, object] | None = None, **cluster: object) -> str:
        """Return a kubeconfig for this server, with the authority "kubernetes" unless the cluster has another one."""
        trust: dict[str, object] = {}
        if self.tls is not None:
            trust["certificate-authority-data"] = base64.b64encode(authority("kubernetes").pem).decode()
        return json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": self.url} | trust | cluster}],
                "users": [{"name": "u", "user": user or {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )


def _server_context(certificate: Certificate, clients_of: Authority | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as directory:
        path = Path(directory, "server.pem")
        path.write_bytes(certificate.certificate + certificate.key)
        context.load_cert_chain(path)
    if clients_of is not None:
        context.load_verify_locations(cadata=clients_of.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return context
