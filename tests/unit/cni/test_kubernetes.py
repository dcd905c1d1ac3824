"""The client against a server that answers like the Kubernetes API: each way to fail is an error of its own."""

import base64
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import https
from cni import kubeconfig as kubeconfigs
from cni.codes import BAD_ANSWER, BAD_KUBECONFIG, FORBIDDEN, NOT_TRUSTED, POD_NOT_FOUND, UNAUTHORIZED
from cni.kubernetes import check_server, read_kubeconfig, read_pod
from cni.pod import Identity
from cni.protocol import INVALID_ENVIRONMENT, TRY_AGAIN_LATER, CniError
from support.cluster.fake_kubernetes import (
    Behaviour,
    FakeKubernetes,
    authority,
    cut_off,
    cut_off_without_length,
    dribble,
    html,
    nothing,
    raw,
    server_certificate,
    slow,
    status,
)

WEB = Identity("shop", "web-0", "uid-1")
POD = {"metadata": {"name": "web-0", "uid": "uid-1"}, "spec": {"containers": [{"name": "web"}]}}
SOON = 1.0  # a deadline in seconds, where the test waits for it
SLOW_MACHINE = 5.0  # seconds that a machine under load may be late by


@pytest.fixture
def server() -> Iterator[FakeKubernetes]:
    with FakeKubernetes() as fake:
        fake.pods["shop", "web-0"] = POD
        yield fake


def answer_of(
    server: FakeKubernetes,
    user: dict[str, object] | None = None,
    cluster: dict[str, object] | None = None,
    identity: Identity = WEB,
    deadline: float = 5.0,
) -> dict[str, Any]:
    return read_pod(kubeconfigs.parse_kubeconfig(server.kubeconfig(user, **cluster or {}), "/k"), identity, deadline)


def refused(
    server: FakeKubernetes,
    user: dict[str, object] | None = None,
    cluster: dict[str, object] | None = None,
    identity: Identity = WEB,
    deadline: float = SOON,
) -> CniError:
    started = time.monotonic()
    with pytest.raises(CniError) as error:
        answer_of(server, user, cluster, identity, deadline)
    assert time.monotonic() - started < SOON + SLOW_MACHINE
    return error.value


# --- it works --------------------------------------------------------------------------------------------------


def test_a_pod_is_read_with_one_request(server: FakeKubernetes) -> None:
    assert answer_of(server) == POD
    assert [(request.path, request.token) for request in server.requests] == [
        ("/api/v1/namespaces/shop/pods/web-0", "")
    ]


def test_the_servers_url_may_have_a_path() -> None:
    with FakeKubernetes(prefix="/k8s/clusters/c-1") as server:
        server.pods["shop", "web-0"] = POD
        assert answer_of(server) == POD


def test_the_server_may_have_an_ipv6_address() -> None:
    with FakeKubernetes(server_certificate(address="::1"), address="::1") as server:
        server.pods["shop", "web-0"] = POD
        assert answer_of(server) == POD


def test_a_server_without_tls_is_used_if_there_is_no_token_to_lose() -> None:
    with FakeKubernetes(None) as server:
        server.pods["shop", "web-0"] = POD
        assert answer_of(server) == POD
        error = refused(server, {"token": "secret"})
        assert error.code == BAD_KUBECONFIG
        assert "secret" not in error.message + error.details


@pytest.mark.parametrize("size", [1, 10, 5000])
def test_an_answer_in_chunks(server: FakeKubernetes, size: int) -> None:
    text = json.dumps(POD).encode()
    chunks = [text[place : place + size] for place in range(0, len(text), size)]
    body = b"".join(b"%x;extension\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    head = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for end in (b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n"):
        server.will(raw(head + body + end))
        assert answer_of(server) == POD


def test_the_request_does_not_wait_for_an_answer_to_the_handshake(server: FakeKubernetes) -> None:
    """Nagle's algorithm holds a second small packet back until the first is acknowledged (RFC 896): 40 ms."""
    where = https.parse_url(server.url)
    assert where is not None
    with contextlib.closing(https.connect_to_server(where, time.monotonic() + 5)) as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_big_pod_comes_whole(server: FakeKubernetes) -> None:
    server.pods["shop", "web-0"] = big = POD | {"more": "x" * 3_000_000}
    assert answer_of(server) == big


# --- who we are ------------------------------------------------------------------------------------------------


def test_the_token_is_sent(server: FakeKubernetes, tmp_path: Path) -> None:
    server.accepts("secret")
    file = tmp_path / "token"
    file.write_text("secret\n")
    assert answer_of(server, {"token": "secret"}) == POD
    assert answer_of(server, {"tokenFile": str(file)}) == POD
    assert answer_of(server, {"token": "old", "tokenFile": str(file)}) == POD  # as client-go has it, the file counts


