"""The output about a healthy pod and broken ones on a terminal of 80 and of 120 columns.

The texts are in ``terminal/``. After a change that is meant, run this with CAPTURE_WRITE_TERMINAL=1 and read the
difference. What differs between two runs has the names of ``docs_examples.NORMALISERS``.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cni.runtimes import CONF_DIR
from pytest_netns import Namespace, NamespaceFactory
from support.output.docs_examples import NORMALISERS
from support.processes.our_programs import run_on_terminal, run_program
from support.runtimes.fake_plugin import ANSWER

TEXTS = Path(__file__).with_name("terminal")
NAMED = Path("/run/netns/pod")
WIDTHS = (80, 120)
NORMALISED = [pattern for name, pattern in NORMALISERS.items() if name != "how lines are broken"]
BY_RUN = [
    (r"^\d\d:\d\d:\d\d", "TIME"),
    (r"\b\d{10}-\d+: not the host's own", "NAMESPACE: not the host's own"),
    (r"^\d+ more findings", "N more findings"),
]
PROGRESS = r"\r[^\r\n]*\033\[K"
"""What is shown, and taken away again, on a machine that is so busy that a command takes longer than a second."""
COLOURS = {"\033[31m": "<red>", "\033[32m": "<green>", "\033[33m": "<yellow>", "\033[1m": "<bold>", "\033[0m": "</>"}

LINKS = (
    "link add eth0 address 02:00:00:00:00:05 type veth peer name peer0 address 02:00:00:00:00:06",
    "addr add 10.0.0.5/24 dev eth0",
    "addr add fd00:9::5/64 dev eth0 nodad",
    "link set peer0 up",
    "link set eth0 up",
    "route add default via 10.0.0.1",
    "route add default via fd00:9::1",
)
OUT = "tcp 203.0.113.9:80"
HEALTHY = (
    "verify", "dump --family ipv4 --table nat", f"trace {OUT}", f"trace {OUT} --uid 1337", "explain", "why",
    f"why {OUT}", "doctor", "watch --once --interval 0.1", "diff '-x 10.96.0.0/12' '-x 10.96.0.0/12 -o 5432'",
    "dumpp", "dump --famly ipv4", "apply --backend iptables",
)  # fmt: skip

IN_A_POD = ("apply", "verify", "dump", "trace", "explain", "why", "doctor", "watch")


@pytest.fixture(scope="module", autouse=True)
def _machine_is_no_node() -> Iterator[None]:
    """Hide a plugin that the machine itself may have, of which doctor would speak."""
    if not os.path.isdir(CONF_DIR):
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "none", os.path.dirname(CONF_DIR)], check=True)
    yield
    subprocess.run(["umount", os.path.dirname(CONF_DIR)], check=True)


def shell(pod: Namespace, words: str) -> None:
    pod.run(shlex.split(words))


def second_set(pod: Namespace) -> None:
    rendered = run_program(pod, "capture", "render", "--backend", "nftables", "-p", "16001")
    pod.run(["nft", "-f", "-"], stdin=rendered.stdout)


def nothing(_pod: Namespace) -> None:
    """The pod is as in its options."""


NO_RULE = "iptables-nft -t nat -D ISTIO-OUTPUT -m owner --uid-owner 1337 -j RETURN"
DNAT = "iptables-nft -t nat -I OUTPUT -d 203.0.113.9 -p tcp -j DNAT --to-destination 10.0.0.99:81"
BROKEN: dict[str, tuple[str, int | None, Callable[[Namespace], None], tuple[str, ...]]] = {
    "the proxy runs as another user": ("", 2000, nothing, ("why",)),
    "a second set": ("", 1337, second_set, ("why", f"why {OUT}")),
    "a rule is missing": ("", 1337, lambda pod: shell(pod, NO_RULE), ("why", "verify")),
    "filtered": ("", 1337, lambda pod: shell(pod, "iptables-nft -A INPUT -p tcp --dport 15001 -j DROP"), ("why",)),
    "a policy drops": ("", 1337, lambda pod: shell(pod, "iptables-nft -P OUTPUT DROP"), ("why", f"trace {OUT}")),
    "no process listens": ("", None, nothing, ("why", "doctor")),
    "lo is down": ("", 1337, lambda pod: shell(pod, "ip link set lo down"), ("why",)),
    "the port is left out": ("-o 80", 1337, nothing, ("why", f"why {OUT}")),
    "IPv6 only": ("--ip-families ipv4", 1337, lambda pod: shell(pod, "ip addr del 10.0.0.5/24 dev eth0"), ("why",)),
    "DNAT comes first": ("", 1337, lambda pod: shell(pod, DNAT), ("why", "verify", f"trace {OUT}")),
    "a policy route": ("-m TPROXY", 1337, lambda pod: shell(pod, "ip rule del fwmark 1337"), ("why",)),
    "nothing is applied": ("none", 1337, nothing, ("why", "verify", "dump")),
}
"""Each with the options of the capture, the proxy's user, what breaks it, and the commands of a person who looks."""


