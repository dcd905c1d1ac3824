"""Which file a runtime takes: by the rules of go-cni, ocicni and libcni, and where a list of our own stays closed."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni import install, runtimes
from cni.install_error import InstallError
from cni.networks import Chosen, ListChoice, RuntimeName, choose_network, read_candidates
from support.runtimes.fake_plugin import write_plugin

PODS = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}
OTHER = {"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "macvlan"}]}
SINGLE = {"cniVersion": "0.4.0", "name": "single", "type": "bridge"}


class Node:
    """A node with the plugins bridge and macvlan."""

    def __init__(self, root: Path) -> None:
        self.conf_dir, self.bin_dir = root / "net.d", root / "bin"
        self.plugin = root / "capture-cni"
        write_plugin(self.plugin)
        for directory in (self.conf_dir, self.bin_dir):
            directory.mkdir()
        for plugin in ("bridge", "macvlan"):
            (self.bin_dir / plugin).touch(0o755)

    def write(self, **files: object) -> None:
        for name, content in files.items():
            path = self.conf_dir / name.replace("__", ".").lstrip("_")
            path.write_text(content if isinstance(content, str) else json.dumps(content))

    def read(self, name: str) -> Any:
        return json.loads((self.conf_dir / name).read_text())

    def choice(self, runtime: RuntimeName, network: str = "") -> ListChoice:
        return ListChoice(runtime, network, (str(self.bin_dir),))

    def chosen(self, runtime: RuntimeName, network: str = "") -> Chosen:
        return choose_network(read_candidates(str(self.conf_dir), timeout=0), self.choice(runtime, network))

    def taken(self, runtime: RuntimeName, network: str = "") -> str:
        taken = self.chosen(runtime, network).taken
        return Path(taken.path).name if taken else ""

    def install(self, own_config: str = "", runtime: RuntimeName = "crio") -> None:
        desired = install.DesiredConfiguration(
            str(self.conf_dir), {"profile": "current"}, own_config, self.choice(runtime)
        )
        install.install(str(self.plugin), str(self.bin_dir), desired)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr("cni.networks.HALF_WRITTEN_TIMEOUT", 0.0)
    return Node(tmp_path)


def test_a_broken_file_stops_containerd_and_not_the_others(node: Node) -> None:
    node.write(_05__conflist="{", _10__conflist=PODS, _20__conf=SINGLE)
    assert node.taken("containerd") == ""
    assert "the node has no network" in node.chosen("containerd").reasons[0][1]
    assert node.taken("crio") == "10.conflist"


def test_crio_skips_a_list_whose_plugin_is_missing(node: Node) -> None:
    node.write(_10__conflist=PODS | {"plugins": [{"type": "bridge"}, {"type": "gone"}]}, _20__conflist=OTHER)
    assert node.taken("containerd") == "10.conflist"
    chosen = node.chosen("crio")
    assert chosen.reasons[0][1] == f"skipped: the plugin gone is missing in {node.bin_dir}"
    assert chosen.reasons[1][1] == "taken: the first usable"


def test_a_network_is_requested_by_its_name(node: Node) -> None:
    node.write(_10__conf=SINGLE, _20__conflist=OTHER, _30__conflist=SINGLE | {"plugins": [{"type": "bridge"}]})
    assert node.taken("crio", "single") == "10.conf"
    assert node.taken("libcni", "single") == "30.conflist"  # lists come first
    assert node.taken("crio", "other") == node.taken("libcni", "other") == "20.conflist"
    assert node.taken("crio", "none") == node.taken("libcni", "none") == ""


def test_a_list_of_our_own_does_not_fall_open_where_the_next_one_is_taken(node: Node) -> None:
    node.write(_10__conflist=PODS)
    node.install("00-capture.conflist")
    entry = {"type": "capture-cni", "profile": "current"}
    assert node.read("10.conflist")["plugins"] == [{"type": "bridge"}, entry]
    assert node.taken("crio") == "00-capture.conflist"
    (node.bin_dir / "capture-cni").unlink()
    assert node.taken("crio") == ""  # no pod starts, rather than uncaptured
    node.install("00-capture.conflist")
    install.uninstall(str(node.bin_dir), str(node.conf_dir))
    assert [path.name for path in node.conf_dir.iterdir()] == ["10.conflist"]
    assert node.read("10.conflist") == PODS


def test_containerd_needs_no_second_entry(node: Node) -> None:
    node.write(_10__conflist=PODS)
    node.install("00-capture.conflist", "containerd")
    assert node.read("10.conflist") == PODS


def test_the_entry_goes_where_crio_looks(node: Node) -> None:
    node.write(_05__conflist="{", _10__conflist=PODS | {"plugins": [{"type": "gone"}]}, _20__conflist=OTHER)
    node.install()
    assert [plugin["type"] for plugin in node.read("20.conflist")["plugins"]] == ["macvlan", "capture-cni"]
    (node.conf_dir / "20.conflist").unlink()
    with pytest.raises(
        InstallError, match=r"05\.conflist skipped: expected JSON.*10\.conflist skipped: the plugin gone"
    ):
        node.install()


CRIO_CONF = """
[crio.network]
cni_default_network = "other"
network_dir = "/etc/kubernetes/cni/net.d/"
plugin_dirs = ["/opt/cni/bin/", "/usr/libexec/cni"]
"""


def test_crio_is_known_by_its_configuration(tmp_path: Path) -> None:
    assert runtimes.detect(str(tmp_path)) == runtimes.Runtime("containerd", "")
    fragments = tmp_path / "etc/crio/crio.conf.d"
    fragments.mkdir(parents=True)
    (fragments.parent / "crio.conf").write_text(CRIO_CONF)
    (fragments / "10.conf").write_text('[crio.network]\ncni_default_network = "mine"\n')
    (fragments / "20.conf").write_text("no TOML")
    found = runtimes.detect(str(tmp_path))
    assert (found.name, found.evidence, found.network) == ("crio", "/etc/crio", "mine")
    assert (found.conf_dir, found.bin_dirs) == ("/etc/kubernetes/cni/net.d/", ("/opt/cni/bin/", "/usr/libexec/cni"))
    assert found.without_annotations == ""
    (tmp_path / "run/containerd").mkdir(parents=True)
    (tmp_path / "run/containerd/containerd.sock").touch()
    assert runtimes.detect(str(tmp_path)).name == "containerd"  # what runs counts more than what is configured


CONTAINERD_CONFIGS = {
    1: "[plugins.cri.cni]\nbin_dir = '/usr/lib/cni'\nconf_dir = '/etc/net.d'",
    2: "[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir = '/usr/lib/cni'\nconf_dir = '/etc/net.d'",
    3: "[plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = ['/usr/lib/cni']\nconf_dir = '/etc/net.d'",
}


@pytest.mark.parametrize("version", CONTAINERD_CONFIGS)
@pytest.mark.parametrize("imports", ["", "conf.d/*.toml", "/etc/containerd/conf.d/*.toml"])
def test_containerd_has_the_directories_of_its_configuration(tmp_path: Path, version: int, imports: str) -> None:
    directory = tmp_path / "etc/containerd"
    (directory / "conf.d").mkdir(parents=True)
    (directory / "config.toml").write_text(f'imports = ["{imports}"]' if imports else CONTAINERD_CONFIGS[version])
    (directory / "conf.d/10.toml").write_text(CONTAINERD_CONFIGS[version])
    found = runtimes.detect(str(tmp_path))
    assert (found.name, found.conf_dir, found.bin_dirs) == ("containerd", "/etc/net.d", ("/usr/lib/cni",))
    assert found.evidence == "/etc/containerd/config.toml"


@pytest.mark.parametrize(
    ("version", "hands_over"), [("1.27.4", False), ("1.28.0", True), ("1.9.1", False), ("x", True)]
)
def test_an_old_crio_hands_over_no_annotations(tmp_path: Path, version: str, *, hands_over: bool) -> None:
    (tmp_path / "run/crio").mkdir(parents=True)
    (tmp_path / "run/crio/crio.sock").touch()
    (tmp_path / "run/crio/version").write_text(json.dumps(version))
    assert (runtimes.detect(str(tmp_path)).without_annotations == "") == hands_over


def test_k3s_has_directories_of_its_own(tmp_path: Path) -> None:
    for socket in ("run/containerd/containerd.sock", "run/k3s/containerd/containerd.sock"):
        (tmp_path / socket).parent.mkdir(parents=True)
        (tmp_path / socket).touch()
    found = runtimes.detect(str(tmp_path))
    assert (found.name, found.conf_dir) == ("containerd", "/var/lib/rancher/k3s/agent/etc/cni/net.d")
    assert found.bin_dirs[0] == "/var/lib/rancher/k3s/data/cni"


def test_cri_dockerd_hands_over_no_annotations(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/cri-dockerd.sock").touch()
    assert "cri-dockerd" in runtimes.detect(str(tmp_path)).without_annotations
