"""`capture cni install|uninstall|status`: what they print, change and refuse."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from capture.errors import CaptureError
from cni import conf, kubernetes
from cni.commands import cni_group
from cni.conf import AgentPod
from cni.runtimes import Runtime
from support.cluster.fake_kubernetes import authority
from support.runtimes.fake_plugin import write_plugin

NEWEST = {"profile": "1.30", "log_file": "/var/log/istio-capture/cni.log"}
MAIN = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}


class Node:
    def __init__(self, root: Path) -> None:
        self.bin_dir, self.conf_dir, self.plugin = root / "bin", root / "net.d", root / "capture-cni"
        self.bin_dir.mkdir()
        self.conf_dir.mkdir()
        write_plugin(self.plugin)
        (self.conf_dir / "10-main.conflist").write_text(json.dumps(MAIN))

    def run(self, command: str, *arguments: str) -> Result:
        directories = ["--bin-dir", str(self.bin_dir), "--conf-dir", str(self.conf_dir)]
        plugin = {"install": ["--plugin", str(self.plugin)], "uninstall": ["--grace", "0"]}.get(command, [])
        return CliRunner().invoke(cni_group, [command, *directories, *plugin, *arguments])

    def entry(self, name: str = "10-main.conflist") -> dict[str, object]:
        entry = json.loads((self.conf_dir / name).read_text())["plugins"][-1]
        assert entry.pop("type") == "capture-cni"
        assert entry.pop("capabilities") == {"io.kubernetes.cri.pod-annotations": True}
        return dict(entry)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_install_and_uninstall_say_what_they_change(node: Node) -> None:
    path, plugin = node.conf_dir / "10-main.conflist", node.bin_dir / "capture-cni"
    done = node.run("install")
    assert done.exit_code == 0, done.output
    assert done.output == f"{plugin}: copied from {node.plugin}\n{path}: entry added\n"
    assert node.entry() == NEWEST
    assert node.run("install").output == "unchanged: the plugin and its entry are in place\n"
    assert node.run("uninstall").output == f"{path}: entry removed\n{plugin}: removed\n"
    assert json.loads(path.read_text()) == MAIN
    assert node.run("uninstall").output == "nothing to remove\n"


KUBECONFIG: dict[str, Any] = {
    "current-context": "node",
    "contexts": [{"name": "node", "context": {"cluster": "here", "user": "plugin"}}],
    "clusters": [{"name": "here", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority": "ca.crt"}}],
    "users": [{"name": "plugin", "user": {"tokenFile": "token"}}],
}


def write_kubeconfig(directory: Path) -> str:
    """Write a kubeconfig and what it names; return its path."""
    (directory / "ca.crt").write_bytes(authority("kubernetes").pem)
    (directory / "token").write_text("a.token\n")
    (directory / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    return str(directory / "kubeconfig")


def with_server(directory: Path, url: str) -> None:
    path = directory / "kubeconfig"
    path.write_text(path.read_text().replace("https://10.0.0.1:6443", url))


def test_every_option_reaches_the_plugin(node: Node, tmp_path: Path) -> None:
    kubeconfig = write_kubeconfig(tmp_path)
    done = node.run(
        "install",
        *["--kubeconfig", kubeconfig, "--pod-source", "kubernetes", "--pod-source", "runtime"],
        *["--exclude-namespace", "kube-system", "--exclude-namespace", "istio-system"],
        *["--agent-pod", "istio-system/capture-agent-", "--log-file", "/var/log/cni.log", "--log-level", "debug"],
        *["--profile", "current", "--chain-names", "dash", "--backend", "nftables", "--driver", "netlink"],
        *["--ip-families", "mesh", "--other-family", "reject"],
    )
    assert done.exit_code == 0, done.output
    entry = node.entry()
    read = conf.parse_configuration(entry)
    assert read.kubeconfig == kubeconfig
    assert read.pod_sources == ("kubernetes", "runtime")
    assert read.exclude_namespaces == ("kube-system", "istio-system")
    assert read.agent_pod == AgentPod("istio-system", "capture-agent-")
    assert (read.log_file, read.log_level) == ("/var/log/cni.log", "debug")
    assert [read.settings.text(option) for option in conf.CAPTURE_OPTIONS.values()] == [
        "1.30",
        "dash",
        "nftables",
        "netlink",
        "mesh",
        "reject",
    ]


def test_a_list_of_our_own_has_a_name_unless_it_gets_one(node: Node) -> None:
    node.run("install", "--own-config")
    assert node.entry("00-capture.conflist") == {"own_config": True, **NEWEST}
    node.run("uninstall")
    node.run("install", "--own-config", "01-ours.conflist")
    assert sorted(path.name for path in node.conf_dir.iterdir()) == ["01-ours.conflist", "10-main.conflist"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--own-config", "ours.conf"], "a file name that ends with .conflist"),
        (["--own-config", "../ours.conflist"], "a file name that ends with .conflist"),
        (["--profile", "modern"], "1.8 (classic) or 1.30 (current)"),
        (["--kubeconfig", "etc/kubeconfig"], "an absolute path"),
        (["--log-file", "/dev/stdout"], "the absolute path of a file, no device"),
        (["--agent-pod", "capture-agent"], "NAMESPACE/PREFIX, such as istio-system/capture-agent-"),
        (["--pod-source", "operator"], "runtime, agent or kubernetes"),
        (["--exclude-namespace", "Kube System"], "a namespace of Kubernetes, such as kube-system"),
    ],
)
def test_a_mistake_shows_before_anything_is_written(node: Node, arguments: list[str], words: str) -> None:
    done = node.run("install", *arguments)
    assert str(done.exception) == f"{arguments[0]}: invalid value {arguments[1]!r}: expected {words}"
    assert list(node.bin_dir.iterdir()) == []
    assert json.loads((node.conf_dir / "10-main.conflist").read_text()) == MAIN


BOMB = "a: &a [1]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 99}]\n" for a, b in ("ab", "bc", "cd", "de"))
"""A hundred million values by aliases."""


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda directory: (directory / "kubeconfig").unlink(), "kubeconfig: "),
        (lambda directory: (directory / "kubeconfig").write_text("{"), "Nothing was installed"),
        (lambda directory: (directory / "kubeconfig").write_text("kind: Config"), "current-context"),
        (lambda directory: (directory / "kubeconfig").write_text(BOMB), "neither JSON nor YAML"),
        (lambda directory: (directory / "kubeconfig").write_text("a: [b"), "line 1: "),
        (lambda directory: (directory / "ca.crt").unlink(), "ca.crt, which it names, cannot be read: No such file"),
        (lambda directory: (directory / "token").write_text(""), "token is empty"),
        (lambda directory: (directory / "token").write_text("two words"), "characters that no token has"),
        (lambda directory: (directory / "ca.crt").write_text("no PEM"), "its certificates cannot be used"),
        (lambda directory: (directory / "ca.crt").write_text(""), "its certificates cannot be used"),
        (lambda directory: with_server(directory, "10.0.0.1:6443"), "expected https://ADDRESS:PORT"),
        (lambda directory: with_server(directory, "http://10.0.0.1"), "would send the token in clear text"),
    ],
)
def test_a_kubeconfig_that_the_plugin_could_not_use_is_refused(
    node: Node, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    kubeconfig = write_kubeconfig(tmp_path)
    spoil(tmp_path)
    done = node.run("install", "--kubeconfig", kubeconfig)
    assert isinstance(done.exception, CaptureError)
    assert words in str(done.exception)
    assert list(node.bin_dir.iterdir()) == []
    assert json.loads((node.conf_dir / "10-main.conflist").read_text()) == MAIN


def test_the_plugin_next_to_this_program_is_the_default(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    directories = ["--bin-dir", str(node.bin_dir), "--conf-dir", str(node.conf_dir)]
    monkeypatch.setattr("sys.argv", [str(node.plugin.parent / "capture")])
    assert CliRunner().invoke(cni_group, ["install", *directories]).exit_code == 0
    assert (node.bin_dir / "capture-cni").exists()
    monkeypatch.setattr("sys.argv", ["/nowhere/capture"])
    monkeypatch.setenv("PATH", "/nowhere")
    done = CliRunner().invoke(cni_group, ["install", *directories])
    assert done.exit_code == 2
    assert "name it with --plugin PATH" in done.output


FLOW = """\
current-context: n
contexts: [{name: n, context: {cluster: 1, user: u}}]
users: [{name: u, user: {%s}}]
clusters: [{name: 1, cluster: {server: 'https://10.0.0.1:6443', certificate-authority: ca.crt}}]
"""
BLOCK = """\
# as tools write it
apiVersion: v1
kind: Config
current-context: n
contexts:
- context: {cluster: here, user: u}
  name: n
