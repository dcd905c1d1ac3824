"""A forked child that does some work, and hands back what it returns, or its error."""

from __future__ import annotations

import os

from capture import errors
from capture.errors import CaptureError
from capture.model.json_text import decode_json, encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def run_in_child(work: Callable[[], str], describe: Callable[[BaseException], str]) -> tuple[int, str]:
    """Do the work in a forked child; return how that ended, and what the work returned, or what describes its error.

    The status is 0, 1 after an error, or negative: the number of the signal that killed the child.
    """
    answer = os.memfd_create("answer")
    try:
        child = fork()
        if child == 0:
            _run_in_child(work, describe, answer)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, os.pread(answer, os.fstat(answer).st_size, 0).decode("utf-8", "surrogateescape")
    finally:
        os.close(answer)


def fork() -> int:
    """Fork. Python 3.12 and later warn where other threads run; the children here use nothing that they might hold."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _run_in_child(work: Callable[[], str], describe: Callable[[BaseException], str], answer: int) -> None:
    status = 1
    try:
        text = work()
        status = 0
    except BaseException as error:  # noqa: BLE001  # this process ends here; the parent reads what is written
        text = describe(error)
    finally:
        os.write(answer, text.encode("utf-8", "surrogateescape"))
        os._exit(status)


def encode_error(error: BaseException) -> str:
    """Return an error as text, of which ``decode_error`` makes a CaptureError again."""
    if isinstance(error, CaptureError):
        return encode_json([type(error).__name__, vars(error)])
    return encode_json(["CaptureError", {"message": f"{type(error).__name__}: {error}", "remedy": ""}])


def decode_error(text: str) -> CaptureError:
    """Return the error of the child with all its attributes; each kind would make its message anew, from others."""
    kind, attributes = decode_json(text)
    error: CaptureError = CaptureError.__new__(getattr(errors, kind, CaptureError), attributes["message"])
    vars(error).update(attributes)
    return error
