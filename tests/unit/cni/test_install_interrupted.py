"""The installer, killed or overtaken by another program before each of its system calls."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cni import install
from support.processes.system_calls import run_alone
from support.runtimes.fake_plugin import write_plugin

FAULTS = Path(__file__).with_name("installer_faults.py")
some_or_all = pytest.mark.parametrize("stride", [16, pytest.param(1, marks=pytest.mark.long)])


@some_or_all
@pytest.mark.parametrize(
    "scenario", ["list", "single", "own", "to-own", "uninstall", "uninstall-single", "uninstall-own"]
)
def test_killed_anywhere_it_leaves_the_old_or_the_new_and_the_next_run_succeeds(
    scenario: str, stride: int, tmp_path: Path
) -> None:
    done = run_alone(FAULTS, "kill", scenario, "-", str(stride), str(tmp_path))
    assert isinstance(done["system_calls"], int)
    assert done["system_calls"] > 80


@some_or_all
@pytest.mark.parametrize(
    ("scenario", "style"),
    [
        ("list", "rename"),
        ("list", "in-place"),
        ("list", "slow"),
        ("single", "rename"),
        ("single", "slow"),
        ("own", "rename"),
        ("to-own", "slow"),
        ("uninstall", "rename"),
        ("uninstall", "slow"),
        ("uninstall-single", "rename"),
    ],
)
def test_a_change_by_another_at_any_moment_stays(scenario: str, style: str, stride: int, tmp_path: Path) -> None:
    done = run_alone(FAULTS, "rival", scenario, style, str(stride), str(tmp_path))
    assert isinstance(done["acted"], int)
    assert stride * done["acted"] > 80


RIVAL = """
import json, os, sys, time
path, rounds = sys.argv[1], int(sys.argv[2])
for round in range(1, rounds + 1):
    time.sleep(0.1)
    new = {"cniVersion": "1.0.0", "name": "pods", "round": round, "plugins": [{"type": "bridge"}]}
    with open(path + ".rival", "w") as file:
        json.dump(new, file)
    os.rename(path + ".rival", path)
"""


def test_a_rival_that_writes_every_100_ms_loses_nothing_and_does_not_win(tmp_path: Path) -> None:
    plugin, bin_dir, conf_dir = tmp_path / "capture-cni", tmp_path / "bin", tmp_path / "net.d"
    write_plugin(plugin)
    bin_dir.mkdir()
    conf_dir.mkdir()
    path = conf_dir / "10-main.conflist"
    path.write_text('{"cniVersion": "1.0.0", "name": "pods", "round": 0, "plugins": [{"type": "bridge"}]}')
    rival = subprocess.Popen([sys.executable, "-c", RIVAL, str(path), "8"])
    rounds, entered = [0], 0
    while rival.poll() is None:
        install.install(str(plugin), str(bin_dir), install.DesiredConfiguration(str(conf_dir), {}))
        network = json.loads(path.read_text())
        rounds.append(network["round"])
        entered += network["plugins"] == [{"type": "bridge"}, {"type": "capture-cni"}]
        time.sleep(0.001)
    install.install(str(plugin), str(bin_dir), install.DesiredConfiguration(str(conf_dir), {}))
    assert rival.wait() == 0
    assert rounds == sorted(rounds)
    assert entered > 8
    assert json.loads(path.read_text()) == {
        "cniVersion": "1.0.0",
        "name": "pods",
        "round": 8,
        "plugins": [{"type": "bridge"}, {"type": "capture-cni"}],
    }
    assert os.listdir(conf_dir) == ["10-main.conflist"]
