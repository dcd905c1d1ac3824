"""That Istio's own plugin captures the pods of a node, too or alone."""

import json
import os
from pathlib import Path

import pytest

from cni.istio_cni import ISTIO_CNI, rival_finding
from cni.networks import PLUGIN


def write(directory: Path, name: str, *types: str) -> str:
    path = directory / name
    path.write_text(json.dumps({"name": "pods", "plugins": [{"type": kind} for kind in types]}))
    return str(path)


def test_two_programs_that_capture_are_a_warning(tmp_path: Path) -> None:
    both = write(tmp_path, "10-main.conflist", "bridge", ISTIO_CNI, PLUGIN)
    write(tmp_path, "05-backup.conflist.old", "bridge", ISTIO_CNI)
    found = rival_finding((str(tmp_path), "/does/not/exist"))
    assert found is not None
    assert (found.state, found.message.count(both)) == ("warning", 2)
    assert "capture cni uninstall" in found.remedy


def test_istios_plugin_alone_is_a_note(tmp_path: Path) -> None:
    single = tmp_path / "20-single.conf"
    single.write_text(json.dumps({"type": ISTIO_CNI}))
    found = rival_finding((str(tmp_path),))
    assert found is not None
    assert (found.state, str(single) in found.message) == ("note", True)
    single.write_text(json.dumps({"type": PLUGIN}))
    assert rival_finding((str(tmp_path),)) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"plugins": 3}', b'{"plugins": [3, {"type": 3}]}'])
def test_files_that_no_runtime_can_read_count_for_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "10-main.conflist").write_bytes(content)
    os.mkfifo(tmp_path / "20-fifo.conflist")
    assert rival_finding((str(tmp_path),)) is None
