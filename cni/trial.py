"""Runs the plugin where it lies, as a runtime will, before any network configuration names it.

A file that is there and executable may still not start: on a file system that is mounted noexec, without its
interpreter, as a part of a bundle. Then every pod of the node would fail to start, and none could be ended.
"""

from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

from capture.errors import CaptureError
from capture.model.json_text import decode_object, encode_json

CALL_TIMEOUT = 20.0
"""Seconds: what usually takes milliseconds may take some while a node boots."""

ENVIRONMENT = {"CNI_COMMAND": "VERSION", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""The environment of a runtime that systemd started, and what the specification adds for VERSION."""

NOTHING_CHANGED = "The network configuration was not changed."


def try_version(path: str) -> tuple[str, ...]:
    """Return the versions in which the plugin can be called, by its answer to VERSION (SPEC, "VERSION").

    Raises CaptureError: why it cannot be called.
    """
    try:
        done = _call_plugin(path, b'{"cniVersion": "1.0.0"}')
    except OSError as error:
        raise _not_started(path, error) from None
    except subprocess.TimeoutExpired:
        problem, remedy = f"no answer to VERSION within {CALL_TIMEOUT:g} s", f"{NOTHING_CHANGED} Start it by hand."
        raise CaptureError(problem, remedy) from None
    versions = _supported_versions(done.stdout)
    if done.returncode == 0 and versions:
        return versions
    words = " ".join((done.stderr or done.stdout).decode("utf-8", "replace").split())
    problem = f"started, but does not answer VERSION: status {done.returncode}, {words[:400] or 'no output'}"
    raise CaptureError(problem, f"{NOTHING_CHANGED} Install the whole bundle: --plugin DIRECTORY.")


def try_status(path: str, configuration: dict[str, Any]) -> tuple[int, str]:
    """Return code and message of why the plugin could not capture a pod now; 0 if it could (SPEC, "STATUS")."""
    try:
        done = _call_plugin(
            path, encode_json(configuration).encode(), CNI_COMMAND="STATUS", CNI_PATH=os.path.dirname(path)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, f"no answer to STATUS: {error}"
    if done.returncode == 0:
        return 0, ""
    plain = decode_object(done.stdout) or {}
    try:
        return int(plain["code"]), f"{plain['msg']} (code {plain['code']})"
    except (ValueError, KeyError, TypeError):
        return done.returncode, f"no answer to STATUS: {done.stderr.decode('utf-8', 'replace').strip()[:400]}"


def _call_plugin(path: str, stdin: bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Return what happened to a call. Raises OSError, and TimeoutExpired after CALL_TIMEOUT seconds."""
    environment = ENVIRONMENT | variables
    return subprocess.run([path], input=stdin, env=environment, capture_output=True, timeout=CALL_TIMEOUT, check=False)


def _supported_versions(answer: bytes) -> tuple[str, ...]:
    versions = (decode_object(answer) or {}).get("supportedVersions")
    return tuple(str(version) for version in versions) if isinstance(versions, list) else ()


def _not_started(path: str, error: OSError) -> CaptureError:
    """Return why execve(2) refused, as far as the file and its file system show."""
    interpreter, remedy = interpreter_of(path), ""
    if error.errno == errno.EACCES and os.statvfs(path).f_flag & os.ST_NOEXEC:
        why = "the file system that it is on is mounted noexec"
        remedy = " Remount it with exec, or name another directory that the container runtime looks in."
    elif error.errno == errno.ENOENT and interpreter:
        why = f"its interpreter {interpreter} is missing here"
        remedy = " Install the bundle (`make bundle`), which brings its own: --plugin DIRECTORY."
    else:
        why = str(error.strerror)
        if error.errno == errno.ENOEXEC:
            why, remedy = "it is not a program for this machine", " Name one that is: --plugin PATH."
    return CaptureError(f"cannot be started: {why}", NOTHING_CHANGED + remedy)


def interpreter_of(path: str) -> str:
    """Return the interpreter that a program names, by ``#!`` or in ELF's PT_INTERP; nothing if it names none."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError:
        return ""
    if start.startswith(b"#!"):
        words = start[2:].partition(b"\n")[0].split()
        return os.fsdecode(words[0]) if words else ""
    if start.startswith(b"\x7fELF"):
        offset = start.find(b"/lib", 64)  # the text of PT_INTERP follows the program headers
        return os.fsdecode(start[offset:].partition(b"\0")[0]) if offset >= 0 else ""
    return ""
