"""The error of a probe that did not arrive."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from capture.model.addresses import parse_address
from initcontainer.probes import Credentials, Probe
from initcontainer.proof import _connect, _last_answer


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "the connection was accepted by another listener"), (errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))],
)
def test_the_last_answer_of_a_process_that_dials(code: int, words: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    assert _last_answer(process.pid, time.monotonic() + 10) == words
    process.returncode = code  # it has been waited for


def test_time_that_is_over_before_the_first_attempt_is_a_timeout() -> None:
    us = Credentials(os.geteuid(), os.getegid())
    probe = Probe("outbound", parse_address("203.0.113.1"), 80, us, 15001)
    assert _connect(probe, b"token", time.monotonic(), 0, transparent=False) == errno.ETIMEDOUT
