"""Files that may be missing, or belong to processes that have ended."""

import os
from pathlib import Path

import pytest

from capture.system.files import content_of, names_in, open_files, process_ids, write_whole


def test_an_unreadable_file_is_empty(tmp_path: Path) -> None:
    assert content_of(str(tmp_path / "missing")) == content_of(str(tmp_path)) == b""
    assert names_in(str(tmp_path / "missing")) == []
    assert open_files("0") == []


def test_an_open_file_is_found_by_its_process(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file:
        assert file.name in open_files(str(os.getpid()))
    assert file.name not in open_files(str(os.getpid()))
    assert str(os.getpid()) in process_ids()


def test_a_file_that_cannot_be_put_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_whole(str(tmp_path / "taken"), b"content")
    assert names_in(str(tmp_path)) == ["taken"]
    write_whole(str(tmp_path / "free"), b"content")
    assert (tmp_path / "free").stat().st_mode & 0o777 == 0o600
    assert content_of(str(tmp_path / "free")) == b"content"
