"""Access logs in Envoy's words. The usual format is that of Istio 1.8 to today."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.envoy import Json, extension
from sidecar.mesh import FileLog
from sidecar.telemetry import AccessLog

DEFAULT_FIELDS = {
    "start_time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_flags": "%RESPONSE_FLAGS%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
    "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
    "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "authority": "%REQ(:AUTHORITY)%",
    "upstream_host": "%UPSTREAM_HOST%",
    "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
    "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "requested_server_name": "%REQUESTED_SERVER_NAME%",
    "route_name": "%ROUTE_NAME%",
}
"""The fields of a request in the usual format, by their names in JSON."""

QUOTED = {
    "upstream_transport_failure_reason", "x_forwarded_for", "user_agent", "request_id", "authority", "upstream_host",
}  # fmt: skip

STREAMS = {"/dev/stdout": "Stdout", "/dev/stderr": "Stderr"}


def default_text() -> str:
    """Return the usual format as a line of text."""
    head = '[{start_time}] "{method} {path} {protocol}"'.format_map(DEFAULT_FIELDS)
    rest = [
        f'"{DEFAULT_FIELDS[name]}"' if name in QUOTED else DEFAULT_FIELDS[name] for name in list(DEFAULT_FIELDS)[4:]
    ]
    return " ".join([head, *rest]) + "\n"


def envoy_logs(logs: Iterable[AccessLog]) -> list[Json]:
    """Return access logs as a filter has them."""
    return [_envoy_log(log) for log in logs]


def _envoy_log(log: AccessLog) -> Json:
    logger = _log_writer(log.file)
    if log.expression:
        kind = "extensions.access_loggers.filters.cel.v3.ExpressionFilter"
        logger["filter"] = {"extension_filter": extension("cel", kind, expression=log.expression)}
    return logger


def _log_writer(file: FileLog) -> Json:
    """Return what writes; standard output is not opened again, which a pipe of another user would forbid."""
    if file.path in STREAMS:
        stream = STREAMS[file.path]
        kind = f"extensions.access_loggers.stream.v3.{stream}AccessLog"
        return extension(f"envoy.access_loggers.{stream.lower()}", kind, log_format=_log_format(file))
    kind = "extensions.access_loggers.file.v3.FileAccessLog"
    return extension("envoy.access_loggers.file", kind, path=file.path, log_format=_log_format(file))


def _log_format(file: FileLog) -> Json:
    if file.is_json:
        return {"json_format": dict(file.names or DEFAULT_FIELDS)}
    text = file.text or default_text()
    return {"text_format_source": {"inline_string": text if text.endswith("\n") else f"{text}\n"}}
