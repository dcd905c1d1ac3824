"""What ``capture cni status`` prints about a node, as text and as JSON, and its exit code."""

import base64
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cni.commands import cni_group
from support.cluster.fake_kubernetes import authority
from support.runtimes.fake_plugin import ANSWER

MAIN = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
PLUGIN = f"""#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{ANSWER}';;
STATUS) if [ -e "$(dirname "$0")/fails" ]; then cat "$(dirname "$0")/fails"; exit 1; fi;;
esac
"""
LOG = [
    {"time": "T1", "level": "info", "message": "captured", "command": "ADD", "namespace": "shop", "pod": "web-0"},
    {"time": "T2", "level": "debug", "message": "step", "command": "ADD", "namespace": "shop", "pod": "web-0"},
    {"time": "T3", "level": "info", "message": "forgotten", "command": "DEL", "namespace": "shop", "pod": "web-0"},
    {
        "time": "T4",
        "level": "info",
        "message": "left alone",
        "command": "ADD",
        "namespace": "a",
        "pod": "b",
        "reason": "r",
    },
]


def token(ends_in: float) -> str:
    now = time.time()
    claims = base64.urlsafe_b64encode(json.dumps({"iat": now - 3600, "exp": now + ends_in}).encode()).decode()
    return f"e30.{claims.rstrip('=')}.c2ln"


class Node:
    def __init__(self, root: Path) -> None:
        self.root, self.bin_dir, self.conf_dir = root, root / "bin", root / "net.d"
        self.bin_dir.mkdir()
        self.conf_dir.mkdir()
        self.plugin = root / "capture-cni"
        self.plugin.write_text(PLUGIN)
        self.plugin.chmod(0o755)
        (self.conf_dir / "10-main.conflist").write_text(json.dumps(MAIN))
        (self.bin_dir / "bridge").touch()
        (root / "token").write_text(token(1800))
        (root / "ca.crt").write_bytes(authority("kubernetes").pem)
        cluster = {"server": "https://10.0.0.1:6443", "certificate-authority": "ca.crt"}
        (root / "kubeconfig").write_text(
            json.dumps(
                {
                    "current-context": "n",
                    "contexts": [{"name": "n", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"tokenFile": "token"}}],
                }
            )
        )
        (root / "cni.log").write_text("".join(f"{json.dumps(line)}\n" for line in LOG) + "not JSON\n")

    def run(self, command: str, *arguments: str) -> Result:
        directories = ["--bin-dir", str(self.bin_dir), "--conf-dir", str(self.conf_dir), "--runtime", "containerd"]
        return CliRunner().invoke(cni_group, [command, *directories, *arguments], standalone_mode=False)

    def install(self, *arguments: str) -> None:
        about_pods = ["--kubeconfig", str(self.root / "kubeconfig"), "--log-file", str(self.root / "cni.log")]
        done = self.run("install", "--plugin", str(self.plugin), *about_pods, *arguments)
        assert done.exit_code == 0, done.output

    def status(self) -> tuple[int, dict[str, Any]]:
        done = self.run("status", "--format", "json")
        plain: dict[str, Any] = json.loads(done.output)
        assert plain["schema"] == "capture/v1"
        assert (done.return_value == 0) == plain["works"]
        return done.return_value, plain


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_node_in_order_has_no_fault(node: Node) -> None:
    node.install()
    code, status = node.status()
    assert code == 0
    assert {finding["state"] for finding in status["findings"]} == {"ok"}
    assert status["taken"] == str(node.conf_dir / "10-main.conflist")
    assert status["files"] == [{"path": status["taken"], "verdict": "taken: it sorts first", "has_entry": True}]
    assert status["entry"]["type"] == "capture-cni"
    assert [decision["time"] for decision in status["decisions"]] == ["T1", "T4"]
    text = node.run("status").output
    for words in (
        "runtime: containerd",
        "10-main.conflist: taken: it sorts first [entry]",
        "number 2 of 2",
        "answers for CNI 0.3.0 to 1.1.0",
        "interpreter: /bin/sh",
        "a pod could be captured now",
        "for https://10.0.0.1:6443",
        "ends in 30 min",
        "T4 info a b left alone r",
    ):
        assert words in text, text


def replaced(node: Node) -> None:
    (node.conf_dir / "10-main.conflist").write_text(json.dumps(MAIN))


def overtaken(node: Node) -> None:
    (node.conf_dir / "05-other.conflist").write_text(json.dumps(MAIN))


def broken(node: Node) -> None:
    (node.conf_dir / "05-other.conflist").write_text('{ "\n')


def of_a_newer_specification(node: Node) -> None:
    path = node.conf_dir / "10-main.conflist"
    path.write_text(path.read_text().replace("1.0.0", "9.0.0"))


def without_a_kubeconfig(node: Node) -> None:
    path = node.conf_dir / "10-main.conflist"
    path.write_text(path.read_text().replace('"kubeconfig"', '"pod_sources": ["kubernetes"], "was"'))


