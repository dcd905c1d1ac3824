"""An answer of HTTP/1.1: bytes in, status, headers and body out (RFC 9112). Pure.

``http.client`` does the same and costs 20 ms at import, more than the rest of a look-up together.
"""

from __future__ import annotations

from capture.model.addresses import is_decimal
from capture.model.values import Value

MAX_HEAD = 64 * 1024
"""Bytes before the body; servers send some hundred."""
MAX_BODY = 16 * 1024 * 1024
"""Ten times what etcd stores of one object."""

# RFC 9110, 15, and RFC 6585
OK, UNAUTHORIZED_STATUS, FORBIDDEN_STATUS, NOT_FOUND = 200, 401, 403, 404
CONFLICT, GONE, TOO_MANY_REQUESTS, SERVER_ERROR = 409, 410, 429, 500

HTTP_VERSION = b"HTTP/1."
HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


class NotHttpError(Exception):
    """The bytes are no answer of HTTP."""


class CutOffError(Exception):
    """The answer ends too early."""


class HttpResponse(Value):
    """An answer that is complete."""

    status: int
    reason: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes


def require_http(received: bytes | bytearray) -> None:
    """Raise NotHttpError unless this may be the beginning of an answer, and is not too long for one."""
    if not HTTP_VERSION.startswith(received[: len(HTTP_VERSION)]) or len(received) > 2 * MAX_BODY:
        raise NotHttpError


def parse_response(received: bytes | bytearray) -> HttpResponse:
    """Return the answer in all that a server sent until it closed the connection.

    Raises NotHttpError and CutOffError.
    """
    rest = bytes(received)
    while True:
        require_http(rest)
        head, blank_line, rest = rest.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD:
            raise NotHttpError
        if not blank_line:
            raise CutOffError
        status, reason, headers = _parsed_head(head)
        if status // 100 != 1:  # RFC 9110, 15.2: after one of these comes the answer proper
            return HttpResponse(status, reason, headers, _decoded_body(headers, rest))


def _parsed_head(head: bytes) -> tuple[int, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    _, _, rest = first.partition(" ")
    status, _, reason = rest.partition(" ")
    if not is_decimal(status, 3):
        raise NotHttpError
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise NotHttpError
        headers[name.strip().lower()] = value.strip()
    return int(status), reason, headers


def _decoded_body(headers: dict[str, str], rest: bytes) -> bytes:
    """Return the body (RFC 9112, 6.3)."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _joined_chunks(rest)
    length = headers.get("content-length")
    if length is None:
        return rest
    if not is_decimal(length, 8) or int(length) > MAX_BODY:
        raise NotHttpError
    if len(rest) < int(length):
        raise CutOffError
    return rest[: int(length)]


def _joined_chunks(rest: bytes) -> bytes:
    """Return what the chunks hold (RFC 9112, 7.1)."""
    content = bytearray()
    start = 0
    while (end := rest.find(b"\r\n", start)) >= 0:
        size = rest[start:end].partition(b";")[0].decode("latin-1").strip()
        if not 0 < len(size) <= 8 or not HEXADECIMAL.issuperset(size):
            raise NotHttpError
        length = int(size, 16)
        if length == 0:
            return bytes(content)
        content += rest[end + 2 : end + 2 + length]
        start = end + 2 + length + 2
    raise CutOffError
