"""Waiting until packets have passed: the kernel must know the request, or we have only slept."""

import os
import time

import pytest

from capture.system import barrier

MEMBARRIER_CMD_QUERY = 0  # linux/membarrier.h


def test_the_kernel_knows_the_call_by_our_number() -> None:
    number = barrier.MEMBARRIER[os.uname().machine]

    assert barrier._call(number, MEMBARRIER_CMD_QUERY) & barrier.MEMBARRIER_CMD_GLOBAL
    assert barrier._call(number, barrier.MEMBARRIER_CMD_GLOBAL) == 0


def test_without_membarrier_the_sleep_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barrier, "MEMBARRIER", {})
    started = time.monotonic()

    barrier.wait_for_packets_in_flight()

    assert time.monotonic() - started >= barrier.GRACE_SECONDS
