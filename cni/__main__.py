"""The process ``capture-cni``: what a container runtime starts, for each command anew.

Standard output gets one JSON object or nothing, whatever happens. Modules are imported when a command needs them.
"""

from __future__ import annotations

import gc
import os
import sys

from cni.protocol import COMMANDS, STDIN_LIMIT, CniError, Request, dispatch, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import NoReturn

KNOWN_ARGUMENTS = ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID")


def main() -> NoReturn:
    """Answer one call of a runtime and end the process.

    It lives for milliseconds, of which collecting garbage would cost two, and taking the interpreter down three.
    """
    gc.disable()
    sys.excepthook = _report_defect
    os._exit(_answer())


def _answer() -> int:
    """Answer on standard output and return the exit status."""
    command = os.environ.get("CNI_COMMAND", "")
    stdin = _read_stdin() if command in COMMANDS else b""  # somebody at a terminal gets an answer at once
    answer = dispatch(os.environ, stdin, dict.fromkeys(COMMANDS, _work), KNOWN_ARGUMENTS)
    if answer.error is not None:
        from cni.log import complain

        complain(command, answer.error.message)
        if command == "DEL":
            return 0  # a pod that cannot be taken down is worse than anything that is left behind
    _write(answer.stdout)
    return answer.exit_status


def _work(request: Request) -> None:
    from cni.plugin import COMMANDS as WORK  # VERSION does without

    WORK[request.command](request)


def _read_stdin() -> bytes:
    received = b""
    while len(received) <= STDIN_LIMIT and (chunk := os.read(0, 1 << 20)):
        received += chunk
    return received


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(1, text) :]


def _report_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Answer in place of a command that ended by an exception nobody foresaw; Python ends with status 1 after it."""
    import traceback

    from cni.codes import DEFECT
    from cni.log import complain

    command = os.environ.get("CNI_COMMAND", "")
    summary = f"defect of the plugin: {kind.__name__}: {error}"
    complain(command, summary)
    if command == "DEL":
        os._exit(0)
    details = "".join(traceback.format_exception(kind, error, trace))
    _write(failure(CniError(DEFECT, summary, details[-4000:]), "").stdout)


if __name__ == "__main__":
    main()
