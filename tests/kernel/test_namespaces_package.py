"""pytest-netns as a package of its own: installed into an empty environment, its README's example runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pytest_netns import require

PACKAGE = Path(__file__).parents[1] / "pytest_netns"


def test_the_readme_example_runs_where_only_the_package_is_installed(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "network namespaces need root")
    source = shutil.copytree(PACKAGE, tmp_path / "source", ignore=shutil.ignore_patterns("__pycache__"))
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", environment, "--disable-pip-version-check", "install", "-q", source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    (example,) = re.findall(r"```python\n(.*?)```", (source / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "test_example.py").write_text(example, encoding="utf-8")

    done = subprocess.run(
        [environment / "bin" / "pytest", "-q", "--rootdir", tmp_path, tmp_path / "test_example.py"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={"PATH": os.environ["PATH"], "CI": "true"},
    )  # fmt: skip

    assert "1 passed" in done.stdout, done.stdout
