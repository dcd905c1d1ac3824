"""``capture`` and ``istio-init`` in a namespace, by a child that has loaded them: few tests are about the start."""

import contextlib
import gc
import os
import pty
import subprocess
import sys
import tempfile
import termios
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import capture.cli
import initcontainer.__main__
from pytest_netns import Namespace
from support.processes.on_terminal import terminal_environment

MAIN = {"capture": capture.cli.main, "istio-init": initcontainer.__main__.main}


def run_program(
    namespace: Namespace, program: str, *arguments: str, code: int | None = 0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of our programs in the namespace as root, check its exit code, if any, and return what it printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            with open(os.devnull, "rb") as empty:
                _become(namespace.entered(), [program, *arguments], env, [empty, out, err])
        returned = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed = [_text(file) for file in (out, err)]
    assert code in (None, returned), f"exit code {returned}\n{printed[0]}\n{printed[1]}"
    return subprocess.CompletedProcess([program, *arguments], returned, *printed)


def run_on_terminal(program: str, *arguments: str, columns: int) -> tuple[str, int]:
    """Return what one of our programs prints, here, on a terminal of so many columns, and its exit code."""
    child, leader = pty.fork()
    if child == 0:
        termios.tcsetwinsize(0, (50, columns))
        _become(contextlib.nullcontext(), [program, *arguments], terminal_environment(), [])
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed
        while piece := os.read(leader, 1 << 16):
            shown += piece
    os.close(leader)
    return shown.decode("utf-8", "replace").replace("\r\n", "\n"), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(
    where: AbstractContextManager[None], words: list[str], env: Mapping[str, str] | None, streams: list[BinaryIO]
) -> None:
    """Run the program in this child, with streams of its own, and end."""
    gc.disable()  # a collection would copy the whole heap of the tests
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream.fileno(), number)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, "r" if number == 0 else "w") for number in range(3))
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        sys.argv = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        with where:
            code = MAIN[words[0]]()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001  # nothing of the test goes on here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()