NODE = Path("/run/netns/node")
"""The files of a node, in a place that is the test process's own and has one name in every run."""
DIRECTORIES = f"--bin-dir {NODE} --conf-dir {NODE}/net.d --runtime containerd"
PLUGIN = f"""#!/bin/sh
[ "$CNI_COMMAND" = STATUS ] || echo '{ANSWER}'
"""
LIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
ENTRY = {"type": "capture-cni", "kubeconfig": f"{NODE}/kubeconfig", "log_file": f"{NODE}/log"}
KUBECONFIG = {
    "current-context": "n",
    "contexts": [{"name": "n", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority": "ca.crt"}}],
    "users": [{"name": "u", "user": {"token": "x"}}],
}
ADDED = {"time": "2026-03-01T12:00:00.123Z", "level": "info", "command": "ADD", "namespace": "shop", "pod": "web-0"}
WORKLOAD = """
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: "5432"}
spec:
  containers:
  - {name: web, image: web, ports: [{containerPort: 8080}], securityContext: {runAsUser: 1337, privileged: true}}
"""


@pytest.fixture
def node() -> Iterator[Path]:
    """A node with the plugin, its entry, a kubeconfig whose authority is missing, and a log; and a manifest."""
    (NODE / "net.d").mkdir(parents=True)
    (NODE / "capture-cni").write_text(PLUGIN)
    (NODE / "capture-cni").chmod(0o755)
    (NODE / "bridge").touch()
    (NODE / "net.d" / "10-pods.conflist").write_text(json.dumps({**LIST, "plugins": [*LIST["plugins"], ENTRY]}))
    (NODE / "net.d" / "99-other.conf").write_text('{"type": "loopback"}')
    (NODE / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    os.utime(NODE / "kubeconfig", (0, time.time() - 5 * 3600))
    (NODE / "log").write_text(json.dumps({**ADDED, "message": "left alone", "reason": "namespace shop is excluded"}))
    (NODE / "pod.yaml").write_text(WORKLOAD)
    yield NODE
    shutil.rmtree(NODE)


@pytest.fixture
def pod(netns: NamespaceFactory) -> Iterator[Namespace]:
    """A pod whose addresses do not depend on the run, and whose namespace has a name."""
    pod = netns("pod")
    pod.ip(*LINKS)
    NAMED.parent.mkdir(exist_ok=True)
    NAMED.touch()
    subprocess.run(["mount", "--bind", pod.path, NAMED], check=True)
    yield pod
    subprocess.run(["umount", NAMED], check=True)
    NAMED.unlink()


def prepared(pod: Namespace, options: str, uid: int | None) -> None:
    """Let a proxy listen, and capture the pod."""
    if uid is not None:
        ports = [("::", port) for port in (15001, 15006)] + [("0.0.0.0", port) for port in (15001, 15006)]
        pod.listener(*ports, label="proxy", uid=uid)
    if options != "none":
        run_program(pod, "capture", "apply", "--backend", "iptables", *shlex.split(options))


def seen(words: str, width: int) -> str:
    """Return a command and what it prints on a terminal, colours as tags; no line may be wider."""
    command, *rest = shlex.split(words)
    where = (
        ["--netns", "pod"]
        if command in {"apply", "verify", "dump", "trace", "explain", "why", "doctor", "watch"}
        else []
    )
    text, code = run_on_terminal("capture", command, *where, *rest, columns=width)
    text = re.sub(PROGRESS, "", text)
    plain = re.sub(r"\033\[\d*m", "", text)
    assert [line for line in plain.splitlines() if len(line) > width] == []
    for sequence, tag in COLOURS.items():
        text = text.replace(sequence, tag)
    for pattern, name in (*NORMALISED, *BY_RUN):
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return f"$ capture {words}    # exit code {code}\n{text}\n"


def expect_as_recorded(name: str, width: int, text: str) -> None:
    path = TEXTS / f"{name.replace(' ', '-')}-{width}.txt"
    if os.environ.get("CAPTURE_WRITE_TERMINAL"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_healthy_pod_reads_as_recorded(pod: Namespace, width: int) -> None:
    prepared(pod, "", 1337)

    expect_as_recorded("healthy", width, "\n".join(seen(words, width) for words in HEALTHY))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_node_and_a_manifest(node: Path, width: int) -> None:
    texts = [seen(words, width) for words in (f"cni status {DIRECTORIES}", f"inject -f {node}/pod.yaml --check")]
    (node / "capture-cni").unlink()
    (node / "net.d" / "10-pods.conflist").write_text(json.dumps(LIST))

    expect_as_recorded("node", width, "\n".join([*texts, seen(f"cni status {DIRECTORIES}", width)]))


@pytest.mark.parametrize("name", BROKEN)
def test_one_command_names_what_is_broken(pod: Namespace, name: str) -> None:
    options, uid, break_it, commands = BROKEN[name]
    prepared(pod, options, uid)
    break_it(pod)

    expect_as_recorded(name, WIDTHS[0], "\n".join(seen(words, WIDTHS[0]) for words in commands))


def test_every_rule_of_a_pod_fits(pod: Namespace) -> None:
    """Long lists, comments and addresses; of both families and both backends."""
    prepared(pod, "--redirect-dns -x 10.0.0.0/8,2001:db8:aaaa:bbbb:cccc:dddd:eeee:0/112 --rule-comments", 1337)
    comment = "x" * 100
    shell(pod, f"ip6tables-nft -t nat -I OUTPUT -d 2001:db8:1:2:3:4:5:6 -m comment --comment {comment} -j ACCEPT")
    ports = ",".join(str(port) for port in range(10000, 10015))
    shell(pod, f"iptables-nft -t nat -I OUTPUT -p tcp -m multiport --dports {ports} -j RETURN")
    for words in (
        "dump",
        "verify",
        "explain",
        "trace tcp [2001:db8:1:2:3:4:5:6]:80",
        "why",
        "watch --once --interval 0.1",
    ):
        seen(words, 80)
