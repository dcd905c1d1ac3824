"""Programs on a terminal of a given size, without a terminal: what they print there, and one that goes on.

on_terminal(["capture", "verify"], columns=80) -> (text, exit code)
with Terminal(["capture", "watch"], columns=80) as terminal: terminal.read_until("proxy"); terminal.resize(120, 40)
"""

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

PATIENCE = 20.0


def terminal_environment() -> dict[str, str]:
    """Return the environment of a program that learns of its terminal from that."""
    unset = ("COLUMNS", "LINES", "NO_COLOR")
    return {**{name: value for name, value in os.environ.items() if name not in unset}, "TERM": "xterm"}


class Terminal:
    """A program on a terminal of its own."""

    def __init__(
        self, command: Sequence[str], columns: int, rows: int = 50, environment: Mapping[str, str] | None = None
    ) -> None:
        self._leader, follower = pty.openpty()
        self.resize(columns, rows, signal_it=False)
        self.process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**terminal_environment(), **(environment or {})},
            start_new_session=True,
        )
        os.close(follower)
        self.text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)

    def resize(self, columns: int, rows: int, *, signal_it: bool = True) -> None:
        """Give the terminal another size, and signal the program as a terminal does."""
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if signal_it:
            import signal

            self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._leader, text.encode())

    def settings(self) -> list[object]:
        """Return how the terminal is set (termios(3))."""
        return list(termios.tcgetattr(self._leader))

    def read(self, seconds: float = 0.05) -> bool:
        """Take what is printed; return whether the program still can print."""
        if select.select([self._leader], [], [], seconds)[0]:
            data = b""
            with contextlib.suppress(OSError):  # EIO: the other end is closed
                data = os.read(self._leader, 1 << 16)
            self.text += data.decode("utf-8", "replace").replace("\r\n", "\n")
            return bool(data)
        return True

    def read_until(self, expected: str, since: int = 0) -> str:
        """Return what is printed, from a place on, as soon as a text is in it."""
        give_up = time.monotonic() + PATIENCE
        while expected not in self.text[since:]:
            assert self.read(), f"{expected!r} is not in {self.text[since:]!r}"
            assert time.monotonic() < give_up, f"{expected!r} is not in {self.text[since:]!r}"
        return self.text[since:]


def on_terminal(command: Sequence[str], columns: int, **environment: str) -> tuple[str, int]:
    """Return what a program prints on a terminal of so many columns, and its exit code."""
    with Terminal(command, columns, environment=environment) as terminal:
        while terminal.read(1):
            pass
        return terminal.text, terminal.process.wait(PATIENCE)