def test_a_token_that_is_renewed_meanwhile_is_taken(server: FakeKubernetes, tmp_path: Path) -> None:
    server.accepts("new")
    file = tmp_path / "token"
    file.write_text("old")

    def renew(handler: Any) -> None:
        file.write_text("new")
        status(401, "Unauthorized")(handler)

    server.will(renew)
    assert answer_of(server, {"tokenFile": str(file)}) == POD
    assert [request.token for request in server.requests] == ["old", "new"]


def test_a_client_certificate_from_files_and_in_place(tmp_path: Path) -> None:
    mine = authority("clients").issue("plugin")
    (tmp_path / "crt").write_bytes(mine.certificate)
    (tmp_path / "key").write_bytes(mine.key)
    in_place: dict[str, object] = {
        "client-certificate-data": base64.b64encode(mine.certificate).decode(),
        "client-key-data": base64.b64encode(mine.key).decode(),
    }
    from_files: dict[str, object] = {"client-certificate": str(tmp_path / "crt"), "client-key": str(tmp_path / "key")}
    with FakeKubernetes(clients_of=authority("clients")) as server:
        server.pods["shop", "web-0"] = POD
        open_before = len(os.listdir("/proc/self/fd"))
        assert answer_of(server, in_place) == POD
        assert answer_of(server, from_files) == POD
        assert {request.client for request in server.requests} == {"plugin"}
        assert len(os.listdir("/proc/self/fd")) <= open_before + 2  # the server's own


