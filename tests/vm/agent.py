"""The guest's side of a conversation: runs the commands that come in, one by one, and says how they ended.

One JSON object per line, both ways. Standard input and output are a serial port; what the kernel and
this program have to complain about goes to the console.

    in:  {"command": ["nft", "list", "ruleset"], "stdin": "", "environment": {}, "timeout": 20.0}
    out: {"status": 0, "stdout": "...", "stderr": "...", "seconds": 0.07}

A command that is not done in time is killed with all that it started; its status is null.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tty


def run(command: list[str], stdin: str, environment: dict[str, str], timeout: float) -> dict[str, object]:
    """Run a command and return how it ended, and what it printed until then."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        env={**os.environ, **environment},
        start_new_session=True,
    )
    status: int | None
    try:
        printed, complained = process.communicate(stdin, timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, complained = process.communicate()
        status = None
    seconds = time.monotonic() - started
    return {"status": status, "stdout": printed, "stderr": complained, "seconds": seconds}


def answer(line: str) -> dict[str, object]:
    """Return the answer to one line; a program that cannot be started ends with 127, as in a shell."""
    asked = json.loads(line)
    try:
        return run(asked["command"], asked["stdin"], asked["environment"], asked["timeout"])
    except OSError as error:
        return {"status": 127, "stdout": "", "stderr": str(error), "seconds": 0.0}


def say(answered: dict[str, object]) -> None:
    """Send one line."""
    sys.stdout.write(json.dumps(answered) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Say that we are up, then answer until nobody asks any more."""
    tty.setraw(sys.stdin)
    say({"kernel": os.uname().release})
    for line in sys.stdin:
        say(answer(line))


if __name__ == "__main__":
    main()
