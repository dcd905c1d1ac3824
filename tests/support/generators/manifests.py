"""Manifests in every layout: the same data in block and flow style, with comments, odd strings, all kinds of ends.

A manifest is drawn by its seed: shrinking layouts would cost more than it shows.
"""

import json
import random
from typing import Any

from hypothesis import strategies as st

KINDS = (
    "Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob",
    "DeploymentConfig", "Service", "ConfigMap", "Rollout",
)  # fmt: skip

ODD_TEXTS = (
    "plain", "", "two words", "# no comment", "a: b", "- dash", "true", "8080", "null", "~", "it's", 'say "hi"',
    "*star", "&anchor", "tab\there", "{brace", "[bracket", "ends with colon:", "ümlaut ☃", "line one\nline two\n",
    "x\n\n\ny", "---", "...", "%percent", "@at", "back\\slash", " leading", "trailing ",
)  # fmt: skip

ANNOTATIONS = {
    "sidecar.istio.io/interceptionMode": ("REDIRECT", "TPROXY"),
    "traffic.sidecar.istio.io/includeOutboundIPRanges": ("*", "", "10.0.0.0/8", "10.0.0.0/8,fd00::/8"),
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": ("", "192.168.0.0/16"),
    "traffic.sidecar.istio.io/includeInboundPorts": ("*", "", "80", "80, 8080"),
    "traffic.sidecar.istio.io/excludeInboundPorts": ("", "22", "22, 9000", "15020", "15020,22"),
    "traffic.sidecar.istio.io/includeOutboundPorts": ("", "443"),
    "traffic.sidecar.istio.io/excludeOutboundPorts": ("", "15020", "3306,5432"),
    "traffic.sidecar.istio.io/excludeInterfaces": ("eth1", "eth1,net0"),
    "traffic.sidecar.istio.io/kubevirtInterfaces": ("tap0",),
    "istio.io/reroute-virtual-interfaces": ("tap1",),
    "status.sidecar.istio.io/port": ("15020", "15099"),
    "sidecar.istio.io/nativeSidecar": ("true", "false"),
}


def manifest(seed: int) -> str:
    """Return the text of a manifest of some documents."""
    draw = random.Random(seed)  # noqa: S311  # a test case, and the same every time
    if draw.randrange(8) == 0:
        return json.dumps(an_object(draw), indent="\t")  # kubectl takes it for JSON, since it is nothing else
    layout = Layout(draw)
    text = ""
    for number in range(draw.randint(1, 3)):
        value = an_object(draw)
        if draw.randrange(6) == 0:
            value = {"apiVersion": "v1", "kind": "List", "items": [value, an_object(draw)]}
        separators = ("---\n", "--- # next\n", "...\n---\n", "---\n# only a comment\n---\n")
        text += draw.choice(separators) if number else draw.choice(("", "---\n", "# head\n"))
        text += layout.document(value)
    text += draw.choice(("", "# the end\n", "---\n", "...\n"))
    if draw.random() < 0.5:
        text = text.rstrip("\n")
    if draw.randrange(4) == 0:
        text = text.replace("\n", "\r\n")
    return ("\ufeff" if draw.randrange(6) == 0 else "") + text


manifests = st.integers(0, 2**32).map(manifest)


def own_containers(draw: random.Random, names: tuple[str, ...]) -> list[dict[str, Any]]:
    made = []
    for name in draw.sample(names, draw.randint(0, len(names))):
        container: dict[str, Any] = {"name": name, "image": draw.choice(("app:1", "auto"))}
        if draw.random() < 0.5:
            container["args"] = draw.choices(ODD_TEXTS, k=draw.randint(0, 3))
        if draw.random() < 0.5:
            container["env"] = [{"name": "TEXT", "value": draw.choice(ODD_TEXTS)}]
        if draw.random() < 0.5:
            container["ports"] = [{"containerPort": 80}]
        made.append(container)
    return made


def a_pod(draw: random.Random) -> dict[str, Any]:
    """Return metadata and spec of a pod."""
    spec: dict[str, Any] = {"containers": own_containers(draw, ("app", "side", "istio-proxy"))}
    spec["containers"] = spec["containers"] or [{"name": "only", "image": "app:1"}]
    if draw.random() < 0.5:
        spec["initContainers"] = draw.choice(
            (None, own_containers(draw, draw.choice((("first",), ("first", "second"), ("first", "istio-init")))))
        )
    if draw.random() < 0.5:
        spec["volumes"] = draw.choice((None, [], [{"name": "data", "emptyDir": {}}]))
    if draw.random() < 0.5:
        spec["restartPolicy"] = "Never"
    pod: dict[str, Any] = {"spec": spec}
    if draw.random() < 0.5:
        pod["metadata"] = draw.choice((None, {}, {"labels": {"app": "a"}}, {"annotations": None}))
    if draw.random() < 0.5:
        names = draw.sample(sorted(ANNOTATIONS), draw.randint(0, 4))
        annotations = {name: draw.choice(ANNOTATIONS[name]) for name in names}
        annotations |= {"note": draw.choice(ODD_TEXTS)}
        pod["metadata"] = {"labels": {"app": "a"}, "annotations": annotations}
    return pod


