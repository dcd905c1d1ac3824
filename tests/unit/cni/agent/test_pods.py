from __future__ import annotations

import threading
from typing import Any

from cni.agent.pods import YOUNG, Pods, reduced
from cni.pod import Identity
from cni.pod_object import from_object

WEB = Identity("shop", "web-0", "uid-1")


def a_pod(uid: str = "uid-1", **more: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "istio-proxy", "args": ["proxy", "sidecar"], "image": "x" * 1000}
    container |= {"env": [{"name": "ISTIO_META_DNS_CAPTURE", "value": "true"}], "securityContext": {"runAsUser": 2000}}
    return {
        "metadata": {"namespace": "shop", "name": "web-0", "uid": uid, "managedFields": ["x" * 5000]} | more,
        "spec": {"containers": [container, {"name": "app"}], "securityContext": {"runAsUser": 2000}},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }


def filled(*pods: dict[str, Any], clock: list[float] | None = None) -> Pods:
    table = Pods(lambda: clock[0]) if clock else Pods()
    table.replace_all(pods)
    return table


def test_what_is_kept_says_all_that_decides_on_the_capture() -> None:
    assert from_object(WEB, reduced(a_pod())) == from_object(WEB, a_pod())
    assert len(str(reduced(a_pod()))) < 1000


def test_a_pod_is_found_by_its_uid_only() -> None:
    pods = filled(a_pod())
    assert pods.find(WEB) == reduced(a_pod())
    assert pods.find(WEB.replace(uid="uid-2"), wait=0) is None
    assert pods.find(WEB.replace(uid="")) is None


def test_a_static_pod_is_found_by_the_uid_that_kubelet_gave_it() -> None:
    mirror = a_pod("of-the-api", annotations={"kubernetes.io/config.mirror": "of-kubelet"})
    assert filled(mirror).find(WEB.replace(uid="of-kubelet")) == reduced(mirror)


def test_a_pod_that_comes_while_it_is_waited_for_is_found() -> None:
    pods = filled()
    threading.Timer(0.05, lambda: pods.put(a_pod())).start()
    assert pods.find(WEB, wait=5) == reduced(a_pod())


def test_what_was_heard_long_ago_is_not_certain() -> None:
    clock = [100.0]
    pods = filled(a_pod(), clock=clock)
    clock[0] += YOUNG + 1
    assert pods.find(WEB) is None
    pods.heard()
    assert pods.find(WEB) is not None
    pods.lost_touch()
    assert pods.find(WEB) is None


def test_a_table_that_was_never_filled_says_nothing() -> None:
    assert Pods().find(WEB) is None


def test_the_end_of_an_older_pod_of_the_name_is_no_end_of_the_new_one() -> None:
    pods = filled(a_pod("uid-1"))
    pods.put(a_pod("uid-2"))
    pods.remove(a_pod("uid-1"))
    assert pods.find(WEB.replace(uid="uid-2")) is not None
    pods.remove(a_pod("uid-2"))
    assert pods.all() == []
