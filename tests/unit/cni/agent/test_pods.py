"""A pod is found with all that decides on its capture, or not at all where that is not certain."""

import threading
from typing import Any

import pytest

from cni.agent.pods import FRESH_SECONDS, Pods, reduced_pod
from cni.pod import Identity
from cni.pod_object import pod_from_object

WEB = Identity("shop", "web-0", "uid-1")


def a_pod(uid: str = "uid-1", **more: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "istio-proxy", "args": ["proxy", "sidecar"], "image": "x" * 1000}
    container |= {"env": [{"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}], "securityContext": {"runAsUser": 2000}}
    return {
        "metadata": {"namespace": "shop", "name": "web-0", "uid": uid, "managedFields": ["x" * 5000]} | more,
        "spec": {"containers": [container, {"name": "app"}], "securityContext": {"runAsUser": 3000}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def filled(*pods: dict[str, Any], clock: list[float] | None = None) -> Pods:
    table = Pods(lambda: clock[0]) if clock else Pods()
    table.replace_all(pods)
    return table


def test_the_kept_part_of_a_pod_has_all_that_decides_on_the_capture() -> None:
    assert pod_from_object(WEB, reduced_pod(a_pod())) == pod_from_object(WEB, a_pod())
    assert len(str(reduced_pod(a_pod()))) < 1000


def test_the_kept_part_of_a_pod() -> None:
    times = {"creationTimestamp": "2026-03-01T11:00:00Z", "deletionTimestamp": "2026-03-01T13:00:00Z"}
    annotations = {"a": "b", "kubectl.kubernetes.io/last-applied-configuration": "{}"}
    pod = a_pod(labels={"app": "web"}, annotations=annotations, **times)
    pod["spec"] |= {"hostNetwork": True, "runtimeClassName": "kata", "nodeName": "node-1"}
    pod["spec"]["containers"][0]["args"].append("--domain")
    pod["spec"]["initContainers"] = [{"name": "istio-init", "image": "x"}]
    pod["status"]["conditions"].insert(0, {"type": "Initialized", "status": "False", "lastTransitionTime": "never"})
    pod["status"]["conditions"][1]["lastTransitionTime"] = "2026-03-01T12:00:00Z"
    kept = reduced_pod(pod)
    assert kept["metadata"] == {
        "namespace": "shop",
        "name": "web-0",
        "uid": "uid-1",
        "labels": {"app": "web"},
        "annotations": {"a": "b"},
        **times,
    }
    assert kept["status"] == {"phase": "Running", "ready": True, "readySince": "2026-03-01T12:00:00Z"}
    spec = kept["spec"]
    assert (spec["hostNetwork"], spec["runtimeClassName"], spec["securityContext"]) == (
        True,
        "kata",
        {"runAsUser": 3000},
    )
    assert spec["initContainers"] == [{"name": "istio-init"}]
    assert spec["containers"][0]["args"] == ["proxy", "sidecar"]
    assert spec["containers"][1] == {"name": "app"}
    assert "nodeName" not in spec
    assert reduced_pod(kept) == kept
    assert reduced_pod({})["status"] == {"phase": "", "ready": False, "readySince": ""}


def test_a_bookmark_keeps_the_table_fresh() -> None:
    clock = [100.0]
    pods = filled(a_pod(), clock=clock)
    for change in (pods.note_contact, lambda: pods.store(a_pod("uid-2")), lambda: pods.remove(a_pod("uid-9"))):
        clock[0] += FRESH_SECONDS - 1
        change()
        clock[0] += FRESH_SECONDS - 1
        assert pods.is_fresh
        pods.note_contact()
    clock[0] += FRESH_SECONDS
    assert not pods.is_fresh
    assert pods.get("shop", "web-0") == reduced_pod(a_pod("uid-2"))
    assert pods.get("shop", "web-1") is None


def test_a_table_is_waited_for_until_it_is_filled_or_the_end() -> None:
    stop, pods = threading.Event(), Pods()
    threading.Timer(0.05, lambda: pods.replace_all([])).start()
    filled_in_time = pods.wait_until_filled(stop)
    stop.set()
    assert (filled_in_time, Pods().wait_until_filled(stop)) == (True, False)


def test_a_pod_is_found_by_its_uid_only() -> None:
    pods = filled(a_pod())
    assert pods.find(WEB) == reduced_pod(a_pod())
    assert pods.find(WEB.replace(uid="uid-2"), wait=0) is None
    assert pods.find(WEB.replace(uid="")) is None


def test_a_static_pod_is_found_by_the_uid_that_kubelet_gave_it() -> None:
    mirror = a_pod("of-the-api", annotations={"kubernetes.io/config.mirror": "of-kubelet"})
    assert filled(mirror).find(WEB.replace(uid="of-kubelet")) == reduced_pod(mirror)


def test_a_pod_that_comes_while_it_is_waited_for_is_found() -> None:
    pods = filled()
    threading.Timer(0.05, lambda: pods.store(a_pod())).start()
    assert pods.find(WEB, wait=5) == reduced_pod(a_pod())


def test_news_of_long_ago_are_not_certain() -> None:
    clock = [100.0]
    pods = filled(a_pod(), clock=clock)
    clock[0] += FRESH_SECONDS + 1
    assert pods.find(WEB) is None
    pods.note_contact()
    assert pods.find(WEB) is not None
    pods.note_outage()
    assert pods.find(WEB) is None


def test_a_table_that_was_never_filled_says_nothing() -> None:
    assert Pods().find(WEB) is None


def test_the_end_of_an_older_pod_of_the_name_is_no_end_of_the_new_one() -> None:
    pods = filled(a_pod("uid-1"))
    pods.store(a_pod("uid-2"))
    pods.remove(a_pod("uid-1"))
    assert pods.find(WEB.replace(uid="uid-2")) is not None
    pods.remove(a_pod("uid-2"))
    assert pods.all() == []


def test_a_change_that_decides_nothing_is_left_out() -> None:
    table = filled(a_pod())
    version, _ = table.changes_since(-1)
    known = table.get("shop", "web-0")
    table.store(a_pod() | {"status": a_pod()["status"] | {"podIP": "10.0.0.1"}})
    assert (table.changes_since(version), table.get("shop", "web-0") is known) == ((version, set()), True)
    table.store(a_pod(labels={"app": "web"}))
    assert table.changes_since(version) == (version + 1, {("shop", "web-0")})


def test_a_pod_that_changes_again_is_among_the_latest_changes() -> None:
    table = filled()
    for uid, name in enumerate("aba"):
        table.store(a_pod(str(uid), name=name))
    version, _ = table.changes_since(-1)
    assert [table.changes_since(version - back)[1] for back in range(3)] == [
        set(), {("shop", "a")}, {("shop", "a"), ("shop", "b")},
    ]  # fmt: skip


def test_of_pods_that_have_ended_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cni.agent.pods.MAX_GONE", 2)
    table = filled(a_pod(name="stays"))
    for name in "abc":
        table.store(a_pod(name=name))
        table.remove(a_pod(name=name))
    _, changes = table.changes_since(-1)
    assert changes == {("shop", name) for name in ("stays", "b", "c")}
