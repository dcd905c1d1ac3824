from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from capture.cli.doctor.neighbours import ISTIO, OWN, capturing_plugins


def write(directory: Path, name: str, *types: str) -> str:
    path = directory / name
    path.write_text(json.dumps({"name": "pods", "plugins": [{"type": kind} for kind in types]}))
    return str(path)


def test_plugins_are_found_in_what_a_runtime_reads(tmp_path: Path) -> None:
    both = write(tmp_path, "10-main.conflist", "bridge", ISTIO, OWN)
    write(tmp_path, "05-backup.conflist.old", "bridge", ISTIO)
    assert capturing_plugins((str(tmp_path), "/does/not/exist")) == {ISTIO: both, OWN: both}
    os.unlink(both)
    single = tmp_path / "20-single.conf"
    single.write_text(json.dumps({"type": ISTIO}))
    assert capturing_plugins((str(tmp_path),)) == {ISTIO: str(single)}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"plugins": 3}', b'{"plugins": [3, {"type": 3}]}'])
def test_files_that_no_runtime_can_read_count_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "10-main.conflist").write_bytes(content)
    os.mkfifo(tmp_path / "20-fifo.conflist")
    assert capturing_plugins((str(tmp_path),)) == {}
