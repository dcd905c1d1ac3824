"""The process ``capture-cni``: what a container runtime starts, for each command anew.

Standard output gets one JSON object or nothing, in every case. Modules are imported when a command needs them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed lacks it; `signal` wraps it into enumerations, for a millisecond
import gc
import os
import sys

from cni.protocol import IO_FAILURE, MAX_STDIN_BYTES, SINCE_VERSION, CniError, Request, dispatch, error_response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

STDIN_DEADLINE = 10
"""Seconds for a runtime to send the network configuration, which takes it milliseconds."""
KNOWN_ARGUMENTS = ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID")


def main() -> NoReturn:
    """Answer one call of a runtime and end the process.

    It lives for milliseconds: collecting garbage would cost two, taking the interpreter down three.
    """
    gc.disable()
    sys.excepthook = _report_defect
    os._exit(_answer())


def _answer() -> int:
    command = os.environ.get("CNI_COMMAND", "")
    stdin = b""
    try:
        _check_output(command)
        if command in SINCE_VERSION:  # a person at a terminal gets an answer at once
            stdin = _read_stdin()
    except CniError as error:
        answer = error_response(error, "")
    else:
        answer = dispatch(os.environ, stdin, dict.fromkeys(SINCE_VERSION, _handle), KNOWN_ARGUMENTS)
    if answer.error is not None:
        from cni.log import print_failure

        print_failure(command, answer.error.message)
        if command == "DEL":
            return 0  # a pod that cannot be taken down is worse than anything that is left behind
    return answer.exit_status if _is_written(command, answer.stdout) else 1


def _check_output(command: str) -> None:
    """Raise ``CniError`` if standard output is closed: no rule is written whose result is lost."""
    try:
        for descriptor in (0, 1, 2):
            os.fstat(descriptor)
    except OSError:
        from capture.report.streams import keep_standard_descriptors

        if 1 in keep_standard_descriptors() and command != "DEL":
            raise CniError(IO_FAILURE, "standard output is closed", "A runtime reads the result there.") from None


def _handle(request: Request) -> None:
    if request.command in ("DEL", "GC"):
        from cni.cleanup import HANDLERS  # which need little of the plugin
    else:
        from cni.plugin import HANDLERS  # VERSION does without
    HANDLERS[request.command](request)


def _read_stdin() -> bytes:
    """Return what the runtime sends until it closes the stream; it has STDIN_DEADLINE seconds for that."""
    received = b""
    _signal.signal(_signal.SIGALRM, _give_up_on_stdin)  # a poll(2) would cost the import of select
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGALRM,))
    _signal.alarm(STDIN_DEADLINE)
    try:
        os.set_blocking(0, True)  # O_NONBLOCK is of the open file, which the runtime shares with us
        while len(received) <= MAX_STDIN_BYTES and (chunk := os.read(0, 1 << 20)):
            received += chunk
    except OSError as error:
        raise CniError(IO_FAILURE, f"standard input cannot be read: {error.strerror}") from None
    finally:
        _signal.alarm(0)
    return received


def _give_up_on_stdin(_number: int, _frame: object) -> NoReturn:
    raise CniError(
        IO_FAILURE,
        f"standard input was not closed within {STDIN_DEADLINE} seconds",
        "A runtime sends the network configuration and closes the stream. When you call the plugin by hand, let it read"
        " a file: `capture-cni < FILE`.",
    )


def _is_written(command: str, text: bytes) -> bool:
    """Write to standard output; return whether that was possible, and complain otherwise."""
    try:
        os.set_blocking(1, True)  # as in _read_stdin
        while text:
            text = text[os.write(1, text) :]
    except OSError as error:
        from cni.log import print_failure

        print_failure(command, f"the result cannot be written: {error.strerror}")
        return False
    return True


def _report_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Answer for a command that ended by an unforeseen exception; Python ends with status 1 after it."""
    import traceback

    from cni.codes import DEFECT
    from cni.log import print_failure

    command = os.environ.get("CNI_COMMAND", "")
    summary = f"defect of the plugin: {kind.__name__}: {error}"
    print_failure(command, summary)
    if command == "DEL":
        os._exit(0)
    details = "".join(traceback.format_exception(kind, error, trace))
    _is_written(command, error_response(CniError(DEFECT, summary, details[-4000:]), "").stdout)


if __name__ == "__main__":
    main()
