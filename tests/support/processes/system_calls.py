"""Runs a function of Python in a child and stops it before any of its system calls, to do harm there.

For tests of what must survive a kill, or another program, at any moment: between two system calls of a program
nothing changes that others can see, so these are all the moments there are.

Uses ptrace(2) through ctypes and fork, so it belongs into a process with one thread: see ``run_alone``.
"""

import ctypes
import json
import os
import signal
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

# linux/ptrace.h
TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
OPTION_TRACESYSGOOD, OPTION_EXITKILL = 1, 0x00100000
SYSCALL_STOP = signal.SIGTRAP | 0x80


def run_stepped(program: Callable[[], object], before_call: Callable[[int, int], None]) -> int:
    """Run ``program`` in a child; call ``before_call(pid, number)`` while it is stopped before each system call.

    Return the child's exit status: 0, 1 if the program raised, or the negative signal number that ended it.
    """
    pid = os.fork()
    if pid == 0:
        _run_traced(program)
    _wait(pid)
    _ptrace(SETOPTIONS, pid, OPTION_TRACESYSGOOD | OPTION_EXITKILL)
    number, entering, deliver = 0, True, 0
    while True:
        try:
            _ptrace(SYSCALL, pid, deliver)
        except ProcessLookupError:  # killed by before_call
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status = _wait(pid)
        deliver = 0
        if not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        if os.WSTOPSIG(status) != SYSCALL_STOP:
            deliver = os.WSTOPSIG(status)
            continue
        if entering:
            number += 1
            before_call(pid, number)
        entering = not entering


def current_call(pid: int) -> tuple[int, ...]:
    """Return the number and the six arguments of the system call before which a process is stopped."""
    info = ctypes.create_string_buffer(80)  # struct ptrace_syscall_info
    _ptrace(GET_SYSCALL_INFO, pid, ctypes.addressof(info), size=len(info))
    return struct.unpack_from("=7Q", info, 24)


def _run_traced(program: Callable[[], object]) -> None:
    status = 1
    try:
        _ptrace(TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        program()
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


def _wait(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _ptrace(request: int, pid: int, data: int, size: int = 0) -> None:
    if _libc.ptrace(*map(ctypes.c_long, (request, pid, size, data))) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


_libc = ctypes.CDLL(None, use_errno=True)


def kill_before(program: Callable[[], object], number: int) -> bool:
    """Run ``program`` until its system call with this number, and kill it there; return whether it got that far."""

    def kill(pid: int, reached: int) -> None:
        if reached == number:
            os.kill(pid, signal.SIGKILL)

    return run_stepped(program, kill) == -signal.SIGKILL


def run_alone(script: Path, *arguments: str, through: Sequence[str] = (), timeout: float = 100) -> dict[str, object]:
    """Run a script in a process of its own, with what tests can import; return the JSON that it prints.

    ``through`` is a command that runs another, such as ``unshare --mount``.
    """
    tests = Path(__file__).parents[2]
    done = subprocess.run(
        [*through, sys.executable, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result
