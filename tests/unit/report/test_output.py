"""Errors, Ctrl-C, lost output and defects end a program in words, with their exit codes."""

import io
import os
import platform
import pty

import pytest

import capture
from capture.errors import CaptureError, UnsupportedError
from capture.report.output import RED, painted, run_to_exit_code
from capture.report.streams import Stream


def test_errors_end_a_program_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> int:
        raise UnsupportedError("this kernel cannot", "Take another one.")

    assert run_to_exit_code(program) == 3
    assert capsys.readouterr().err == "error: this kernel cannot\n  Take another one.\n"


def test_an_error_may_have_no_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> int:
        raise CaptureError("it failed")

    assert run_to_exit_code(program) == 1
    assert capsys.readouterr().err == "error: it failed\n"


def test_ctrl_c_ends_with_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> int:
        raise KeyboardInterrupt

    assert run_to_exit_code(program) == 130


def test_a_defect_is_reported_in_words_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> int:
        return 1 // 0

    assert run_to_exit_code(program) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: a defect of this program: ZeroDivisionError: integer division or modulo by zero"
    assert "test_output.py, line" in second
    assert f"version {capture.__version__} with Python {platform.python_version()}" in second


def test_an_error_of_the_system_is_reported_with_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_to_exit_code(lambda: os.open("/does/not/exist", os.O_RDONLY)) == 1
    assert capsys.readouterr().err == "error: /does/not/exist: No such file or directory\n"


def test_output_that_is_lost_leaves_no_descriptor_open() -> None:
    before = os.listdir("/proc/self/fd")
    lost = Stream(None)
    lost.write("word")
    assert lost.failure is not None
    assert os.listdir("/proc/self/fd") == before


def test_colour_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    leader, follower = pty.openpty()
    with open(leader, "rb"), open(follower, "w", encoding="ascii") as terminal:
        assert os.isatty(follower)
        assert painted("error:", RED, terminal) == "\033[31merror:\033[0m"
        assert painted("note", "", terminal) == "note"
        monkeypatch.setenv("NO_COLOR", "1")
        assert painted("error:", RED, terminal) == "error:"
    assert painted("error:", RED, io.StringIO()) == "error:"