@pytest.mark.parametrize(
    "user",
    [
        {"tokenFile": "/does/not/exist"},
        {"tokenFile": "/dev/null"},
        {"token": "two words"},
        {"token": "caf\u00e9"},
        {"client-certificate-data": "Y2VydGlmaWNhdGU="},
        {"client-certificate-data": "Y2VydGlmaWNhdGU=", "client-key-data": "a2V5"},
        {"client-certificate-data": "not base64", "client-key-data": "a2V5"},
        {"client-certificate": "/does/not/exist", "client-key": "/does/not/exist"},
        {"tokenFile": "FIFO"},
        {"client-certificate": "FIFO", "client-key": "FIFO"},
    ],
)
def test_credentials_that_cannot_be_used_are_not_sent(
    server: FakeKubernetes, user: dict[str, object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    user = {key: str(tmp_path / "fifo") if value == "FIFO" else value for key, value in user.items()}
    assert refused(server, user).code == BAD_KUBECONFIG
    assert server.requests == []


# --- answers that do not help, and those that come later -------------------------------------------------------

PASSING: dict[str, list[Behaviour]] = {
    "the pod appears late": [status(404), status(404), status(404)],
    "429": [status(429)],
    "429 with Retry-After": [status(429, retry_after=0)],
    "500": [status(500)],
    "503": [status(503)],
    "cut off": [cut_off()],
    "cut off, without a length": [cut_off_without_length()],
    "no answer": [nothing()],
    "one after the other": [status(404), status(429), nothing(), cut_off(), status(502)],
}


@pytest.mark.parametrize("behaviours", PASSING.values(), ids=PASSING.keys())
def test_a_passing_fault_is_waited_for(server: FakeKubernetes, behaviours: list[Behaviour]) -> None:
    server.will(*behaviours)
    assert answer_of(server) == POD
    assert len(server.requests) == len(behaviours) + 1


def test_a_pod_that_appears_late() -> None:
    with FakeKubernetes() as server:
        threading.Timer(0.3, server.pods.__setitem__, [("shop", "web-0"), POD]).start()
        assert answer_of(server) == POD


def test_retry_after_is_obeyed(server: FakeKubernetes) -> None:
    server.will(status(429, retry_after=1))
    assert answer_of(server) == POD
    first, second = server.requests
    assert 1.0 <= second.at - first.at < 1.0 + SLOW_MACHINE


def test_retry_after_beyond_the_deadline_is_not_waited_for(server: FakeKubernetes) -> None:
    server.will(status(429, retry_after=60))
    started = time.monotonic()
    assert refused(server).code == TRY_AGAIN_LATER
    assert time.monotonic() - started < 30
    assert len(server.requests) == 1


LASTING: list[tuple[Behaviour, int, str]] = [
    (status(404, 'pods "web-0" not found'), POD_NOT_FOUND, 'does not have the pod: 404 pods "web-0" not found'),
    (status(429, "too many requests"), TRY_AGAIN_LATER, "cannot answer now: 429 too many requests"),
    (status(500, "etcdserver: no leader"), TRY_AGAIN_LATER, "cannot answer now: 500 etcdserver: no leader"),
    (html(503), TRY_AGAIN_LATER, "cannot answer now: 503 Service Unavailable"),
    (cut_off(), BAD_ANSWER, "answer is cut off"),
    (cut_off_without_length(), BAD_ANSWER, "answer is not JSON"),
    (nothing(), TRY_AGAIN_LATER, "closed the connection without an answer"),
    (slow(30), TRY_AGAIN_LATER, "no answer in time"),
    (dribble(), TRY_AGAIN_LATER, "no answer in time"),
    (raw(b"HTTP/1.1 200 OK\r\n\r\n[]"), BAD_ANSWER, "not a JSON object"),
    (raw(b"HTTP/1.1 200 OK\r\n\r\n\xff"), BAD_ANSWER, "not JSON"),
    (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}"), BAD_ANSWER, "answer is cut off"),
]


@pytest.mark.parametrize(("behaviour", "code", "message"), LASTING, ids=range(len(LASTING)))
def test_a_lasting_fault_is_an_error_after_the_deadline(
    server: FakeKubernetes, behaviour: Behaviour, code: int, message: str
) -> None:
    server.always(behaviour)
    error = refused(server, deadline=0.3)
    if error.code != code or message not in error.message:  # under load, the server may not get its turn so soon
        with pytest.raises(CniError) as patient:
            answer_of(server, deadline=SOON + SLOW_MACHINE)
        error = patient.value
    assert error.code == code
    assert error.message.startswith("pod shop/web-0: the API server")
    assert message in error.message
    assert " attempts in " in error.message


FINAL: list[tuple[Behaviour, int, str]] = [
    (status(401, "Unauthorized"), UNAUTHORIZED, "does not accept our credentials: 401 Unauthorized"),
    (status(403, 'User "plugin" cannot get pods'), FORBIDDEN, 'us to read pods: 403 User "plugin" cannot get pods'),
    (html(404), BAD_ANSWER, "does not answer as an API server of Kubernetes: it says 404 Not Found"),
    (html(301), BAD_ANSWER, "it says 301 Moved Permanently"),
    (status(400, "bad"), BAD_ANSWER, "it says 400 bad"),
    (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), BAD_ANSWER, "its answer is not HTTP"),
    (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\n" % (b"f" * 17)), BAD_ANSWER, "is not HTTP"),
    (raw(b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000)), BAD_ANSWER, "is not HTTP"),
    (raw(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000), BAD_ANSWER, "its answer is not HTTP"),
]


@pytest.mark.parametrize(("behaviour", "code", "message"), FINAL, ids=range(len(FINAL)))
def test_a_fault_that_no_waiting_ends_is_an_error_at_once(
    server: FakeKubernetes, behaviour: Behaviour, code: int, message: str
) -> None:
    server.always(behaviour)
    error = refused(server)
    assert error.code == code
    assert message in error.message
    assert error.details
    assert len(server.requests) == 1


def test_a_later_pod_of_the_same_name_is_not_taken_for_this_one(server: FakeKubernetes) -> None:
    server.pods["shop", "web-0"] = POD | {"metadata": {"name": "web-0", "uid": "uid-2"}}
    error = refused(server)
    assert error.code == POD_NOT_FOUND
    assert "another pod of this name than uid-1" in error.message
    server.will(lambda handler: handler.answer(200, POD))
    assert answer_of(server) == POD


def test_a_server_that_does_not_listen_is_tried_again() -> None:
    with FakeKubernetes() as server:
        pass
    error = refused(server)
    assert (error.code, "Connection refused" in error.message) == (TRY_AGAIN_LATER, True)


def test_a_server_that_takes_no_connections(server: FakeKubernetes) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        error = refused(server, cluster={"server": f"https://127.0.0.1:{address[1]}"})
        for filler in fillers:
            filler.close()
    assert error.code == TRY_AGAIN_LATER


# --- whom we talk to -------------------------------------------------------------------------------------------


def test_a_certificate_of_another_authority_is_not_trusted() -> None:
    with FakeKubernetes(server_certificate("another")) as server:
        error = refused(server, {"token": "secret"})
        assert error.code == NOT_TRUSTED
        assert "is not trusted: unable to get local issuer certificate" in error.message
        assert server.requests == []


def test_a_certificate_for_another_address_is_not_trusted() -> None:
    with FakeKubernetes(server_certificate(address="10.9.9.9")) as server:
        error = refused(server)
        assert (error.code, "mismatch" in error.message) == (NOT_TRUSTED, True)
        server.pods["shop", "web-0"] = POD
        assert answer_of(server, cluster={"tls-server-name": "kubernetes.default"}) == POD


def test_an_expired_certificate_is_not_trusted() -> None:
    with FakeKubernetes(server_certificate(expired=True)) as server:
        error = refused(server)
        assert (error.code, "expired" in error.message) == (NOT_TRUSTED, True)


def test_without_an_authority_the_systems_authorities_count(server: FakeKubernetes) -> None:
    error = refused(server, cluster={"certificate-authority-data": None})
    assert error.code == NOT_TRUSTED


def test_a_file_with_the_authority(server: FakeKubernetes, tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_bytes(authority("kubernetes").pem)
    cluster: dict[str, object] = {"certificate-authority-data": None, "certificate-authority": str(file)}
    assert answer_of(server, cluster=cluster) == POD
    file.write_text("no certificate")
    assert refused(server, cluster=cluster).code == BAD_KUBECONFIG
    file.unlink()
    assert refused(server, cluster=cluster).code == BAD_KUBECONFIG


def test_verification_can_be_left_out_by_saying_so() -> None:
    with FakeKubernetes(server_certificate("another", "10.9.9.9")) as server:
        server.pods["shop", "web-0"] = POD
        cluster: dict[str, object] = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
        assert answer_of(server, cluster=cluster) == POD


def test_a_server_without_tls() -> None:
    with FakeKubernetes(None) as server:
        trust = base64.b64encode(authority("kubernetes").pem).decode()
        url = server.url.replace("http:", "https:")
        error = refused(server, cluster={"server": url, "certificate-authority-data": trust})
        assert (error.code, "no TLS connection with" in error.message) == (NOT_TRUSTED, True)


def test_a_client_certificate_that_the_server_refuses() -> None:
    mine = authority("another").issue("plugin")
    user: dict[str, object] = {
        "client-certificate-data": base64.b64encode(mine.certificate).decode(),
        "client-key-data": base64.b64encode(mine.key).decode(),
    }
    with FakeKubernetes(clients_of=authority("clients")) as server:
        assert refused(server, user).code in (NOT_TRUSTED, TRY_AGAIN_LATER)
        assert server.requests == []


# --- the request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity",
    [
        Identity("shop", "../../secrets/web"),
        Identity("shop", "web-0?watch=true"),
        Identity("shop", "web-0#"),
        Identity("shop", "web 0"),
        Identity("shop", "web-0\r\nX: y"),
        Identity("shop/pods", "web-0"),
        Identity("..", "web-0"),
        Identity("shop", "w" * 254),
        Identity("shop", "\u0661"),
        Identity("shop", "%2e%2e"),
        Identity("shop", ""),
    ],
)
def test_names_that_kubernetes_does_not_have_are_not_requested(server: FakeKubernetes, identity: Identity) -> None:
    assert refused(server, identity=identity).code == INVALID_ENVIRONMENT
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "10.0.0.1:6443",
        "ftp://10.0.0.1",
        "https://",
        "https://user:secret@10.0.0.1",
        "https://10.0.0.1/?a=b",
        "https://10.0.0.1:port",
        "https://10.0.0.1:99999",
        "https://[fd00::1",
        "unix:///run/api",
    ],
)
def test_a_server_that_is_no_url(server: FakeKubernetes, url: str) -> None:
    error = refused(server, cluster={"server": url})
    assert error.code == BAD_KUBECONFIG
    assert "secret" not in error.message + error.details


