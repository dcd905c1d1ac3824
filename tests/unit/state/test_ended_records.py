"""What is recorded of namespaces that are known to be no more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from capture.state.ended_records import forget_ended

if TYPE_CHECKING:
    from pathlib import Path


def test_of_one_inode_only_what_was_written_last_can_be_there(tmp_path: Path) -> None:
    kept = ["4026532841-9.json", "4026532842-9.json", "4026532843.json", "strange.json", "x-9.json", "attachments"]
    for moment, name in enumerate(("4026532841-77.json", "4026532841-8.json", *kept)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))

    forget_ended(str(tmp_path))

    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_leftovers_of_a_killed_writer(tmp_path: Path) -> None:
    old, fresh = tmp_path / "4026532841-77.json.0a1b2c", tmp_path / "4026532841-77.json.3d4e5f"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (0, 0))

    forget_ended(str(tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == [fresh.name]


def test_a_missing_directory_holds_no_records(tmp_path: Path) -> None:
    forget_ended(str(tmp_path / "missing"))
    assert list(tmp_path.iterdir()) == []