users:
- name: u
  user:
    %s
clusters:
- name: here
  cluster: &cluster
    server: https://10.0.0.1:6443
    certificate-authority: ca.crt
preferences: {}
"""


ONE_FLOW = f"{{{', '.join(FLOW.splitlines())},}}  # braces are YAML, too\n"
MERGED = """\
near: &near {server: 'https://10.0.0.1:6443', certificate-authority: null}
""" + BLOCK.replace("server: https://10.0.0.1:6443", "<<: *near")
FOLLOWED = f"---\n{BLOCK}---\nkind: Config\n"
"""Kubectl reads the first document."""


@pytest.mark.parametrize("text", [FLOW, BLOCK, ONE_FLOW, MERGED, FOLLOWED], ids=range(5))
def test_a_kubeconfig_in_yaml_is_written_as_the_plugin_reads_it(node: Node, tmp_path: Path, text: str) -> None:
    original = write_kubeconfig(tmp_path)
    Path(original).write_text(text % "tokenFile: token")
    done = node.run("install", "--kubeconfig", original)
    assert done.exit_code == 0, done.output
    converted = tmp_path / "istio-capture" / "kubeconfig"
    assert f"{converted}: converted from {original}" in done.output
    assert node.entry()["kubeconfig"] == str(converted)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (converted.parent, converted)] == [0o700, 0o600]
    read = kubernetes.read_kubeconfig(str(converted))
    assert (read.server, read.user["tokenFile"]) == ("https://10.0.0.1:6443", f"{tmp_path}/token")
    assert read.cluster["certificate-authority"] == f"{tmp_path}/ca.crt"
    assert node.run("install", "--kubeconfig", original).output.startswith("unchanged")
    node.run("uninstall")
    assert not converted.parent.exists()


def test_without_a_runtime_there_is_nothing_to_uninstall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setattr("cni.runtimes.detect", lambda: Runtime("containerd", "", "", nowhere, (nowhere,)))

    assert CliRunner().invoke(cni_group, ["uninstall"]).output == "nothing to remove\n"
    named = CliRunner().invoke(cni_group, ["uninstall", "--conf-dir", nowhere])
    assert f"{nowhere}: No such file or directory" in str(named.exception)


def test_a_kubeconfig_that_cannot_be_written_is_an_error_with_a_remedy(node: Node, tmp_path: Path) -> None:
    (tmp_path / "istio-capture").mkdir(0o700)
    (tmp_path / "istio-capture" / "kubeconfig").mkdir()
    original = write_kubeconfig(tmp_path)
    Path(original).write_text(BLOCK % "token: eyJ.with#hash")
    error = node.run("install", "--kubeconfig", original).exception
    assert isinstance(error, CaptureError)
    assert str(tmp_path) in error.message
    assert error.remedy


def test_a_token_in_a_converted_kubeconfig_is_warned_of(node: Node, tmp_path: Path) -> None:
    original = write_kubeconfig(tmp_path)
    Path(original).write_text(BLOCK % "token: eyJ.with#hash")
    done = node.run("install", "--kubeconfig", original)
    assert "if something renews it there, name a tokenFile" in done.output
    user = kubernetes.read_kubeconfig(str(node.entry()["kubeconfig"])).user
    assert user["token"] == "eyJ.with#hash"  # noqa: S105  # of no server


ISTIO: dict[str, object] = {
    "type": "istio-cni",
    "plugin_log_level": "default:warn",
    "exclude_namespaces": ["istio-system", "kube-system"],
    "native_nftables": True,
}


def test_an_entry_of_upstream_is_replaced_and_its_keys_are_kept(node: Node, tmp_path: Path) -> None:
    path = node.conf_dir / "10-main.conflist"
    original = write_kubeconfig(tmp_path)
    Path(original).write_text(BLOCK % "tokenFile: token")
    istio = ISTIO | {"kubernetes": {"kubeconfig": original}}
    path.write_text(json.dumps(MAIN | {"plugins": [{"type": "bridge"}, istio, {"type": "portmap"}]}))
    done = node.run("install", "--log-level", "debug")
    assert done.exit_code == 0, done.output
    assert "entry of istio-cni replaced" in done.output
    assert "remove its DaemonSet" in done.output
    plugins = json.loads(path.read_text())["plugins"]
    assert [plugin["type"] for plugin in plugins] == ["bridge", "portmap", "capture-cni"]
    assert plugins[2]["exclude_namespaces"] == ["istio-system", "kube-system"]
    assert (plugins[2]["backend"], plugins[2]["log_level"]) == ("nftables", "debug")  # what is named counts
    assert plugins[2]["kubeconfig"] == str(tmp_path / "istio-capture" / "kubeconfig")
    installed = path.read_text()
    again = node.run("install", "--log-level", "debug")
    assert (path.read_text(), again.stderr) == (installed, "")
    Path(original).unlink()  # as Istio's uninstallation does
    node.run("install", "--log-level", "debug")
    assert path.read_text() == installed


def test_an_entry_of_upstream_that_handles_ambient_pods_stays(node: Node, tmp_path: Path) -> None:
    path = node.conf_dir / "10-main.conflist"
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    Path(write_kubeconfig(tmp_path)).rename(run_dir / "istio-cni-kubeconfig")
    for name in ("ca.crt", "token"):
        (tmp_path / name).rename(run_dir / name)
    istio = ISTIO | {"ambient_enabled": True, "cni_agent_run_dir": str(run_dir)}
    path.write_text(json.dumps(MAIN | {"plugins": [{"type": "bridge"}, istio]}))
    done = node.run("install")
    assert "it handles ambient pods, too" in done.output
    plugins = json.loads(path.read_text())["plugins"]
    assert [plugin["type"] for plugin in plugins] == ["bridge", "istio-cni", "capture-cni"]
    assert plugins[2]["kubeconfig"] == str(run_dir / "istio-cni-kubeconfig")


def test_upstreams_plugin_in_another_list_is_warned_of(node: Node) -> None:
    other = node.conf_dir / "20-other.conflist"
    other.write_text(json.dumps(MAIN | {"name": "other", "plugins": [{"type": "macvlan"}, ISTIO]}))
    done = node.run("install")
    both = f"istio-cni is in {other}, and capture-cni in {node.conf_dir / '10-main.conflist'}: both write rules"
    assert (done.exit_code, both in done.stderr) == (0, True), done.output
    assert "uninstall Istio's DaemonSet istio-cni-node" in done.stderr
    assert both in node.run("status").stdout


def test_the_network_that_is_named_gets_the_entry(node: Node) -> None:
    other = {"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "macvlan"}]}
    (node.conf_dir / "20-other.conflist").write_text(json.dumps(other))
    assert node.run("install", "--network", "other").exit_code == 0
    assert node.entry("20-other.conflist") == NEWEST
    assert json.loads((node.conf_dir / "10-main.conflist").read_text()) == MAIN
    done = node.run("install", "--network", "missing")
    assert "its name is pods, not missing" in str(done.exception)


@pytest.mark.parametrize("name", ["containerd", "crio"])
def test_a_runtime_that_is_named_needs_no_evidence(node: Node, name: str) -> None:
    assert f"runtime: {name} (--runtime)" in node.run("status", "--runtime", name).stdout


def test_a_runtime_without_annotations_and_no_other_source_is_refused(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shim = Runtime("containerd", "/run/cri-dockerd.sock", without_annotations="cri-dockerd hands over nothing")
    monkeypatch.setattr("cni.runtimes.detect", lambda: shim)
    done = node.run("install")
    assert isinstance(done.exception, CaptureError)
    assert "nothing would be known about any pod of this node" in str(done.exception)
    assert json.loads((node.conf_dir / "10-main.conflist").read_text()) == MAIN
    assert node.run("install", "--kubeconfig", write_kubeconfig(tmp_path)).exit_code == 0
    assert node.run("uninstall").exit_code == 0
    assert node.run("install", "--pod-source", "runtime").exit_code == 0


@pytest.mark.parametrize("command", ["install", "status", "uninstall"])
def test_help_shows_examples_that_work(node: Node, command: str) -> None:
    text = CliRunner().invoke(cni_group, [command, "--help"]).output
    examples = [line.partition("#")[0].split() for line in text.splitlines() if line.startswith("  capture cni")]
    assert len(examples) > 1
    for _, _, name, *arguments in examples:
        assert name == command
        if command != "status" and not {"--bin-dir", "--kubeconfig"} & set(arguments):  # those files are not here
            assert node.run(command, *arguments).exit_code == 0, arguments
