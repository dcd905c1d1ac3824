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

VERSION = b"HTTP/1."
END_OF_HEAD = b"\r\n\r\n"
HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


class NotHttpError(Exception):
    """What came is no answer of HTTP."""


class CutOffError(Exception):
    """The answer ends before its end."""


class Answer(Value):
    """An answer that is complete."""

    status: int
    reason: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes


def parse(received: bytes | bytearray, *, has_ended: bool) -> Answer | int:
    """Return the answer; or if more has to come, the length that ``received`` needs at least.

    ``has_ended``: the server has closed the connection. Raises NotHttpError and CutOffError.
    """
    start = 0
    while True:
        end = _end_of_head(received, start)
        if end < 0:
            return _more(len(received) + 1, has_ended=has_ended)
        status, reason, headers = _head(received[start:end])
        start = end + len(END_OF_HEAD)
        if status // 100 != 1:  # RFC 9110, 15.2: after one of these comes the answer proper
            break
    content = _body(headers, received, start, has_ended=has_ended)
    return content if isinstance(content, int) else Answer(status, reason, headers, content)


def _more(length: int, *, has_ended: bool) -> int:
    if has_ended:
        raise CutOffError
    return length


def _end_of_head(received: bytes | bytearray, start: int) -> int:
    """Return where the blank line after a head begins; -1 if it has not come."""
    begin = received[start : start + len(VERSION)]
    end = received.find(END_OF_HEAD, start, start + MAX_HEAD)
    if not VERSION.startswith(begin) or (end < 0 and len(received) - start >= MAX_HEAD):
        raise NotHttpError
    return end


def _head(head: bytes | bytearray) -> tuple[int, str, dict[str, str]]:
    """Return status, reason and headers."""
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


def _body(headers: dict[str, str], received: bytes | bytearray, start: int, *, has_ended: bool) -> bytes | int:
    """Return the body, or the length that ``received`` needs at least (RFC 9112, 6.3)."""
    if len(received) - start > 2 * MAX_BODY:
        raise NotHttpError
    if headers.get("transfer-encoding", "").lower() == "chunked":
        if has_ended or received.endswith(END_OF_HEAD):  # as the last chunk does, with or without trailers
            return _from_chunks(received, start, has_ended=has_ended)
        return len(received) + 1
    length = headers.get("content-length")
    if length is None:
        return bytes(received[start:]) if has_ended else len(received) + 1
    if not is_decimal(length, 8) or int(length) > MAX_BODY:
        raise NotHttpError
    end = start + int(length)
    return bytes(received[start:end]) if len(received) >= end else _more(end, has_ended=has_ended)


def _from_chunks(received: bytes | bytearray, place: int, *, has_ended: bool) -> bytes | int:
    """Return what the chunks hold, or the length that ``received`` needs at least (RFC 9112, 7.1)."""
    content = bytearray()
    while (end := received.find(b"\r\n", place)) >= 0:
        size = received[place:end].partition(b";")[0].decode("latin-1").strip()
        if not 0 < len(size) <= 8 or not HEXADECIMAL.issuperset(size):
            raise NotHttpError
        length = int(size, 16)
        if length == 0:
            return bytes(content)
        content += received[end + 2 : end + 2 + length]
        place = end + 2 + length + 2
    return _more(len(received) + 1, has_ended=has_ended)
