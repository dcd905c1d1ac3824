"""A file is replaced as a whole or not at all, and what others wrote meanwhile stays."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cni
from cni import atomic_files
from cni.atomic_files import ChangedMeanwhileError, snapshot

ROOT = Path(cni.__file__).parents[1]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    return path


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What becomes durable or visible, in order; the real calls are made."""
    done: list[str] = []

    def recorded(owner: Any, name: str, describe: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def record(*arguments: Any) -> Any:
            done.append(describe(*arguments))
            return original(*arguments)

        monkeypatch.setattr(owner, name, record)

    recorded(os, "fsync", lambda file: f"sync {Path(os.readlink(f'/proc/self/fd/{file}')).suffix or 'directory'}")
    recorded(os, "rename", lambda old, new: f"rename to {Path(new).suffix or 'name'}")
    recorded(os, "link", lambda old, new: "link to name")
    recorded(os, "unlink", lambda path: f"unlink {Path(path).suffix or 'name'}")
    recorded(atomic_files, "try_to_exchange", lambda one, other: "exchange")
    return done


def test_the_disk_has_the_content_before_readers_and_the_name_before_the_return(file: Path, steps: list[str]) -> None:
    atomic_files.replace(snapshot(str(file)), b"new")
    assert steps == ["sync .capture-tmp", "exchange", "unlink .capture-tmp", "sync directory"]
    steps.clear()
    atomic_files.create(str(file.with_name("other")), b"new")
    assert steps == ["sync .capture-tmp", "link to name", "unlink .capture-tmp", "sync directory"]
    steps.clear()
    assert atomic_files.write_if_changed(str(file), b"newest")
    assert steps == ["sync .capture-tmp", "rename to name", "sync directory"]
    steps.clear()
    atomic_files.remove(snapshot(str(file)))
    assert steps == ["rename to .capture-tmp", "unlink .capture-tmp", "sync directory"]


def test_where_files_cannot_change_places_it_is_a_rename(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_files, "try_to_exchange", lambda one, other: False)
    old = snapshot(str(file))
    atomic_files.replace(old, b"new")
    assert file.read_text() == "new"
    with pytest.raises(ChangedMeanwhileError):
        atomic_files.replace(old, b"newer")
    assert file.read_text() == "new"
    assert os.listdir(file.parent) == ["file"]


def change_content(file: Path) -> None:
    file.write_text("foreign")


def change_mode(file: Path) -> None:
    file.chmod(0o600)


def replace_by_the_same(file: Path) -> None:
    file.with_name("rival").write_text("old")
    file.with_name("rival").rename(file)


@pytest.mark.parametrize("change", [change_content, change_mode, replace_by_the_same, Path.unlink])
@pytest.mark.parametrize("what", ["replace", "remove"])
def test_a_file_that_has_changed_since_is_left_as_it_is(file: Path, change: Callable[[Path], None], what: str) -> None:
    old = snapshot(str(file))
    change(file)
    changed = snapshot(str(file)) if file.exists() else None
    with pytest.raises(ChangedMeanwhileError):
        atomic_files.remove(old) if what == "remove" else atomic_files.replace(old, b"ours")
    assert (snapshot(str(file)) if file.exists() else None) == changed
    assert os.listdir(file.parent) == (["file"] if changed else [])


def test_two_rivals_in_a_row_and_the_newest_wins(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One comes between comparison and exchange, another before the exchange is undone."""
    exchange, contents = atomic_files.try_to_exchange, ["first", "second"]

    def rival_before(one: str, other: str) -> bool:
        if contents:
            file.with_name("rival").write_text(contents.pop(0))
            file.with_name("rival").rename(file)
        return exchange(one, other)

    monkeypatch.setattr(atomic_files, "try_to_exchange", rival_before)
    with pytest.raises(ChangedMeanwhileError):
        atomic_files.replace(snapshot(str(file)), b"ours")
    assert file.read_text() == "second"
    assert os.listdir(file.parent) == ["file"]


def test_a_new_file_is_not_made_over_another(file: Path) -> None:
    with pytest.raises(FileExistsError):
        atomic_files.create(str(file), b"new")
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["file"]


def test_an_error_names_the_file_that_was_meant(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "file")
    with pytest.raises(FileNotFoundError) as error:
        atomic_files.create(missing, b"")
    assert error.value.filename == missing


OPENED_MEANWHILE = """
import fcntl, os, sys
from cni import atomic_files
real = fcntl.fcntl
def opened_meanwhile(file, operation, argument):
    answer = real(file, operation, argument)
    if (operation, argument) == (fcntl.F_SETLEASE, fcntl.F_RDLCK):
        if os.fork() == 0:
            try:
                os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK)
            except BlockingIOError:
                os._exit(0)
            os._exit(1)
        assert os.wait()[1] == 0
    return answer
fcntl.fcntl = opened_meanwhile
atomic_files.replace(atomic_files.snapshot(sys.argv[1]), b"new")
"""


def test_a_program_that_opens_the_file_meanwhile_does_not_end_us(tmp_path: Path) -> None:
    """The kernel notifies the holder of a lease by a signal, whose default is to end the process (fcntl(2))."""
    file = tmp_path / "file"
    file.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", OPENED_MEANWHILE, file], cwd=ROOT, check=False)
    assert (done.returncode, file.read_bytes()) == (0, b"new")


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file"):
        snapshot(str(tmp_path / "fifo"))
