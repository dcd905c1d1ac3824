"""What a person names is read to its end, to a limit, or until nothing comes any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from capture.cli.input import InputError, read_input


def test_a_device_without_end_is_refused_at_the_limit() -> None:
    with pytest.raises(InputError, match=r"^/dev/zero is longer than 1 MiB, which is the limit") as refused:
        read_input("/dev/zero", limit=1 << 20)

    assert refused.value.exit_code == 2


ENDLESS = ("inject -f -", "inject -f /dev/zero", "sidecar -f /dev/zero", "diff /dev/zero /dev/zero")


@pytest.mark.parametrize("words", ENDLESS)
def test_commands_do_not_read_without_end(words: str) -> None:
    command = [sys.executable, "-m", "capture", *words.split()]
    with open("/dev/zero", "rb") as zero:
        done = subprocess.run(command, stdin=zero, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "is longer than 64 MiB, which is the limit" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("inject -f -", "cannot read standard input: it is closed\n"),
        ("sidecar -f -", "cannot read standard input: it is closed\n"),
        ("host apply", "there is no terminal"),
    ],
)
def test_a_closed_standard_input_is_named(words: str, message: str) -> None:
    command = ["sh", "-c", f"exec {sys.executable} -m capture {words} <&-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["sh", "-c", f"sleep 0.1; echo one > {fifo}"]):
        assert read_input(str(fifo)) == "one\n"


def test_a_pipe_to_which_no_process_writes_is_given_up(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    with pytest.raises(InputError, match=r"fifo sent nothing for 0\.05 s\n"):
        read_input(str(fifo), timeout=0.05)


@pytest.mark.parametrize(("name", "problem"), [("/nosuch", "No such file"), ("/", "Is a directory")])
def test_an_unreadable_input_is_named(name: str, problem: str) -> None:
    with pytest.raises(InputError, match=f"(?s)^cannot read {name}: {problem}.*Name a text file that you may read"):
        read_input(name)
