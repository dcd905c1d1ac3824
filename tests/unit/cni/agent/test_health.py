"""What the agent knows about itself, and how it is put into words."""

import time
from types import SimpleNamespace

import pytest

from cni.agent.health import LOOP_LIMIT, STARTING, Health
from cni.agent.status_text import pod_lines, status_lines


def test_the_agent_is_ready_when_every_part_is_well() -> None:
    health = Health(("plugin", "entry"))
    assert {each["problem"] for each in health.as_plain()["problems"].values()} == {"starting"}
    readiness = [health.is_ready]
    news = []
    for part, problem in (("plugin", ""), ("entry", ""), ("entry", ""), ("entry", "lost")):
        news.append(health.report(part, problem))
        readiness.append(health.is_ready)
    assert news == [True, True, False, True]
    assert readiness == [False, False, True, True, False]


def test_a_problem_is_as_old_as_its_first_mention() -> None:
    clock = iter((1.0, 5.0, 9.0))
    health = Health(("entry",), lambda: next(clock))
    for _ in range(2):
        health.report("entry", "lost")
        assert health.as_plain()["problems"] == {"entry": {"problem": "lost", "since": 5.0}}
    health.report("entry")
    assert (health.as_plain()["problems"], health.as_plain()["parts"]) == ({}, ["entry"])


def test_a_part_that_was_not_named_starts_too() -> None:
    health = Health()
    readiness = [health.is_ready, health.report("audit", STARTING), health.is_ready]
    assert readiness == [True, False, False]


def test_facts_and_counts_are_kept() -> None:
    health = Health()
    health.note(node="node-1", pods_known=3)
    health.note(pods_known=4)
    states: dict[str, list[str]] = {}
    health.provide(pod_states=lambda: dict(states))
    states["captured"] = ["shop/web"]
    for label in ("success", "failure", "success"):
        health.count("repairs", label)
    health.count("starts")
    assert health.fact("pod_states") == health.as_plain()["pod_states"] == states
    assert (health.fact("pods_known"), health.fact("nothing")) == (4, None)
    plain = health.as_plain()
    assert plain["counts"] == {"repairs failure": 1, "repairs success": 2, "starts": 1}
    assert (plain["schema"], plain["node"], plain["ready"], plain["live"]) == ("capture/v1", "node-1", True, True)


def test_the_agent_is_live_while_its_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("cni.agent.health.time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    health = Health()
    now[0] += LOOP_LIMIT
    alive = [health.is_live]
    health.note_loop()
    now[0] += LOOP_LIMIT - 1
    assert [*alive, health.is_live] == [False, True]


def test_the_status_in_words() -> None:
    status = {
        "version": "0.1.0", "node": "node-1", "ready": False,
        "problems": {"entry": {"problem": "lost", "since": 880.0}, "audit": {"problem": "too slow", "since": 995.0}},
        "loaded": {"network": "pods", "plugins": ["bridge", "capture-cni"], "directory": "/etc/cni/net.d"},
        "token_expires": 1000.0 + 2 * 3600, "api_away_since": 999.0, "api_problem": "timed out", "api_connected": True,
        "lost": 0.0, "rival": "calico", "pod_states": {"no-rules": ["shop/web"], "captured": ["a/b", "c/d"]},
    }  # fmt: skip
    assert list(status_lines(status, 1000.0)) == [
        "agent 0.1.0 on node node-1: NOT ready",
        "  audit: too slow (for 5 s)",
        "  entry: lost (for 2 min)",
        "runtime: network pods with bridge, capture-cni, from /etc/cni/net.d",
        "token: ends in 2 h",
        "API server: away for 1 s: timed out",
        "pods captured: 2",
        "pods no-rules: 1: shop/web",
    ]
    well = {"ready": True, "api_connected": True, "pods_known": 7, "lost": 1.0}
    assert list(status_lines(well, 1.0 + 3 * 86400)) == [
        "agent ? on node (none): ready: pods that start now are captured",
        "API server: connected, 7 pods known",
        "entry: lost 3 days ago to ?",
    ]


def test_pods_in_words_what_is_wrong_first() -> None:
    pods = [
        {"pod": "a/well", "state": "captured", "says": "", "remedy": "none", "since": 0.0},
        {"pod": "b/bad", "state": "no-rules", "says": "no rules", "remedy": "recreate it", "since": 0.0},
    ]
    assert list(pod_lines(pods, 119.0)) == [
        "no-rules             b/bad (for 119 s): no rules",
        "                     recreate it",
        "captured             a/well (for 119 s)",
    ]
