"""The guest's side of a conversation: runs the commands that come in, one by one, and reports how they ended.

One JSON object per line, both ways. Standard input and output are a serial port; what the kernel and
this program have to complain about goes to the console.

    in:  {"command": ["nft", "list", "ruleset"], "stdin": "", "environment": {}, "directory": "/", "timeout": 20.0,
          "entry": ""}
    out: {"status": 0, "stdout": "...", "stderr": "...", "seconds": 0.07}

A command that is not done in time is killed with all that it started; its status is null.

To start Python and import click takes an emulated processor a second. So one of our programs may be named by
its entry point, "capture.cli:main": then it runs in a fork of this process, which has imported it.
"""

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import tty
from typing import IO, Any

IMPORTED_ALWAYS = (
    *("capture.cli.apply", "capture.cli.doctor.command", "capture.cli.verify", "initcontainer.__main__"),
    *("capture.backends.nftables.netlink", "capture.backends.iptables.restore"),
)
"""Modules that our programs import when they need them, and that this process imports once."""


def answer(line: str) -> dict[str, object]:
    """Return the answer to one line; a program that cannot be started ends with 127, as in a shell."""
    request = json.loads(line)
    started = time.monotonic()
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(request["stdin"].encode())
        stdin.seek(0)
        files = (stdin, stdout, stderr)
        environment = {**os.environ, **request["environment"]}
        try:
            child = fork(request, files, environment) if request["entry"] else start(request, files, environment)
            status = wait(child, request["timeout"])
        except OSError as error:
            status = 127
            stderr.write(str(error).encode())
        seconds = time.monotonic() - started
        return {"status": status, "stdout": read(stdout), "stderr": read(stderr), "seconds": seconds}


def start(request: dict[str, Any], files: tuple[IO[bytes], ...], environment: dict[str, str]) -> int:
    """Start a program; return its process id."""
    stdin, stdout, stderr = files
    process = subprocess.Popen(
        request["command"],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=environment,
        cwd=request["directory"],
        start_new_session=True,
    )
    process.returncode = 0  # so that it is we who wait for it
    return process.pid


def fork(request: dict[str, Any], files: tuple[IO[bytes], ...], environment: dict[str, str]) -> int:
    """Run one of our entry points in a child process; return its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    os.chdir(request["directory"])
    for number, file in enumerate(files):
        os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = request["command"]
    status: object = 1
    try:
        module, _, function = request["entry"].partition(":")
        status = getattr(importlib.import_module(module), function)()
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001  # as the interpreter does with what is not caught
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else int(status is not None))


def wait(process: int, timeout: float) -> int | None:
    """Return how a process ended, or None if it had to be killed."""
    descriptor = os.pidfd_open(process)
    try:
        in_time, _, _ = select.select([descriptor], [], [], timeout)
        if not in_time:
            os.killpg(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(status) if in_time else None


def read(file: IO[bytes]) -> str:
    """Return what is in a file."""
    file.seek(0)
    return file.read().decode(errors="backslashreplace")


def send(answered: dict[str, object]) -> None:
    """Send one line."""
    sys.stdout.write(json.dumps(answered) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Report that we are up, then answer until the input ends."""
    tty.setraw(sys.stdin)
    for module in IMPORTED_ALWAYS:
        importlib.import_module(module)
    send({"kernel": os.uname().release})
    for line in sys.stdin:
        send(answer(line))


if __name__ == "__main__":
    main()
