"""Reads one pod from the API server of Kubernetes, with a deadline; the error names what is wrong.

    kubeconfig ─> connect ─> GET ─┬─ 200 and the pod ──────────────────────────────> done
                     ^            ├─ 404, 429, 5xx, no or half an answer ─> wait ─┐
                     └────────────┼────────────────────────────────────────────<──┘ until the deadline
                                  └─ 401, 403, a wrong certificate, no API ────────> error at once

The plugin imports this only where a pod has to be looked up: loading OpenSSL costs some milliseconds.
"""

from __future__ import annotations

import binascii
import time

from capture.model.addresses import is_decimal
from capture.model.json_text import JsonError, decode_json, decode_object
from capture.system.files import read_file
from cni import http_response, https
from cni.codes import BAD_ANSWER, BAD_KUBECONFIG, FORBIDDEN, NOT_TRUSTED, POD_NOT_FOUND, UNAUTHORIZED
from cni.kubeconfig import parse_kubeconfig, unusable_kubeconfig
from cni.pod_object import is_same_pod
from cni.protocol import INVALID_ENVIRONMENT, TRY_AGAIN_LATER, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _ssl
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")

    from cni.kubeconfig import Kubeconfig
    from cni.pod import Identity

QUERY_TIMEOUT = 10.0
"""Seconds for everything; kubelet tries again after an error."""
ATTEMPT_TIMEOUT = 4.0
"""Seconds for one request and its response."""
FIRST_RETRY_PAUSE, MAX_RETRY_PAUSE = 0.05, 1.0
MAX_FILE = 1024 * 1024
"""Bytes of a kubeconfig, a token, a certificate."""

REACH_REMEDY = "Check from the node that the API server answers: `curl -k {server}/version`."


class TransientError(CniError):
    """An attempt failed, and the next one may succeed. If none does, the last one that was answered has the reason."""

    def __init__(self, code: int, message: str, details: str = "", pause: float = 0.0) -> None:
        super().__init__(code, message, details)
        self.pause = pause
        self.is_silence = False
        """No response came in time."""


def read_kubeconfig(path: str) -> Kubeconfig:
    """Return the access that a kubeconfig gives; raise ``CniError``."""
    return parse_kubeconfig(read_named_file(path, path).decode("utf-8", "replace"), path)


def read_pod(kubeconfig: Kubeconfig, identity: Identity, timeout: float = QUERY_TIMEOUT) -> dict[str, Any]:
    """Return the object of a pod (core/v1, Pod); raise ``CniError`` after ``timeout`` seconds at the latest."""
    for key, name in (("K8S_POD_NAMESPACE", identity.namespace), ("K8S_POD_NAME", identity.name)):
        if not _is_name(name):
            expected = "a name of Kubernetes: letters, digits, - and ."
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {key}: invalid value {name[:80]!r}: expected {expected}")

    def decode_pod(body: bytes) -> dict[str, Any]:
        plain = _answered_object(body)
        if not is_same_pod(identity, plain):
            raise TransientError(POD_NOT_FOUND, f"the API server has another pod of this name than {identity.uid}")
        return plain

    path = f"/api/v1/namespaces/{identity.namespace}/pods/{identity.name}"
    try:
        return _Query(kubeconfig, path).fetch(decode_pod, timeout)
    except CniError as error:
        raise CniError(error.code, f"pod {identity}: {error.message}", error.details) from None


def check_server(kubeconfig: Kubeconfig, timeout: float = QUERY_TIMEOUT) -> None:
    """Raise ``CniError`` unless the API server answers and accepts who we are."""
    _Query(kubeconfig, "/version").fetch(_answered_object, timeout)


def _is_name(text: str) -> bool:
    """Return whether a text can be the name of an object, and so part of a path (RFC 1123, "subdomain")."""
    plain = text.replace("-", "a").replace(".", "a")
    return len(text) <= 253 and plain.isascii() and plain.isalnum() and text[0] not in "-." and ".." not in text


def server_of(kubeconfig: Kubeconfig) -> https.UrlServer:
    """Return the API server of a kubeconfig; raise ``CniError`` if none can be addressed, or no token be sent there."""
    server = https.parse_url(kubeconfig.server)
    if server is None:
        shown = kubeconfig.server.rpartition("@")[2][:80]  # before an @ could be a password
        raise unusable_kubeconfig(kubeconfig.path, f"'server': invalid value {shown!r}: expected https://ADDRESS:PORT")
    if server.scheme == "http" and not kubeconfig.user.keys().isdisjoint(("token", "tokenFile")):
        problem = "'server' is http, which would send the token in clear text"
        raise unusable_kubeconfig(kubeconfig.path, problem, "Use https in 'server', or leave the token out.")
    return server


