"""Envoy's admin interface: its configuration, as it runs."""

from __future__ import annotations

from typing import Any

from capture.errors import CaptureError

ADMIN_TIMEOUT = 5.0
"""Seconds."""
MAX_DUMP_BYTES = 64 * 1024 * 1024


def is_url(text: str) -> bool:
    """Return whether a text is an http URL with a host, and with a possible port if it has one."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        return parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def read_config_dump(url: str) -> dict[str, Any]:
    """Return ``/config_dump`` of the admin interface at the URL, read from the namespace we are in.

    Raises CaptureError.
    """
    import http.client

    remedy = "Name the admin interface as http://127.0.0.1:15000; it listens in the pod's namespace (--netns, --pid)."
    try:
        return _get_config_dump(url)
    except (OSError, ValueError, http.client.HTTPException) as error:
        message = getattr(error, "strerror", None) or error
        raise CaptureError(f"Envoy's admin interface {url}: {message}", remedy) from None


def _get_config_dump(url: str) -> dict[str, Any]:
    import http.client
    import json
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname:
        raise ValueError("no http URL with a host")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=ADMIN_TIMEOUT)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/config_dump")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise ValueError(f"it answers {answer.status} {answer.reason}")
        dump = json.loads(answer.read(MAX_DUMP_BYTES))
    finally:
        connection.close()
    if not isinstance(dump, dict):
        raise ValueError("its answer is not an object")  # noqa: TRY004  # the server's fault, no defect
    return dump
