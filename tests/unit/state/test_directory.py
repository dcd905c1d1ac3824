"""The state directory is private, with any maker; one that is not is refused, with the reason."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from capture.errors import StateDirectoryError
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.settings import Settings
from capture.state import attachments, directory, record
from capture.state.directory import forget_ended_namespaces
from capture.state.host_answers import HostAnswers
from capture.state.record import Record
from capture.system.netns import namespace_id
from pytest_netns import require

FACTS = HostAnswers(users={}, groups={}, proxy_user="p", families=(), ipv6=True, servers=())
PLAIN = Record(Settings({}), FACTS, build_ruleset(resolve(Settings({}), FACTS)[0]), "nftables", "netlink")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
def test_every_directory_that_is_made_is_private(tmp_path: Path, mask: int) -> None:
    require(mask != 0o777 or os.geteuid() == 0, "only root reads what no user may read")
    state = tmp_path / "run" / "istio-capture"
    with umask(mask):
        assert attachments.save_namespace("pods:cafe:eth0", "11-1", str(state))
        assert not record.write(PLAIN, str(state))
    assert [mode(path) for path in (state.parent, state, state / "attachments")] == [0o700] * 3
    assert record.read(str(state)) == PLAIN


@pytest.mark.parametrize("wider", [0o701, 0o710, 0o755, 0o770, 0o777, 0o1777])
def test_a_wider_mode_is_refused_and_nothing_is_written(tmp_path: Path, wider: int) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(wider)
    with pytest.raises(StateDirectoryError, match=rf"{state}: its mode is {wider:04o}; expected 0700"):
        record.write(PLAIN, str(state))
    with pytest.raises(StateDirectoryError, match="chmod 0700"):
        attachments.save_namespace("pods:cafe:eth0", "11-1", str(state))
    assert os.listdir(state) == []


def test_another_owner_is_refused(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "only root may give a directory away")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 1337, 1337)
    with pytest.raises(StateDirectoryError, match="its owner is uid 1337; expected uid 0"):
        record.write(PLAIN, str(state))


@pytest.mark.parametrize("other", ["file", "link"])
def test_a_path_that_is_no_directory_is_refused(tmp_path: Path, other: str) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    state = tmp_path / "state"
    if other == "file":
        state.touch(0o600)
    else:
        state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StateDirectoryError, match="expected a directory"):
        record.write(PLAIN, str(state))


def test_files_that_others_could_have_written_are_neither_read_nor_followed(tmp_path: Path) -> None:
    state, victim = tmp_path / "state", tmp_path / "victim.json"
    victim.touch()
    record.write(PLAIN, str(state))
    attachments.save_namespace("pods:cafe:eth0", "11-1", str(state))
    state.chmod(0o777)
    link = state / "attachments" / "pods:cafe:eth0"
    link.unlink()
    link.symlink_to(victim)
    with pytest.raises(StateDirectoryError):
        record.read(str(state))
    attachments.forget("pods:cafe:eth0", str(state))
    forget_ended_namespaces(str(state))
    assert victim.exists()
    assert (state / f"{namespace_id()}.json").exists()


def test_an_installer_tightens_what_kubelet_made(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert directory.narrow_mode(str(state)) is False
    state.mkdir()
    state.chmod(0o755)
    assert directory.narrow_mode(str(state)) is True
    assert mode(state) == 0o700
    assert directory.narrow_mode(str(state)) is False
    state.chmod(0o777)  # here others may have left something
    with pytest.raises(StateDirectoryError):
        directory.narrow_mode(str(state))
    assert mode(state) == 0o777


# --- what goes from it ---------------------------------------------------------------------------


def test_of_one_inode_only_what_was_written_last_can_be_there(tmp_path: Path) -> None:
    kept = ["4026532841-9.json", "4026532842-9.json", "4026532843.json", "strange.json", "x-9.json", "attachments"]
    for moment, name in enumerate(("4026532841-77.json", "4026532841-8.json", *kept)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (moment, moment))

    forget_ended_namespaces(str(tmp_path))

    assert {path.name for path in tmp_path.iterdir()} == set(kept)


def test_leftovers_of_a_killed_writer(tmp_path: Path) -> None:
    old, fresh = tmp_path / "4026532841-77.json.0a1b2c", tmp_path / "4026532841-77.json.3d4e5f"
    for path in (old, fresh):
        path.touch()
    os.utime(old, (0, 0))

    forget_ended_namespaces(str(tmp_path))

    assert [path.name for path in tmp_path.iterdir()] == [fresh.name]


def test_a_missing_directory_holds_no_records(tmp_path: Path) -> None:
    forget_ended_namespaces(str(tmp_path / "missing"))
    assert list(tmp_path.iterdir()) == []