def without_interpreter(node: Node) -> None:
    (node.bin_dir / "capture-cni").write_text("#!/no/such/python\n")


def without_privilege(node: Node) -> None:
    (node.bin_dir / "fails").write_text('{"code": 50, "msg": "no NET_ADMIN"}')


def without_api_server(node: Node) -> None:
    """As the plugin answers where the API server is its only source of facts about pods."""
    (node.bin_dir / "fails").write_text('{"code": 51, "msg": "no answer in time"}')


def with_an_ended_token_in_the_kubeconfig(node: Node) -> None:
    path = node.root / "kubeconfig"
    path.write_text(path.read_text().replace('"tokenFile": "token"', f'"token": "{token(-600)}"'))


def with_an_ended_token(node: Node) -> None:
    (node.root / "token").write_text(token(-600))


@pytest.mark.parametrize(
    ("spoil", "name", "message"),
    [
        (replaced, "entry", "it has no entry of capture-cni: pods start uncaptured"),
        (overtaken, "entry", "the entry is in"),
        (broken, "list", "05-other.conflist: expected JSON: line 1 column 4: Invalid control character; the node has"),
        (lambda node: (node.bin_dir / "bridge").unlink(), "plugins", "no pod starts: the plugin bridge of the list is"),
        (of_a_newer_specification, "version", "the list's cniVersion is '9.0.0', which it does not know"),
        (without_a_kubeconfig, "kubeconfig", "pod_sources has kubernetes, and there is no kubeconfig"),
        (lambda node: (node.bin_dir / "capture-cni").unlink(), "file", "capture-cni is missing"),
        (without_interpreter, "file", "its interpreter /no/such/python is missing here"),
        (without_privilege, "STATUS", "no NET_ADMIN (code 50)"),
        (without_api_server, "STATUS", "no answer in time (code 51)"),
        (with_an_ended_token, "token", "has ended 10 min ago"),
        (with_an_ended_token_in_the_kubeconfig, "token", "has ended 10 min ago"),
        (lambda node: (node.root / "token").unlink(), "kubeconfig", "token, which it names, cannot be read"),
        (lambda node: (node.root / "kubeconfig").unlink(), "kubeconfig", "No such file"),
        (lambda node: (node.root / "ca.crt").unlink(), "kubeconfig", "ca.crt, which it names, cannot be read"),
        (lambda node: (node.root / "ca.crt").write_text("no PEM"), "kubeconfig", "its certificates cannot be used"),
    ],
)
def test_each_fault_is_named(node: Node, spoil: Callable[[Node], object], name: str, message: str) -> None:
    node.install()
    spoil(node)
    code, status = node.status()
    assert code == 4
    found = {finding["name"]: finding for finding in status["findings"] if finding["state"] == "error"}
    assert message in found[name]["says"], found
    assert all(each["remedy"] for each in found.values()), found
    remedies = [each["remedy"] for each in found.values() if "cni install" in each["remedy"]]
    assert all(f" --conf-dir {node.conf_dir}" in remedy for remedy in remedies), remedies
    assert all(each["remedy"][:1] != "`" or " " in each["remedy"].rpartition("`")[2] for each in found.values()), found
    text = node.run("status").output
    assert [message in line for line in text.splitlines() if f" {name}: " in line].count(True) == 1
    assert text.startswith("broken: ")
    assert text.count("broken: ") == 1


def test_a_misspelt_key_is_noted(node: Node) -> None:
    node.install()
    path = node.conf_dir / "10-main.conflist"
    path.write_text(path.read_text().replace('"log_file"', '"exclude_namespace": ["shop"], "log_file"'))
    code, status = node.status()
    assert code == 0
    (note,) = (each for each in status["findings"] if each["state"] != "ok")
    assert (note["state"], note["name"]) == ("note", "keys")
    assert note["says"] == "the plugin does not know, and ignores: exclude_namespace"
    assert note["remedy"] in node.run("status").output


def test_a_list_of_our_own_that_goes_stale(node: Node) -> None:
    node.install("--own-config")
    assert node.status()[0] == 0
    changed = MAIN | {"plugins": [{"type": "bridge", "mtu": 1400}]}
    (node.conf_dir / "10-main.conflist").write_text(json.dumps(changed))
    warning = next(each for each in node.status()[1]["findings"] if each["state"] == "warning")
    assert "has changed since it was made from that" in warning["says"]
    directories = f"--bin-dir {node.bin_dir} --conf-dir {node.conf_dir}"
    assert warning["remedy"] == f"`capture cni install {directories} --own-config` makes it anew."
    (node.conf_dir / "10-main.conflist").unlink()
    assert node.status()[0] == 4


def test_a_node_without_the_plugin_has_faults(node: Node) -> None:
    code, status = node.status()
    assert code == 4
    assert (status["entry"], status["decisions"]) == (None, [])
    os.unlink(node.conf_dir / "10-main.conflist")
    assert node.status()[1]["taken"] is None
    done = node.run("status", "--conf-dir", "/does/not/exist")
    assert "/does/not/exist: No such file or directory" in str(done.exception)
