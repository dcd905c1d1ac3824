"""Endpoints as files: which files are written, and which are not."""

from pathlib import Path

from sidecar import endpoints


def test_a_file_that_is_not_one_of_ours_stays(tmp_path: Path) -> None:
    foreign = {"outbound_a.json": b"\xff", "outbound_b.json": b"{}", "other.json": b"[]"}
    for name, content in foreign.items():
        (tmp_path / name).write_bytes(content)
    assert endpoints.write([], str(tmp_path)) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == foreign