def test_status_requests_the_version(server: FakeKubernetes) -> None:
    check_server(kubeconfigs.parse_kubeconfig(server.kubeconfig({"token": "t"}), "/k"), SOON)
    server.accepts("other")
    with pytest.raises(CniError) as error:
        check_server(kubeconfigs.parse_kubeconfig(server.kubeconfig({"token": "t"}), "/k"), SOON)
    assert error.value.code == UNAUTHORIZED


# --- the kubeconfig on disk ------------------------------------------------------------------------------------


def test_a_kubeconfig_that_cannot_be_read_is_refused(server: FakeKubernetes, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    with pytest.raises(CniError) as error:
        read_kubeconfig(str(file))
    assert error.value.code == BAD_KUBECONFIG
    assert error.value.message == f"kubeconfig {file}: cannot be read: No such file or directory"
    os.mkfifo(file)
    with pytest.raises(CniError) as error:
        read_kubeconfig(str(file))
    assert error.value.message == f"kubeconfig {file}: cannot be read: it is not a regular file"
    file.unlink()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CniError) as error:
        read_kubeconfig(str(file))
    assert error.value.code == BAD_KUBECONFIG
    file.write_text(server.kubeconfig())
    assert read_pod(read_kubeconfig(str(file)), WEB) == POD
