"""Filters of legacy tables: those that no program reads are unknown, and not none."""

from pathlib import Path

import pytest

from capture.backends.iptables import programs, restore
from capture.model.addresses import IPV4

SAVED = """echo '*filter'; echo ':INPUT DROP [0:0]'; echo ':OUTPUT ACCEPT [0:0]'; echo COMMIT"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """There is a legacy table of IPv4, and what is written here is iptables-legacy-save."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "SYSTEM_DIRECTORIES", ())
    monkeypatch.setattr(restore, "legacy_tables", lambda family: ("filter",) if family == IPV4 else ())
    path = tmp_path / "iptables-legacy-save"
    path.touch(0o755)
    return path


@pytest.mark.parametrize(("end", "hooks"), [("exit 0", ["INPUT"]), ("exit 1", None)])
def test_filters_are_known_if_the_program_succeeds(program: Path, end: str, hooks: list[str] | None) -> None:
    program.write_text(f"#!/bin/sh\n{SAVED}\n{end}\n")
    filters = restore.read_legacy_filters()
    assert (filters and [chain.hook for chain in filters]) == hooks


def test_without_a_program_they_are_unknown(program: Path) -> None:
    program.unlink()
    assert restore.read_legacy_filters() is None
