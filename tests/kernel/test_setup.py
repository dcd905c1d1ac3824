"""scripts/setup prints one sentence where it cannot go on, and no output of the program that failed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import capture
from pytest_netns import NamespaceFactory, require

SCRIPT = Path(capture.__file__).parents[1] / "scripts" / "setup"
AS_ANOTHER_USER = [
    *("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", "--"),  # the checkout may be private
]


def test_setup_without_root_names_what_it_needs() -> None:
    prefix = AS_ANOTHER_USER if os.geteuid() == 0 else []
    done = subprocess.run([*prefix, "bash", SCRIPT, "demo"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "set-up: make demo makes network namespaces and programs the kernel in them: run it as root (sudo make demo)\n"
    )


def test_a_target_that_does_not_exist() -> None:
    done = subprocess.run(["bash", SCRIPT, "dmeo"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("set-up: usage: scripts/setup demo|test|")


def test_setup_without_apt_names_the_missing_programs(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "without root it says that first")
    for name in ("bash", "dirname", "id", "mktemp", "rm", "flock"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    done = subprocess.run(
        ["bash", SCRIPT, "demo"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    first, second = done.stderr.splitlines()
    assert first.startswith("set-up: there is no apt here, and these programs are missing: ")
    assert "setpriv" in first
    assert second == "set-up: install them with the package manager of this system, then run make again"


@pytest.mark.kernel
@pytest.mark.long
def test_setup_without_network_names_what_failed(netns: NamespaceFactory, tmp_path: Path) -> None:
    require(shutil.which("dpkg-query"), "this system has no apt")
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPT, tmp_path / "scripts")
    shutil.copy(SCRIPT.parents[1] / "pyproject.toml", tmp_path)
    done = netns().run(["bash", tmp_path / "scripts" / "setup", "bundle"], check=False, timeout=110)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith('set-up: no network: "')
