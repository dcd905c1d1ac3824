"""Five changes that come up every few weeks: each is a patch of at most three files, its own test among them.

When one no longer applies, the place that it changes has moved: make the patch anew, and see that it is still small.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHANGES = sorted((ROOT / "tests" / "changes").glob("*.patch"))
COPIED = ("capture", "cni", "initcontainer", "docs")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.stem)
def test_the_change_is_small_and_does_what_it_is_for(change: Path, tmp_path: Path) -> None:
    touched = re.findall(r"^\+\+\+ b/(.+)$", change.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(touched) <= 3
    for folder in COPIED:
        shutil.copytree(ROOT / folder, tmp_path / folder)  # with what is compiled

    applied = subprocess.run(
        ["git", "apply", "-C1", change],
        cwd=tmp_path, env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert applied.returncode == 0, applied.stderr
    (own_test,) = [path for path in touched if path.startswith("tests/")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, own_test],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "passed" in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout
