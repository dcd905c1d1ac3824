"""Waiting until packets have passed: the kernel must know what it is asked for, or we have only slept."""

from __future__ import annotations

import os
import time

import pytest

from capture import under_way

pytestmark = pytest.mark.kernel

MEMBARRIER_CMD_QUERY = 0  # linux/membarrier.h


def test_the_kernel_knows_the_call_by_our_number() -> None:
    number = under_way.MEMBARRIER[os.uname().machine]

    assert under_way._call(number, MEMBARRIER_CMD_QUERY) & under_way.MEMBARRIER_CMD_GLOBAL
    assert under_way._call(number, under_way.MEMBARRIER_CMD_GLOBAL) == 0


def test_without_it_there_is_still_the_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "MEMBARRIER", {})
    started = time.monotonic()

    under_way.let_all_pass()

    assert time.monotonic() - started >= under_way.LONG_ENOUGH
