from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from capture.state import decisions
from capture.state.decisions import LEFT_ALONE, RecordedDecision

OWN = "/proc/self/ns/net"
ALONE = RecordedDecision(
    LEFT_ALONE, "it has no proxy", "2026-03-01T12:00:00.123Z", "shop/web-0", "cafe", "eth0", "pods",
    os.stat(OWN).st_ino, OWN, "not injected",
)  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def test_the_last_decision_about_a_namespace_counts(state: str) -> None:
    later = ALONE.replace(time="2026-03-01T12:00:01.000Z", container="f00d", reason="it is excluded")
    assert decisions.keep(later, state)
    assert decisions.keep(ALONE, state)
    assert decisions.of_namespace(os.stat(OWN), state) == later
    assert decisions.of_namespace(os.stat("/proc/self/ns/mnt"), state) is None


@pytest.mark.parametrize("path", ["/proc/self/ns/mnt", "/run/netns/gone"])
def test_a_decision_is_not_about_another_namespace_with_the_inode_of_an_ended_one(state: str, path: str) -> None:
    assert decisions.keep(ALONE.replace(namespace=path), state)
    assert decisions.of_namespace(os.stat(OWN), state) is None


def test_a_decision_goes_with_its_attachment(state: str) -> None:
    for interface in ("eth0", "net1"):
        assert decisions.keep(ALONE.replace(interface=interface), state)
    decisions.forget("pods", "cafe", "eth0", state)
    assert [decision.interface for decision in decisions.read_all(state)] == ["net1"]
    decisions.forget_others("other", set(), state)
    decisions.forget_others("pods", {("cafe", "net1")}, state)
    assert [decision.interface for decision in decisions.read_all(state)] == ["net1"]
    decisions.forget_others("pods", set(), state)
    assert list(decisions.read_all(state)) == []


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"{", b"\xff", b'{"decision": 1}', b'{"inode": 4711}', b'{"inode": "4711", "decision": "x"}'],
)
def test_a_file_of_another_version_is_left_aside(state: str, content: bytes) -> None:
    assert decisions.keep(ALONE, state)
    Path(state, "decisions", "pods:other:eth0").write_bytes(content)
    assert list(decisions.read_all(state)) == [ALONE]


def test_more_than_is_known_does_no_harm(state: str) -> None:
    assert decisions.keep(ALONE, state)
    file = Path(state, "decisions", "pods:cafe:eth0")
    file.write_text(file.read_text().replace("{", '{"schema": "capture/v2", "more": [1], ', 1))
    assert decisions.of_namespace(os.stat(OWN), state) == ALONE


def test_an_older_decision_has_no_kind(state: str) -> None:
    assert decisions.keep(ALONE, state)
    file = Path(state, "decisions", "pods:cafe:eth0")
    plain = json.loads(file.read_text())
    del plain["kind"]
    file.write_text(json.dumps(plain))
    assert decisions.of_namespace(os.stat(OWN), state) == ALONE.replace(kind="")


def test_where_nothing_can_be_kept_nothing_fails(tmp_path: Path) -> None:
    assert not decisions.keep(ALONE, "/proc/none")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)
    assert not decisions.keep(ALONE, str(open_to_all))
    assert list(decisions.read_all(str(open_to_all))) == []
