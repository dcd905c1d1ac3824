"""The error of a probe that did not arrive."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from initcontainer.proof import _last_answer


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "the connection was accepted by another listener"),
        (errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)),
    ],
)
def test_the_last_answer_of_a_process_that_dials(code: int, words: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    assert _last_answer(process.pid, time.monotonic() + 10) == words
    process.returncode = code  # it has been waited for