def require_usable(kubeconfig: Kubeconfig) -> None:
    """Raise ``CniError`` unless its server, its certificates and its token can be used, as they are now."""
    _Query(kubeconfig, "").current_token()


class _Query:
    """A GET of one path, with all that is needed to repeat it."""

    def __init__(self, kubeconfig: Kubeconfig, path: str) -> None:
        self.kubeconfig = kubeconfig
        self.server = server_of(kubeconfig)
        self.target = self.server.path + path
        self.tls = _tls_context(kubeconfig) if self.server.scheme == "https" else None

    def fetch(self, read: Callable[[bytes], T], timeout: float) -> T:
        """Return what ``read`` makes of the response's body; repeat the request as long as that may help."""
        started = time.monotonic()
        deadline = started + timeout
        attempts, reason = 0, None
        while True:
            attempts += 1
            try:
                return read(self._send_once(min(time.monotonic() + ATTEMPT_TIMEOUT, deadline)))
            except TransientError as failure:
                # An attempt that the deadline cuts short explains less than one before it that was answered.
                reason = reason if reason is not None and failure.is_silence else failure
                wait = failure.pause or min(FIRST_RETRY_PAUSE * 2 ** (attempts - 1), MAX_RETRY_PAUSE)
                if time.monotonic() + wait >= deadline:
                    tried = f"{attempts} attempts in {time.monotonic() - started:.1f} s"
                    raise CniError(reason.code, f"{reason.message} ({tried})", reason.details) from None
            time.sleep(wait)

    def _send_once(self, deadline: float) -> bytes:
        """Send the request once and return the body of the response; raise ``CniError`` for any status but 200."""
        token = self.current_token()
        name = self.kubeconfig.cluster.get("tls-server-name", self.server.host)
        try:
            response = https.exchange(self.server, self.tls, name, self._request(token), deadline)
        except (OSError, http_response.CutOffError, http_response.NotHttpError) as error:
            raise self._connection_error(error) from None
        if response.status == http_response.OK:
            return response.body
        if response.status == http_response.UNAUTHORIZED_STATUS and token != self.current_token():
            raise TransientError(UNAUTHORIZED, "the API server does not accept the token", pause=FIRST_RETRY_PAUSE)
        raise self._refusal_error(response)

    def current_token(self) -> str:
        """Return the token as it is now: kubelet and others renew the file."""
        path, user = self.kubeconfig.path, self.kubeconfig.user
        token, file = user.get("token", ""), user.get("tokenFile")
        if file:
            token = read_named_file(file, path).decode("ascii", "replace").strip()
            if not token:
                raise unusable_kubeconfig(path, f"the token in {file} is empty")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise unusable_kubeconfig(path, "the token has characters that no token has")
        return token

    def _request(self, token: str) -> bytes:
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        return (
            f"GET {self.target} HTTP/1.1\r\nHost: {self.server.authority}\r\nAccept: application/json\r\n"
            f"User-Agent: capture-cni\r\nConnection: close\r\n{authorization}\r\n"
        ).encode("ascii", "replace")

    def _refusal_error(self, response: http_response.HttpResponse) -> CniError:
        status, words = response.status, _message_of(response.body)
        refused = f"{status} {words or response.reason}"
        if status == http_response.UNAUTHORIZED_STATUS:
            return CniError(
                UNAUTHORIZED,
                f"the API server does not accept our credentials: {refused}",
                f"The token or client certificate in {self.kubeconfig.path} is wrong or has expired."
                " Tokens of service accounts live for an hour: name a 'tokenFile' that something renews.",
            )
        if status == http_response.FORBIDDEN_STATUS:
            return CniError(
                FORBIDDEN,
                f"the API server does not allow us to read pods: {refused}",
                "Give the account a ClusterRole with the verb 'get' on 'pods', by a ClusterRoleBinding.",
            )
        if status == http_response.NOT_FOUND and words is not None:
            return TransientError(
                POD_NOT_FOUND,
                f"the API server does not have the pod: {refused}",
                "It has been deleted meanwhile, or 'server' in the kubeconfig is another cluster's.",
            )
        if status == http_response.TOO_MANY_REQUESTS or status >= http_response.SERVER_ERROR:
            after = response.headers.get("retry-after", "")
            pause = float(after) if is_decimal(after, 6) else 0.0
            return TransientError(
                TRY_AGAIN_LATER, f"the API server cannot answer now: {refused}", self._remedy(), pause=pause
            )
        return self._no_api(f"it says {refused}")

    def _connection_error(self, error: Exception) -> CniError:
        """Return the error for a connection that failed, or a response that is incomplete or not HTTP."""
        if isinstance(error, TimeoutError):
            silence = self._unreachable(str(error) if isinstance(error, https.UnresolvedError) else "no answer in time")
            silence.is_silence = True
            return silence
        if isinstance(error, https.HangupError):
            return self._unreachable("it closed the connection")
        if isinstance(error, https.CertificateError):
            return CniError(
                NOT_TRUSTED,
                f"the certificate of {self.kubeconfig.server} is not trusted: {error.verify_message}",
                f"'certificate-authority' in {self.kubeconfig.path} has to be that of this cluster, and 'server' a"
                " name or address that the certificate has. If the certificates were renewed, renew the kubeconfig.",
            )
        if isinstance(error, https.TlsError):
            return CniError(
                NOT_TRUSTED,
                f"no TLS connection with {self.kubeconfig.server}: {error.reason or error}",
                "Check that 'server' is the API server, and that it accepts the client certificate.",
            )
        if isinstance(error, OSError):
            return self._unreachable(error.strerror or "it closed the connection without an answer")
        if isinstance(error, http_response.CutOffError):
            return TransientError(BAD_ANSWER, "the API server's answer is cut off", self._remedy())
        return self._no_api("its answer is not HTTP")

    def _unreachable(self, problem: str) -> TransientError:
        return TransientError(TRY_AGAIN_LATER, f"the API server {self.kubeconfig.server}: {problem}", self._remedy())

    def _no_api(self, problem: str) -> CniError:
        return CniError(
            BAD_ANSWER,
            f"{self.kubeconfig.server} does not answer as an API server of Kubernetes: {problem}",
            f"Look at 'server' in {self.kubeconfig.path}.",
        )

    def _remedy(self) -> str:
        return REACH_REMEDY.format(server=self.kubeconfig.server)


