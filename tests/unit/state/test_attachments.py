"""A record is there as long as one attachment of its pod is."""

import json
import os
from pathlib import Path

import pytest

from capture.state import attachments
from capture.state.attachments import LEFT_ALONE, RecordedDecision

OWN = "/proc/self/ns/net"
ALONE = RecordedDecision(
    LEFT_ALONE, "it has no proxy", "2026-03-01T12:00:00.123Z", "shop/web-0", "cafe", "eth0", "pods",
    os.stat(OWN).st_ino, OWN, "not injected",
)  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with the records of three namespaces."""
    for namespace in ("11-1", "12-2", "13-3"):
        (tmp_path / f"{namespace}.json").write_text("{}")
    return tmp_path


def keep(state: Path, network: str, container: str, interface: str, namespace: str) -> None:
    assert attachments.save_namespace(f"{network}:{container}:{interface}", namespace, str(state))


def forget(state: Path, network: str, container: str, interface: str) -> None:
    attachments.forget(f"{network}:{container}:{interface}", str(state))


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
    gone = attachments.forget_others("pods", {"pods:cafe02:eth0"}, str(state))
    assert gone == ["pods:cafe01:eth0", "pods:cafe02:net1"]
    assert kept(state) == {"pods:cafe02:eth0", "more:cafe03:eth0"}
    assert records(state) == {"12-2", "13-3"}
    assert attachments.forget_others("pods", set(), str(state)) == ["pods:cafe02:eth0"]
    assert records(state) == {"13-3"}


def test_names_that_differ_where_they_meet_are_not_confused(state: Path) -> None:
    keep(state, "a", "b.c", "d", "11-1")
    keep(state, "a.b", "c", "d", "12-2")
    forget(state, "a.b", "c", "d")
    assert records(state) == {"11-1", "13-3"}


@pytest.mark.parametrize("name", ["c" * 300, "c" * 5000])
def test_names_that_are_too_long_are_not_kept_and_nothing_fails(state: Path, name: str) -> None:
    assert not attachments.save_namespace(f"pods:{name}:eth0", "11-1", str(state))
    forget(state, "pods", name, "eth0")


def test_where_no_namespace_can_be_kept_nothing_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = str(tmp_path / "file" / "state")
    assert not attachments.save_namespace("pods:cafe01:eth0", "11-1", directory)
    attachments.forget("pods:cafe01:eth0", directory)
    assert attachments.forget_others("pods", set(), directory) == []


def test_the_last_decision_about_a_namespace_counts(state: Path) -> None:
    later = ALONE.replace(time="2026-03-01T12:00:01.000Z", container="f00d", reason="it is excluded")
    assert attachments.save_decision(later, str(state))
    assert attachments.save_decision(ALONE, str(state))
    assert attachments.decision_about(os.stat(OWN), str(state)) == later
    assert attachments.decision_about(os.stat("/proc/self/ns/mnt"), str(state)) is None


@pytest.mark.parametrize("path", ["/proc/self/ns/mnt", "/run/netns/gone"])
def test_a_decision_is_not_about_another_namespace_with_the_inode_of_an_ended_one(state: Path, path: str) -> None:
    assert attachments.save_decision(ALONE.replace(namespace=path), str(state))
    assert attachments.decision_about(os.stat(OWN), str(state)) is None


def test_a_decision_goes_with_its_attachment(state: Path) -> None:
    for interface in ("eth0", "net1"):
        assert attachments.save_decision(ALONE.replace(interface=interface), str(state))
    attachments.forget("pods:cafe:eth0", str(state))
    assert [decision.interface for decision in attachments.read_decisions(str(state))] == ["net1"]
    attachments.forget_others("other", set(), str(state))
    attachments.forget_others("pods", {"pods:cafe:net1"}, str(state))
    assert [decision.interface for decision in attachments.read_decisions(str(state))] == ["net1"]
    attachments.forget_others("pods", set(), str(state))
    assert list(attachments.read_decisions(str(state))) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"{", b"\xff", b'{"decision": 1}', b'{"inode": 4711}', b'{"inode": "4711", "decision": "x"}'],
)
def test_a_file_of_another_version_is_left_aside(state: Path, content: bytes) -> None:
    assert attachments.save_decision(ALONE, str(state))
    Path(state, "decisions", "pods:other:eth0").write_bytes(content)
    assert list(attachments.read_decisions(str(state))) == [ALONE]


def test_more_than_is_known_does_no_harm(state: Path) -> None:
    assert attachments.save_decision(ALONE, str(state))
    file = Path(state, "decisions", "pods:cafe:eth0")
    file.write_text(file.read_text().replace("{", '{"schema": "capture/v2", "more": [1], ', 1))
    assert attachments.decision_about(os.stat(OWN), str(state)) == ALONE


def test_an_older_decision_has_no_kind(state: Path) -> None:
    assert attachments.save_decision(ALONE, str(state))
    file = Path(state, "decisions", "pods:cafe:eth0")
    plain = json.loads(file.read_text())
    del plain["kind"]
    file.write_text(json.dumps(plain))
    assert attachments.decision_about(os.stat(OWN), str(state)) == ALONE.replace(kind="")


def test_where_no_decision_can_be_kept_nothing_fails(tmp_path: Path) -> None:
    assert not attachments.save_decision(ALONE, "/proc/none")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    assert not attachments.save_decision(ALONE, str(open_to_all))
    assert list(attachments.read_decisions(str(open_to_all))) == []
