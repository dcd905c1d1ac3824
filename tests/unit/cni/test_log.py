"""A line of the plugin's log, its level and its file; a log that cannot be written stops no pod."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cni import log
from cni.log import PluginLog

ABOUT = {"command": "ADD", "namespace": "shop", "pod": "web-0", "container": "cafe01"}


def lines_of(*files: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_line_says_who_what_and_how_long(tmp_path: Path) -> None:
    file = tmp_path / "cni.log"
    written = PluginLog(str(file), "info", ABOUT)
    with written.step("read pod"):
        time.sleep(0.002)
    with written.step("apply"):
        pass
    written.info("captured", backend="iptables")
    (line,) = lines_of(file)
    steps = line.pop("steps_ms")
    assert isinstance(steps, dict)
    assert list(steps) == ["read pod", "apply"]
    assert steps["read pod"] >= 2
    took = line.pop("ms")
    assert isinstance(took, float)
    assert took >= sum(steps.values())
    written_at = line.pop("time")
    assert isinstance(written_at, str)
    assert abs(time.time() - time.mktime(time.strptime(written_at[:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 60
    assert line == {"level": "info", "message": "captured", **ABOUT, "backend": "iptables"}


def test_time_is_as_in_rfc_3339() -> None:
    assert log.timestamp(1_700_000_000_007_900_000) == "2023-11-14T22:13:20.007Z"


def test_a_step_taken_twice_adds_up(tmp_path: Path) -> None:
    written = PluginLog(str(tmp_path / "log"))
    for _ in range(3):
        with written.step("query"):
            time.sleep(0.001)
    written.info("done")
    (line,) = lines_of(tmp_path / "log")
    assert line["steps_ms"]["query"] >= 3  # type: ignore[index]  # JSON


def test_a_step_that_fails_is_measured_as_well(tmp_path: Path) -> None:
    written = PluginLog(str(tmp_path / "log"))
    with pytest.raises(ZeroDivisionError), written.step("query"):
        raise ZeroDivisionError
    written.error("no")
    assert list(lines_of(tmp_path / "log")[0]["steps_ms"]) == ["query"]  # type: ignore[call-overload]  # JSON


@pytest.mark.parametrize("lowest", log.LEVEL_NUMBERS)
def test_the_level_decides(tmp_path: Path, lowest: str) -> None:
    written = PluginLog(str(tmp_path / "log"), lowest)
    for write in (written.debug, written.info, written.warn, written.error):
        write("x")
    levels = list(log.LEVEL_NUMBERS)
    assert [line["level"] for line in lines_of(tmp_path / "log")] == levels[levels.index(lowest) :]


def test_without_a_path_there_is_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PluginLog("").error("not written")
    assert [*tmp_path.iterdir()] == []


def test_hostile_text_stays_on_its_line(tmp_path: Path) -> None:
    PluginLog(str(tmp_path / "log")).error('a\n{"level": "info"}\u2028\x00\ud800', pod="x\ny")
    (line,) = lines_of(tmp_path / "log")
    assert line["message"] == 'a\n{"level": "info"}\u2028\x00\ud800'


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    file = tmp_path / "istio-capture" / "cni.log"
    PluginLog(str(file)).info("x")
    assert len(lines_of(file)) == 1
    assert stat.S_IMODE(file.stat().st_mode) & 0o007 == 0


def test_a_log_path_of_no_file_gets_nothing_and_stops_no_pod(tmp_path: Path) -> None:
    fifo, socket, directory = tmp_path / "fifo", tmp_path / "missing" / "deeper" / "log", tmp_path
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    for path in (fifo, socket, directory, Path("/dev/full"), tmp_path / "fifo" / "log"):
        PluginLog(str(path)).error("x")
    assert os.read(reader, 100) == b""
    os.close(reader)
    PluginLog(str(fifo)).error("no process has it open")


def test_where_nothing_can_be_written_a_line_is_lost_and_nothing_else(tmp_path: Path) -> None:
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        f"from cni.log import PluginLog; PluginLog({str(tmp_path / 'log')!r}).error('x')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environ())
    assert (done.stdout, done.stderr, (tmp_path / "log").read_text()) == ("", "", "")


def test_a_log_that_has_grown_is_rotated_and_old_ones_go(tmp_path: Path) -> None:
    file = tmp_path / "log"
    written = PluginLog(str(file), rotate_at=1000)
    for number in range(100):
        written.info("x" * 100, number=number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names in (["log", "log.1", "log.2", "log.3"], ["log.1", "log.2", "log.3"])
    kept = [tmp_path / name for name in ("log.3", "log.2", "log.1", "log") if name in names]
    numbers = [line["number"] for line in lines_of(*kept)]
    assert numbers == list(range(100 - len(numbers), 100))
    assert all(path.stat().st_size <= 1400 for path in kept)


WRITER = """
import sys
from cni.log import PluginLog
path, name, count = sys.argv[1:]
for number in range(int(count)):
    PluginLog(path, rotate_at=100_000).info("y" * 50, writer=name, number=number)
"""


def test_eight_plugins_at_once_lose_no_line(tmp_path: Path) -> None:
    file, count = tmp_path / "log", 250
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(file), str(name), str(count)], env=environ())
        for name in range(8)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 8
    files = [*tmp_path.iterdir()]
    assert len(files) > 2  # so it was rotated meanwhile
    seen = [(line["writer"], line["number"]) for line in lines_of(*files)]
    assert len(seen) == len(set(seen))
    assert set(seen) == {(str(name), number) for name in range(8) for number in range(count)}


def test_a_dead_plugin_leaves_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # it ends with the open file, as that does with its process
    log.append_line(str(file), b"x" * 100 + b"\n", rotate_at=10)
    assert (tmp_path / "log.1").exists()


def test_a_run_without_the_lock_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(3):
            log.append_line(str(file), b"x" * 100 + b"\n", rotate_at=10)
    assert file.stat().st_size == 303


def test_a_complaint_is_one_line_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    log.print_failure("ADD", "pod shop/web-0:\nno\x1b[2J")
    log.print_failure("", "CNI_COMMAND is missing")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "capture-cni: ADD: pod shop/web-0: no\\x1b[2J\ncapture-cni: no command: CNI_COMMAND is missing\n"
    )


def environ() -> dict[str, str]:
    import cni

    return os.environ | {"PYTHONPATH": os.path.dirname(cni.__path__[0])}