def an_object(draw: random.Random) -> dict[str, Any]:
    """Return an object of Kubernetes, a workload or another one."""
    kind = draw.choice(KINDS)
    head: dict[str, Any] = {"apiVersion": "v1", "kind": kind}
    metadata = {"name": "thing", **draw.choice(({}, {"namespace": "shop"}, {"namespace": "kube-system"}))}
    if kind in ("Service", "ConfigMap"):
        texts = draw.choices(ODD_TEXTS, k=3)
        return {**head, "metadata": metadata, "data": {"text": texts[0], "list": texts[1:]}}
    pod = a_pod(draw)
    if kind == "Pod":
        inner = pod.get("metadata") or {}
        return {**head, "metadata": {**inner, **metadata}, "spec": pod["spec"]}
    if kind == "CronJob":
        return {**head, "metadata": metadata, "spec": {"jobTemplate": {"spec": {"template": pod}}}}
    return {**head, "metadata": metadata, "spec": {"replicas": 2, "template": pod}}


# --- layouts -------------------------------------------------------------------------------------


class Layout:
    """Writes data as YAML, choosing a style at each turn."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._step = draw.choice((2, 4))
        self._indents_dashes = draw.choice((True, False))

    def document(self, value: Any) -> str:
        if self._draw.randint(0, 9) == 0:
            return json.dumps(value, indent=self._draw.choice((None, 2))) + "\n"
        return self._block(value, 0)

    def _comment(self, indentation: int) -> str:
        choice = self._draw.randint(0, 11)
        if choice == 0:
            return f"{' ' * indentation}# a comment: - with {{ signs\n"
        return "\n" if choice == 1 else ""

    def _tail(self) -> str:
        return self._draw.choice(("", "", "", "  # why", " "))

    def _block(self, value: Any, indentation: int) -> str:
        lines = ""
        prefix = " " * indentation
        for key, inner in value.items():
            lines += self._comment(indentation) + f"{prefix}{_key(key)}:" + self._value(inner, indentation)
        return lines

    def _value(self, value: Any, indentation: int) -> str:
        """Return what follows a colon, to the end of the last line."""
        if value and isinstance(value, dict | list) and self._draw.randint(0, 5):
            if isinstance(value, dict):
                return f"{self._tail()}\n" + self._block(value, indentation + self._step)
            return f"{self._tail()}\n" + self._items(value, indentation + (self._step if self._indents_dashes else 0))
        if isinstance(value, str) and value.strip() and value[0] != " " and self._draw.randint(0, 2) == 0:
            return self._literal(value, indentation + self._step)
        return f" {self._flow(value)}{self._tail()}\n"

    def _literal(self, value: str, indentation: int) -> str:
        stripped = value.rstrip("\n")
        chomping = {0: "-", 1: ""}.get(len(value) - len(stripped), "+")
        if "\t" in value or stripped != stripped.rstrip():
            return f" {json.dumps(value)}\n"
        lines = "".join(f"{' ' * indentation}{line}\n" if line else "\n" for line in value.splitlines())
        return f" |{chomping}\n{lines}"

    def _items(self, value: list[Any], indentation: int) -> str:
        lines = ""
        for item in value:
            lines += self._comment(indentation)
            if isinstance(item, dict) and item and self._draw.randint(0, 4):
                inner = self._block(item, indentation + 2)
                if inner.lstrip(" ").startswith(("#", "\n")):
                    lines += f"{' ' * indentation}-\n{inner}"
                else:
                    lines += f"{' ' * indentation}- {inner[indentation + 2 :]}"
            else:
                lines += f"{' ' * indentation}- {self._flow(item)}{self._tail()}\n"
        return lines

    def _flow(self, value: Any) -> str:
        blank = self._draw.choice(("", " "))
        if isinstance(value, dict):
            inner = ", ".join(f"{json.dumps(key)}: {self._flow(one)}" for key, one in value.items())
            return f"{{{blank}{inner}{blank}}}"
        if isinstance(value, list):
            return f"[{blank}{', '.join(map(self._flow, value))}{blank}]"
        if value is None:
            return self._draw.choice(("null", "~"))
        if isinstance(value, str):
            return self._draw.choice((json.dumps(value), _single(value)))
        return json.dumps(value)


def _key(key: str) -> str:
    return key


def _single(value: str) -> str:
    """Return a text in single quotes, if it can be written so in one line."""
    return json.dumps(value) if "\n" in value or "\t" in value else "'" + value.replace("'", "''") + "'"
