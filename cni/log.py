"""The plugin's log: JSON lines in a file, for people and for log collectors.

    {"time": "2026-03-01T12:00:00.123Z", "level": "info", "message": "captured", "command": "ADD",
     "namespace": "shop", "pod": "web-0", "container": "cafe01", "ms": 4.1, "steps_ms": {"apply": 1.2}}

Many plugins write to one file, and none may wait for another. So each line is a single write(2) with O_APPEND, which
Linux does whole. When the file has grown enough, the holder of the lock renames it, and the others go on meanwhile.
Nothing here ever fails a command: a full disk loses lines, not pods.
"""

from __future__ import annotations

import os
import time

from capture.model.json_text import encode_json
from capture.system.files import S_IFMT, S_IFREG
from cni import keys
from cni.protocol import Request, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LEVEL_NUMBERS = {"debug": 10, "info": 20, "warn": 30, "error": 40}

DEFAULT_FILE = "/var/log/istio-capture/cni.log"
"""The log file that installers set."""

ROTATE_AT = 10 * 1024 * 1024
MAX_OLD_FILES = 3  # old files: log.1 is the youngest


class PluginLog:
    """Writes lines about one call of the plugin; all of them carry the fields of ``about``."""

    def __init__(
        self, path: str, level: str = "info", about: dict[str, str] | None = None, rotate_at: int = ROTATE_AT
    ) -> None:
        self.path = path
        self.about = about or {}
        self._lowest = LEVEL_NUMBERS[level]
        self._rotate_at = rotate_at
        self._started = time.monotonic_ns()
        self._steps_ms: dict[str, float] = {}

    def debug(self, message: str, **facts: object) -> None:
        self._write("debug", message, facts)

    def info(self, message: str, **facts: object) -> None:
        self._write("info", message, facts)

    def warn(self, message: str, **facts: object) -> None:
        self._write("warn", message, facts)

    def error(self, message: str, **facts: object) -> None:
        self._write("error", message, facts)

    def step(self, name: str) -> TimedStep:
        """Return a context whose duration the lines after it have: ``with log.step("apply"): ...``."""
        return TimedStep(self._steps_ms, name)

    def _write(self, level: str, message: str, facts: dict[str, object]) -> None:
        if not self.path or LEVEL_NUMBERS[level] < self._lowest:
            return
        line: dict[str, object] = {"time": timestamp(time.time_ns()), "level": level, "message": message}
        line |= self.about | facts | self._durations()
        self.pass_on(encode_json(line).encode() + b"\n")

    def _durations(self) -> dict[str, object]:
        """Return what a line has of times; an agent's has nothing."""
        steps = {"steps_ms": self._steps_ms} if self._steps_ms else {}
        return {"ms": milliseconds(time.monotonic_ns() - self._started), **steps}

    def pass_on(self, line: bytes) -> None:
        """Write a line that is JSON already."""
        append_line(self.path, line, self._rotate_at)


class TimedStep:
    """Measures one step of a command; a step taken again adds up."""

    def __init__(self, steps_ms: dict[str, float], name: str) -> None:
        self._steps_ms = steps_ms
        self._name = name
        self._entered = 0

    def __enter__(self) -> None:
        self._entered = time.monotonic_ns()

    def __exit__(self, *_error: object) -> None:
        before = self._steps_ms.get(self._name, 0.0)
        self._steps_ms[self._name] = round(before + milliseconds(time.monotonic_ns() - self._entered), 2)


def milliseconds(nanoseconds: int) -> float:
    """Return a duration in milliseconds, to a hundredth."""
    return round(nanoseconds / 1e6, 2)


def timestamp(nanoseconds: int) -> str:
    """Return a time since the epoch as RFC 3339 has it, in UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1_000_000:03}Z"


def append_line(path: str, line: bytes, rotate_at: int = ROTATE_AT) -> None:
    """Add ``line`` to the file, or do nothing if that cannot be done."""
    try:
        file = _open(path)
    except OSError:
        return
    try:
        status = os.fstat(file)
        if status.st_mode & S_IFMT == S_IFREG:  # a pipe or a device could block, or be the runtime's
            os.write(file, line)
            if status.st_size + len(line) > rotate_at:
                _rotate(file, path)
    except OSError:
        pass
    finally:
        os.close(file)


def _open(path: str) -> int:
    # O_NONBLOCK: opening a FIFO without a reader would wait for ever.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, flags, 0o640)
    except FileNotFoundError:
        try:
            os.mkdir(os.path.dirname(path), 0o750)
        except FileExistsError:  # another plugin was quicker
            pass
        return os.open(path, flags, 0o640)


def _rotate(file: int, path: str) -> None:
    """Rename log.2 to log.3, log.1 to log.2, log to log.1; OSError if another plugin is at it.

    The lock is of the open file, so it ends with its holder, however that ends. Meanwhile other plugins write to
    what is now log.1, and see that it is the log no more.
    """
    import fcntl  # only here: rotation is rare

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.path.samestat(os.fstat(file), os.stat(path)):
        return
    names = [path, *[f"{path}.{number}" for number in range(1, MAX_OLD_FILES + 1)]]
    for younger, older in zip(names[-2::-1], names[:0:-1], strict=True):
        try:
            os.rename(younger, older)
        except FileNotFoundError:
            continue


def print_failure(command: str, message: str) -> None:
    """Print on standard error, in one line, why a command failed; runtimes put it into their own log."""
    try:
        os.write(2, one_line(f"capture-cni: {command or 'no command'}: {message}").encode() + b"\n")
    except OSError:
        pass


def request_log(request: Request) -> PluginLog:
    """Return the log for a request; its lines name the command and the pod. Raises ``CniError``."""
    return PluginLog(
        log_file(request.configuration),
        configured_log_level(request.configuration),
        about={
            "command": request.command,
            "namespace": request.arguments.get("K8S_POD_NAMESPACE", ""),
            "pod": request.arguments.get("K8S_POD_NAME", ""),
            "container": request.container_id,
            "interface": request.interface,
        },
    )


def log_file(configuration: Mapping[str, Any]) -> str:
    """Return the path of the log; a device could be standard output, which belongs to the protocol."""
    path = keys.path(configuration, "log_file")
    if path.startswith(("/dev/", "/proc/", "/sys/")):
        raise keys.invalid_value("log_file", path, "a file, no device: standard output belongs to the CNI protocol")
    return path


def configured_log_level(configuration: Mapping[str, Any]) -> str:
    """Return the least level that is logged."""
    *words, last = LEVEL_NUMBERS
    expected = f"{', '.join(words)} or {last}"
    level = keys.text(configuration, "log_level", expected) or "info"
    if level not in LEVEL_NUMBERS:
        raise keys.invalid_value("log_level", level, expected)
    return level