def _answered_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body; TransientError if there is none: half an answer without a length looks so."""
    try:
        plain = decode_json(body.decode())
    except (UnicodeDecodeError, JsonError) as error:
        raise TransientError(BAD_ANSWER, f"the API server's answer is not JSON: {error}") from None
    if not isinstance(plain, dict):
        raise TransientError(BAD_ANSWER, "the API server's answer is not a JSON object")
    return plain


def _message_of(body: bytes) -> str | None:
    """Return the message of an object ``Status`` of the API; None if the body is none."""
    plain = decode_object(body) or {}
    return str(plain.get("message", "")) if plain.get("kind") == "Status" else None


def _tls_context(config: Kubeconfig) -> _ssl._SSLContext:
    authority = _pem_bytes(config.path, config.cluster, "certificate-authority")
    certificate = _pem_bytes(config.path, config.user, "client-certificate")
    key = _pem_bytes(config.path, config.user, "client-key")
    if (certificate is None) != (key is None):
        raise unusable_kubeconfig(config.path, "client-certificate and client-key belong together; one is missing")
    try:
        return https.tls_context(
            authority.decode("ascii", "replace") if authority is not None else None,
            verifies=not config.skips_verification,
            client=(certificate, key) if certificate is not None and key is not None else None,
        )
    except (OSError, ValueError) as error:  # https.TlsError is an OSError
        problem = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise unusable_kubeconfig(config.path, f"its certificates cannot be used: {problem}") from None


def _pem_bytes(kubeconfig_path: str, texts: Mapping[str, str], key: str) -> bytes | None:
    """Return a certificate or key of the kubeconfig (``-data``, base64), or of a file; None without either."""
    if f"{key}-data" not in texts:
        return read_named_file(texts[key], kubeconfig_path) if key in texts else None
    try:
        return binascii.a2b_base64(texts[f"{key}-data"], strict_mode=True)
    except ValueError:
        raise unusable_kubeconfig(kubeconfig_path, f"{key}-data is not base64") from None


def read_named_file(path: str, kubeconfig_path: str) -> bytes:
    """Return the content of a kubeconfig, or of a file that it names; raise ``CniError``."""
    try:
        return read_file(path, MAX_FILE)
    except OSError as error:
        is_itself = path == kubeconfig_path
        problem = "cannot be read" if is_itself else f"{path}, which it names, cannot be read"
        where = "'kubeconfig' in the plugin's entry" if is_itself else f"the path in {kubeconfig_path}"
        raise CniError(
            BAD_KUBECONFIG,
            f"kubeconfig {kubeconfig_path}: {problem}: {error.strerror}",
            f"Put the file there, or correct {where}.",
        ) from None
