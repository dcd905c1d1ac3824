from __future__ import annotations

import os
from pathlib import Path

import pytest

from cni import attachments


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with the records of three namespaces."""
    for namespace in ("11-1", "12-2", "13-3"):
        (tmp_path / f"{namespace}.json").write_text("{}")
    return tmp_path


def keep(state: Path, network: str, container: str, interface: str, namespace: str) -> None:
    assert attachments.keep(network, container, interface, namespace, str(state))


def forget(state: Path, network: str, container: str, interface: str) -> None:
    attachments.forget(network, container, interface, str(state))


def records(state: Path) -> set[str]:
    return {path.stem for path in state.glob("*.json")}


def kept(state: Path) -> set[str]:
    return set(os.listdir(state / "attachments"))


def test_a_link_leads_to_the_record(state: Path) -> None:
    keep(state, "pods", "cafe01", "eth0", "11-1")
    assert (state / "attachments" / "pods:cafe01:eth0").resolve() == state / "11-1.json"
    assert (state / "attachments").stat().st_mode & 0o777 == 0o700


def test_the_record_goes_with_the_attachment(state: Path) -> None:
    keep(state, "pods", "cafe01", "eth0", "11-1")
    keep(state, "pods", "cafe02", "eth0", "12-2")
    forget(state, "pods", "cafe01", "eth0")
    assert records(state) == {"12-2", "13-3"}
    assert kept(state) == {"pods:cafe02:eth0"}


def test_a_pod_with_two_interfaces_has_one_record_until_both_are_gone(state: Path) -> None:
    keep(state, "pods", "cafe01", "eth0", "11-1")
    keep(state, "more", "cafe01", "net1", "11-1")
    forget(state, "more", "cafe01", "net1")
    assert "11-1" in records(state)
    forget(state, "pods", "cafe01", "eth0")
    assert "11-1" not in records(state)


def test_keeping_twice_is_keeping_once_and_the_last_namespace_counts(state: Path) -> None:
    keep(state, "pods", "cafe01", "eth0", "11-1")
    keep(state, "pods", "cafe01", "eth0", "11-1")
    keep(state, "pods", "cafe01", "eth0", "12-2")
    assert kept(state) == {"pods:cafe01:eth0"}
    forget(state, "pods", "cafe01", "eth0")
    assert records(state) == {"11-1", "13-3"}


def test_forgetting_what_was_never_kept_is_fine(state: Path) -> None:
    forget(state, "pods", "cafe01", "eth0")
    keep(state, "pods", "cafe01", "eth0", "11-1")
    for _ in range(2):
        forget(state, "pods", "cafe01", "eth0")
    forget(state, "pods", "cafe02", "eth0")
    assert records(state) == {"12-2", "13-3"}


def test_a_record_that_is_gone_already_is_fine(state: Path) -> None:
    keep(state, "pods", "cafe01", "eth0", "11-1")
    (state / "11-1.json").unlink()
    forget(state, "pods", "cafe01", "eth0")
    assert kept(state) == set()


def test_garbage_is_what_is_of_this_network_and_not_valid(state: Path) -> None:
    keep(state, "pods", "cafe01", "eth0", "11-1")
    keep(state, "pods", "cafe02", "eth0", "12-2")
    keep(state, "pods", "cafe02", "net1", "12-2")
    keep(state, "more", "cafe03", "eth0", "13-3")
    gone = attachments.forget_others("pods", {("cafe02", "eth0")}, str(state))
    assert sorted(gone) == ["cafe01", "cafe02"]
    assert kept(state) == {"pods:cafe02:eth0", "more:cafe03:eth0"}
    assert records(state) == {"12-2", "13-3"}
    assert attachments.forget_others("pods", set(), str(state)) == ["cafe02"]
    assert records(state) == {"13-3"}


def test_names_that_differ_where_they_meet_are_not_confused(state: Path) -> None:
    keep(state, "a", "b.c", "d", "11-1")
    keep(state, "a.b", "c", "d", "12-2")
    forget(state, "a.b", "c", "d")
    assert records(state) == {"11-1", "13-3"}


@pytest.mark.parametrize("name", ["c" * 300, "c" * 5000])
def test_names_that_are_too_long_are_not_kept_and_nothing_fails(state: Path, name: str) -> None:
    assert not attachments.keep("pods", name, "eth0", "11-1", str(state))
    forget(state, "pods", name, "eth0")


def test_where_nothing_can_be_kept_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = str(tmp_path / "file" / "state")
    assert not attachments.keep("pods", "cafe01", "eth0", "11-1", directory)
    attachments.forget("pods", "cafe01", "eth0", directory)
    assert attachments.forget_others("pods", set(), directory) == []
