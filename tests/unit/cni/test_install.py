"""The entry gets into the list that the runtime uses and out of it, and nothing else in the directory changes."""

import fcntl
import json
import os
import stat
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from capture.errors import StateDirectoryError
from cni import atomic_files, install
from cni.entries import with_entry
from cni.install_error import InstallError
from cni.networks import FIRST_BY_NAME, ListChoice, RuntimeName
from cni.plugin_files import FileChange
from support.runtimes.fake_plugin import SCRIPT, write_plugin

ENTRY: dict[str, Any] = {"capabilities": {"io.kubernetes.cri.pod-annotations": True}, "profile": "current"}
OWN_ENTRY = {"type": "capture-cni", **ENTRY}
BRIDGE = {"type": "bridge", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/16"}]]}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}


class Node:
    """The two directories of a node that matter here."""

    def __init__(self, root: Path) -> None:
        self.bin_dir, self.conf_dir, self.plugin = root / "bin", root / "net.d", root / "capture-cni"
        self.bin_dir.mkdir()
        self.conf_dir.mkdir()
        write_plugin(self.plugin, "one")

    def install(
        self, entry: dict[str, Any] | None = None, own_config: str = "", choice: ListChoice = FIRST_BY_NAME
    ) -> list[str]:
        desired = install.DesiredConfiguration(str(self.conf_dir), entry or ENTRY, own_config, choice)
        changes = install.install(str(self.plugin), str(self.bin_dir), desired)
        return [self.short(change) for change in changes]

    def uninstall(self, *, keep_plugin: bool = False) -> list[str]:
        changes = install.uninstall(str(self.bin_dir), str(self.conf_dir), keep_plugin=keep_plugin)
        return [self.short(change) for change in changes]

    def short(self, change: FileChange) -> str:
        return str(change).replace(str(self.conf_dir.parent) + "/", "")

    def write(self, name: str, content: object) -> Path:
        path = self.conf_dir / name
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=4))
        return path

    def read(self, name: str) -> Any:
        return json.loads((self.conf_dir / name).read_text())

    def files(self) -> list[str]:
        return sorted(path.name for path in self.conf_dir.iterdir())

    def plugins(self) -> list[str]:
        return sorted(path.name for path in self.bin_dir.iterdir())

    def state(self) -> dict[str, tuple[bytes, int]]:
        """Everything in both directories."""
        return {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns)
            for directory in (self.bin_dir, self.conf_dir)
            for path in directory.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr("cni.networks.HALF_WRITTEN_TIMEOUT", 0.05)
    return Node(tmp_path)


def network(*plugins: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "pods", **more, "plugins": list(plugins)}


# --- into the list that sorts first -----------------------------------------------------------------------------


def test_the_entry_goes_to_the_end_of_the_list_that_sorts_first(node: Node) -> None:
    node.write("20-other.conflist", network(PORTMAP))
    node.write("10-main.conflist", network(BRIDGE, PORTMAP, disableCheck=True, unknown={"kept": [1.5, None]}))
    assert node.install() == ["bin/capture-cni: copied from capture-cni", "net.d/10-main.conflist: entry added"]
    assert node.read("10-main.conflist") == network(
        BRIDGE, PORTMAP, OWN_ENTRY, disableCheck=True, unknown={"kept": [1.5, None]}
    )
    assert node.read("20-other.conflist") == network(PORTMAP)
    assert list(node.read("10-main.conflist")) == ["cniVersion", "name", "disableCheck", "unknown", "plugins"]
    assert node.files() == ["10-main.conflist", "20-other.conflist"]
    assert node.plugins() == ["capture-cni"]
    assert (node.bin_dir / "capture-cni").read_bytes() == node.plugin.read_bytes()


def test_names_sort_byte_by_byte_and_other_files_do_not_count(node: Node) -> None:
    for name in ("00-readme.txt", "05-old.conflist.bak", "01-dir.conflist/x", ".hidden.tmp"):
        (node.conf_dir / name).parent.mkdir(exist_ok=True)
        node.write(name, "not read")
    node.write("9.conflist", network(PORTMAP))
    node.write("10.conflist", network(BRIDGE))
    node.install()
    assert node.read("10.conflist") == network(BRIDGE, OWN_ENTRY)


def test_installing_again_touches_nothing(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    before = node.state()
    for _ in range(10):
        assert node.install() == []
    assert node.state() == before


def test_another_entry_takes_the_place_of_our_own(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE, OWN_ENTRY, PORTMAP))
    assert node.install(ENTRY | {"profile": "classic"})[1:] == ["net.d/10-main.conflist: entry changed"]
    assert node.read("10-main.conflist") == network(BRIDGE, OWN_ENTRY | {"profile": "classic"}, PORTMAP)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([BRIDGE], [BRIDGE, OWN_ENTRY]),
        ([BRIDGE, OWN_ENTRY], [BRIDGE, OWN_ENTRY]),
        ([BRIDGE, OWN_ENTRY, PORTMAP], [BRIDGE, OWN_ENTRY, PORTMAP]),
        ([BRIDGE, OWN_ENTRY, PORTMAP, OWN_ENTRY, OWN_ENTRY], [BRIDGE, OWN_ENTRY, PORTMAP]),
        ([OWN_ENTRY, BRIDGE], [BRIDGE, OWN_ENTRY]),
        ([OWN_ENTRY, BRIDGE, OWN_ENTRY, PORTMAP], [BRIDGE, PORTMAP, OWN_ENTRY]),
    ],
)
def test_one_entry_behind_the_plugin_that_makes_the_network(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    assert with_entry(before, OWN_ENTRY) == after
    assert with_entry(after, OWN_ENTRY) == after


def test_mode_and_owner_of_a_list_are_kept(node: Node) -> None:
    path = node.write("10-main.conflist", network(BRIDGE))
    path.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
    before = path.stat()
    node.install()
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_ino != before.st_ino  # replaced, not written over


def test_a_list_elsewhere_is_replaced_where_it_is(node: Node, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "real").write_text(json.dumps(network(BRIDGE)))
    (node.conf_dir / "10-main.conflist").symlink_to("../elsewhere/real")
    node.install()
    assert (node.conf_dir / "10-main.conflist").is_symlink()
    assert json.loads((elsewhere / "real").read_text()) == network(BRIDGE, OWN_ENTRY)
    assert node.install() == []


# --- a file with a single plugin becomes a list -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".conf", ".json"])
def test_a_single_plugin_becomes_a_list_and_its_file_goes(node: Node, suffix: str) -> None:
    single = {"cniVersion": "0.4.0", "name": "pods", **BRIDGE}
    path = node.write("10-main" + suffix, single)
    path.chmod(0o600)
    assert node.install()[1:] == [
        f"net.d/10-main.conflist: made from 10-main{suffix}, with the entry",
        f"net.d/10-main{suffix}: removed",
    ]
    assert node.files() == ["10-main.conflist"]
    assert node.read("10-main.conflist") == {"cniVersion": "0.4.0", "name": "pods", "plugins": [BRIDGE, OWN_ENTRY]}
    assert stat.S_IMODE((node.conf_dir / "10-main.conflist").stat().st_mode) == 0o600
    assert node.install() == []


@pytest.mark.parametrize("suffix", [".conf", ".json"])
def test_the_file_that_became_a_list_comes_back(node: Node, suffix: str) -> None:
    path = node.write("10-main" + suffix, '{"cniVersion": "0.4.0", "name": "pods",   "type": "bridge"}\n')
    path.chmod(0o640)
    os.utime(path, (5, 5))
    before = node.state(), path.stat().st_mode, path.stat().st_ino
    node.install()
    assert stat.S_IMODE((node.conf_dir / "10-main.conflist").stat().st_mode) == 0o600
    assert node.uninstall() == [
        f"net.d/10-main{suffix}: as it was",
        "net.d/10-main.conflist: removed",
        "bin/capture-cni: removed",
    ]
    assert (node.state(), path.stat().st_mode, path.stat().st_ino) == before
    assert sorted(path.name for path in node.conf_dir.parent.iterdir()) == ["bin", "capture-cni", "net.d"]


def test_a_link_that_became_a_list_comes_back_as_a_link(node: Node, tmp_path: Path) -> None:
    (tmp_path / "real").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", **BRIDGE}))
    (node.conf_dir / "10-main.conf").symlink_to(tmp_path / "real")
    node.install()
    node.uninstall()
    assert os.readlink(node.conf_dir / "10-main.conf") == str(tmp_path / "real")


def test_an_owner_who_writes_the_single_file_again_gets_the_newest_back(node: Node) -> None:
    single = {"cniVersion": "0.4.0", "name": "pods", **BRIDGE}
    node.write("10-main.conf", single)
    node.install()
    for mtu in (1400, 1300):
        node.write("10-main.conf", single | {"mtu": mtu})
        node.install()
        assert node.files() == ["10-main.conflist"]
        assert node.read("10-main.conflist")["plugins"] == [BRIDGE | {"mtu": mtu}, OWN_ENTRY]
    node.uninstall()
    assert node.files() == ["10-main.conf"]
    assert node.read("10-main.conf") == single | {"mtu": 1300}


def test_a_later_change_of_the_owner_stays(node: Node) -> None:
    single = {"cniVersion": "0.4.0", "name": "pods", **BRIDGE}
    node.write("10-main.conf", single)
    node.install()
    node.write("10-main.conf", single)
    node.uninstall()
    assert node.files() == ["10-main.conf"]


def test_a_list_that_was_changed_since_stays_a_list(node: Node) -> None:
    node.write("10-main.conf", {"cniVersion": "0.4.0", "name": "pods", **BRIDGE})
    node.install()
    made = node.read("10-main.conflist")
    node.write("10-main.conflist", made | {"plugins": [*made["plugins"], PORTMAP]})
    node.uninstall()
    assert node.files() == ["10-main.conflist"]
    assert node.read("10-main.conflist")["plugins"] == [BRIDGE, PORTMAP]
    assert not (node.conf_dir.parent / "istio-capture").exists()


def test_a_list_that_a_killed_run_has_left_is_made_anew(node: Node) -> None:
    node.write("10-main.conf", {"cniVersion": "0.4.0", "name": "new", **BRIDGE})
    node.write("10-main.conflist", {"cniVersion": "0.4.0", "name": "old", "plugins": [PORTMAP, OWN_ENTRY]})
    node.install()
    assert node.files() == ["10-main.conflist"]
    assert node.read("10-main.conflist") == {"cniVersion": "0.4.0", "name": "new", "plugins": [BRIDGE, OWN_ENTRY]}


def test_a_foreign_list_next_to_the_single_plugin_is_not_overwritten(node: Node) -> None:
    node.write("10-main.conf", {"cniVersion": "0.4.0", "name": "pods", **BRIDGE})
    node.write("10-main.conflist", network(PORTMAP))
    before = node.conf_dir / "10-main.conflist"
    content = before.read_bytes()
    with pytest.raises(InstallError, match=r"10-main\.conflist too, written by another program"):
        node.install()
    assert before.read_bytes() == content
    assert node.files() == ["10-main.conf", "10-main.conflist"]


def test_a_single_plugin_that_is_a_link_becomes_a_file(node: Node, tmp_path: Path) -> None:
    (tmp_path / "real").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pods", **BRIDGE}))
    (node.conf_dir / "10-main.conf").symlink_to(tmp_path / "real")
    node.install()
    assert node.files() == ["10-main.conflist"]
    assert (tmp_path / "real").exists()


# --- a list of our own ------------------------------------------------------------------------------------------


def test_a_list_of_our_own_is_what_sorts_first_and_the_entry(node: Node) -> None:
    path = node.write("10-main.conflist", network(BRIDGE, PORTMAP))
    path.chmod(0o640)
    content = path.read_bytes()
    own = network(BRIDGE, PORTMAP, OWN_ENTRY | {"own_config": True})
    assert node.install(own_config="00-capture.conflist")[1:] == [
        "net.d/00-capture.conflist: made from 10-main.conflist, with the entry"
    ]
    assert node.read("00-capture.conflist") == own
    assert path.read_bytes() == content
    assert stat.S_IMODE((node.conf_dir / "00-capture.conflist").stat().st_mode) == 0o600
    assert node.install(own_config="00-capture.conflist") == []


def test_a_list_of_our_own_follows_the_one_it_was_made_from(node: Node) -> None:
    node.write("10-main.conf", {"cniVersion": "0.4.0", "name": "pods", **BRIDGE})
    node.install(own_config="00-capture.conflist")
    node.write("10-main.conf", {"cniVersion": "1.0.0", "name": "pods", **PORTMAP})
    assert node.install(own_config="00-capture.conflist") == [
        "net.d/00-capture.conflist: made anew from 10-main.conf, with the entry"
    ]
    assert node.read("00-capture.conflist") == network(PORTMAP, OWN_ENTRY | {"own_config": True})
    assert node.files() == ["00-capture.conflist", "10-main.conf"]


def test_a_list_of_our_own_that_would_not_be_read_is_refused(node: Node) -> None:
    node.write("00-a.conflist", network(BRIDGE))
    with pytest.raises(InstallError, match=r"00-capture\.conflist: 00-a\.conflist sorts before it"):
        node.install(own_config="00-capture.conflist")
    assert node.files() == ["00-a.conflist"]


def test_one_way_of_installing_takes_the_place_of_the_other(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    assert node.install(own_config="00-capture.conflist") == [
        "net.d/00-capture.conflist: made from 10-main.conflist, with the entry",
        "net.d/10-main.conflist: entry removed",
    ]
    assert node.read("10-main.conflist") == network(BRIDGE)
    assert node.install() == ["net.d/10-main.conflist: entry added", "net.d/00-capture.conflist: removed"]
    assert node.files() == ["10-main.conflist"]
    assert node.read("10-main.conflist") == network(BRIDGE, OWN_ENTRY)


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("10-main.conflist", "", "expected a network configuration, but it is empty"),
        ("10-main.conflist", " \n", "expected a network configuration, but it is empty"),
        ("10-main.conflist", '{"plugins": [', "expected JSON: line 1 column 14"),
        ("10-main.conflist", '{"plugins": [{}]} // ours', "expected JSON: line 1 column 19"),
        ("10-main.conflist", "[]", "expected an object"),
        ("10-main.conflist", "{}", "expected 'plugins', a list of objects"),
        ("10-main.conflist", network(), "expected 'plugins', a list of objects"),
        ("10-main.conflist", {"plugins": ["bridge"]}, "expected 'plugins', a list of objects"),
        ("10-main.conflist", {"plugins": {"type": "bridge"}}, "expected 'plugins', a list of objects"),
        ("10-main.conflist", {"cniVersion": "2.0.0", "name": "pods", "plugins": [BRIDGE]}, "its cniVersion is '2.0.0'"),
        ("10-main.conflist", {"name": "pods", "plugins": [BRIDGE]}, "its cniVersion is missing"),
        ("10-main.conflist", network(BRIDGE, cniVersions=["1.0.0", "9.0.0"]), "its cniVersion is '9.0.0'"),
        ("10-main.conflist", network(BRIDGE, {"name": "x"}), "expected a 'type' in each"),
        ("10-main.conflist", network(BRIDGE, {"type": 5}), "expected a 'type' in each"),
        ("10-main.conflist", network(BRIDGE, name=5), "expected a 'name' of the network"),
        ("10-main.conflist", network(OWN_ENTRY), "expected a plugin that makes the network"),
        ("10-main.conf", network(BRIDGE), "expected a plugin with a 'type'"),
        ("10-main.conf", {"cniVersion": "0.2.0", "name": "pods", **BRIDGE}, "its cniVersion is '0.2.0'"),
        ("10-main.conf", {"cniVersion": "1.0.0", **BRIDGE}, "expected a 'name'"),
        (
            "10-main.conf",
            {"cniVersion": "1.0.0", "name": "pods", **OWN_ENTRY},
            "expected a plugin that makes the network",
        ),
    ],
)
def test_a_list_that_cannot_be_understood_is_left_as_it_is(
    node: Node, name: str, content: object, expected: str
) -> None:
    path = node.write(name, content)
    before = path.read_bytes()
    for own_config in ("", "00-capture.conflist"):
        with pytest.raises(InstallError) as refused:
            node.install(own_config=own_config)
        assert refused.value.path == str(path)
        assert expected in refused.value.message
        remedy = "Change cniVersion if the other plugins support it." if "its cniVersion" in expected else ""
        assert refused.value.remedy.endswith(remedy)
        assert refused.value.remedy
        assert path.read_bytes() == before
        assert node.files() == [name]


def test_a_number_that_json_has_and_python_has_not_is_not_turned_into_another(node: Node) -> None:
    path = node.write("10-main.conflist", '{"cniVersion":"1.0.0","name":"n","x":1e400,"plugins":[{"type":"bridge"}]}')
    before = path.read_bytes()
    with pytest.raises(InstallError, match="numbers of a usual size"):
        node.install()
    assert path.read_bytes() == before


def test_of_several_versions_the_newest_counts(node: Node) -> None:
    several = {"cniVersions": ["0.4.0", "1.0.0"], "name": "pods", "plugins": [BRIDGE]}
    node.write("10-main.conflist", several)
    node.install()
    assert node.read("10-main.conflist") == {**several, "plugins": [BRIDGE, OWN_ENTRY]}


def test_a_file_that_no_runtime_reads_does_not_keep_the_entry_in(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    os.mkfifo(node.conf_dir / "00-fifo.conflist")
    (node.conf_dir / "00-link.conf").symlink_to("nowhere")
    node.uninstall()
    assert node.read("10-main.conflist") == network(BRIDGE)


def test_a_file_that_is_not_utf8_is_refused(node: Node) -> None:
    (node.conf_dir / "10-main.conflist").write_bytes(b'{"name": "\xff"}')
    with pytest.raises(InstallError, match="expected JSON: 'utf-8'"):
        node.install()


def test_a_broken_file_that_sorts_first_is_not_passed_over(node: Node) -> None:
    node.write("00-broken.conflist", "{")
    node.write("10-main.conflist", network(BRIDGE))
    with pytest.raises(InstallError, match=r"00-broken\.conflist"):
        node.install()
    assert node.read("10-main.conflist") == network(BRIDGE)


def test_without_a_network_there_is_nothing_to_be_chained_to(node: Node) -> None:
    with pytest.raises(InstallError, match=r"no network configuration in it") as refused:
        node.install()
    assert refused.value.path == str(node.conf_dir)
    assert "after the main network plugin" in refused.value.remedy
    assert [*node.bin_dir.iterdir()] == []


def test_a_plugin_that_was_there_stays_where_no_entry_can_be_written(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    (node.conf_dir / "10-main.conflist").unlink()
    with pytest.raises(InstallError, match=r"no network configuration in it"):
        node.install()
    assert (node.bin_dir / "capture-cni").exists()


def test_no_plugin_is_left_where_the_list_cannot_be_written(node: Node) -> None:
    node.write(f"{'1' * 240}.conflist", network(BRIDGE))  # a temporary file next to it has too long a name
    with pytest.raises(InstallError, match="File name too long"):
        node.install()
    assert node.plugins() == []


def test_a_link_to_nothing_is_named(node: Node) -> None:
    (node.conf_dir / "10-main.conflist").symlink_to("gone")
    with pytest.raises(InstallError, match="a symbolic link to nothing"):
        node.install()


@pytest.mark.parametrize("missing", ["bin_dir", "conf_dir"])
def test_directories_that_are_not_there_are_named(node: Node, missing: str) -> None:
    directory = getattr(node, missing)
    directory.rmdir()
    for act in (node.install, node.uninstall):
        with pytest.raises(InstallError, match="No such file or directory") as refused:
            act()
        assert refused.value.path == str(directory)
        assert "container runtime" in refused.value.remedy
    directory.write_text("a file")
    with pytest.raises(InstallError, match="Not a directory"):
        node.install()


# --- out again --------------------------------------------------------------------------------------------------


def test_uninstall_is_the_inverse_of_install(node: Node) -> None:
    before = network(BRIDGE, PORTMAP, disableCheck=True)
    node.write("10-main.conflist", before)
    node.install()
    assert node.uninstall() == ["net.d/10-main.conflist: entry removed", "bin/capture-cni: removed"]
    assert node.read("10-main.conflist") == before
    assert (node.files(), node.plugins()) == (["10-main.conflist"], [])
    assert node.uninstall() == []


def test_uninstall_gives_a_list_back_in_bytes_unless_it_was_changed_since(node: Node) -> None:
    path = node.conf_dir / "10-main.conflist"
    original = json.dumps(network(BRIDGE, PORTMAP), indent="\t").replace(":", " :").encode()
    path.write_bytes(original)
    node.install()
    node.install()
    node.uninstall()
    assert path.read_bytes() == original

    node.install()
    changed = node.read("10-main.conflist") | {"disableCheck": True}
    node.write("10-main.conflist", changed)
    node.uninstall()
    assert node.read("10-main.conflist") == network(BRIDGE, PORTMAP, disableCheck=True)


@pytest.mark.parametrize(("runtime", "is_refused"), [("containerd", True), ("libcni", True), ("crio", False)])
def test_a_network_needs_a_name_unless_the_runtime_gives_it_one(
    node: Node, runtime: RuntimeName, *, is_refused: bool
) -> None:
    node.write("10-main.conflist", network(BRIDGE, name=""))
    with pytest.raises(InstallError, match="a 'name' of the network, which must") if is_refused else nullcontext():
        node.install(choice=ListChoice(runtime))
    assert (node.files(), "capture-cni" in str(node.read("10-main.conflist"))) == (["10-main.conflist"], not is_refused)


def test_uninstall_removes_a_list_of_our_own_under_any_name(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install(own_config="01-other-name.conflist")
    assert node.uninstall() == ["net.d/01-other-name.conflist: removed", "bin/capture-cni: removed"]
    assert node.read("10-main.conflist") == network(BRIDGE)


def test_uninstall_takes_out_every_entry_and_what_has_nothing_else(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE, OWN_ENTRY, PORTMAP, OWN_ENTRY))
    node.write("20-alone.conflist", network(OWN_ENTRY))
    node.write("30-single.conf", {"name": "pods", **OWN_ENTRY})
    node.write("40-other.conflist", network(PORTMAP))
    node.uninstall()
    assert node.files() == ["10-main.conflist", "40-other.conflist"]
    assert node.read("10-main.conflist") == network(BRIDGE, PORTMAP)


def test_the_plugin_stays_as_long_as_something_may_call_it(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    path = node.write("20-broken.conflist", '{"plugins": [{"type": "capture-cni"}')
    with pytest.raises(InstallError, match=r"20-broken\.conflist: expected JSON"):
        node.uninstall()
    assert node.plugins() == ["capture-cni"]
    path.write_text("{ broken, and foreign")
    node.uninstall()
    assert node.plugins() == []


def test_the_plugin_can_stay_for_pods_that_are_still_there(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    assert node.uninstall(keep_plugin=True) == ["net.d/10-main.conflist: entry removed"]
    assert node.plugins() == ["capture-cni"]


def test_uninstall_waits_between_entry_and_plugin(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    slept = []

    def sleep(seconds: float) -> None:
        slept.append((seconds, node.read("10-main.conflist") == network(BRIDGE), node.plugins()))

    monkeypatch.setattr("cni.install.time.sleep", sleep)
    install.uninstall(str(node.bin_dir), str(node.conf_dir), grace=30)
    assert slept == [(30, True, ["capture-cni"])]
    install.uninstall(str(node.bin_dir), str(node.conf_dir), grace=30)
    assert len(slept) == 1  # nothing was there, so no call can be running


# --- the plugin -------------------------------------------------------------------------------------------------


def test_a_new_plugin_takes_the_place_of_the_old_one(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    with (node.bin_dir / "capture-cni").open() as running:
        write_plugin(node.plugin, "two")
        node.plugin.chmod(0o700)
        assert node.install() == ["bin/capture-cni: copied from capture-cni"]
        assert running.read().endswith("# one\n")
    assert (node.bin_dir / "capture-cni").read_text().endswith("# two\n")
    assert stat.S_IMODE((node.bin_dir / "capture-cni").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["missing", "not executable", "empty directory"])
def test_a_file_that_is_no_plugin_is_not_installed(node: Node, kind: str) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.plugin.unlink()
    if kind == "not executable":
        node.plugin.write_text("text")
    elif kind == "empty directory":
        node.plugin.mkdir()
    with pytest.raises(InstallError, match="expected capture-cni"):
        node.install()
    assert node.read("10-main.conflist") == network(BRIDGE)
    assert node.plugins() == []


def bundle(node: Node, text: str) -> None:
    """Make the plugin a directory: launcher, a library, a link, a private file."""
    if node.plugin.is_file():
        node.plugin.unlink()
        (node.plugin / "lib").mkdir(parents=True)
        (node.plugin / "lib" / "latest").symlink_to("module.py")
    write_plugin(node.plugin / "capture-cni")
    (node.plugin / "lib" / "module.py").write_text(text)
    (node.plugin / "lib" / "module.py").chmod(0o640)


def test_a_bundle_is_copied_whole_and_the_name_points_into_it(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    bundle(node, "one")
    node.install()
    link, directory = node.plugins()
    assert link == "capture-cni"
    assert os.readlink(node.bin_dir / link) == f"{directory}/capture-cni"
    assert os.access(node.bin_dir / link, os.X_OK)
    copy = node.bin_dir / directory / "lib"
    assert (copy / "module.py").read_text() == "one"
    assert os.readlink(copy / "latest") == "module.py"
    assert stat.S_IMODE((copy / "module.py").stat().st_mode) == 0o640
    assert stat.S_IMODE(copy.stat().st_mode) == stat.S_IMODE((node.plugin / "lib").stat().st_mode)
    assert node.install() == []


def test_the_previous_bundle_stays_for_who_runs_from_it(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    seen = []
    for text in ("one", "two", "three"):
        bundle(node, text)
        node.install()
        seen.append(os.path.dirname(os.readlink(node.bin_dir / "capture-cni")))
    assert len(set(seen)) == 3
    assert set(node.plugins()) == {"capture-cni", *seen[1:]}
    node.uninstall()
    assert node.plugins() == []


def test_a_bundle_gives_way_to_a_single_file_and_back(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.install()
    bundle(node, "one")
    node.install()
    assert (node.bin_dir / "capture-cni").is_symlink()
    other = node.plugin.parent / "single"
    write_plugin(other)
    node.plugin = other
    node.install()
    assert not (node.bin_dir / "capture-cni").is_symlink()


def test_a_bundle_with_something_strange_is_refused(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    bundle(node, "one")
    os.mkfifo(node.plugin / "lib" / "fifo")
    with pytest.raises(InstallError, match="expected a file, a directory or a symbolic link"):
        node.install()
    assert node.plugins() == []


# --- what cannot be called is not installed -----------------------------------------------------------------------


def launcher(node: Node) -> Path:
    """Make the plugin one that needs its bundle, as that of ``make bundle`` does; return the bundle."""
    node.plugin.unlink()
    bundle = node.plugin
    (bundle / "lib").mkdir(parents=True)
    write_plugin(bundle / "lib" / "ld.so")
    (bundle / "capture-cni").write_text('#!/bin/sh\nexec "$(dirname "$(readlink -f "$0")")/lib/ld.so"\n')
    (bundle / "capture-cni").chmod(0o755)
    return bundle


@pytest.mark.parametrize("name", ["capture-cni", "link"])
def test_a_file_of_a_bundle_is_taken_as_the_whole_bundle(node: Node, name: str) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    bundle = launcher(node)
    (bundle.parent / "link").symlink_to(bundle / "capture-cni")
    node.plugin = (bundle if name == "capture-cni" else bundle.parent) / name
    node.install()
    assert (node.bin_dir / "capture-cni").is_symlink()
    assert ((node.bin_dir / "capture-cni").resolve().parent / "lib" / "ld.so").exists()


def test_half_a_bundle_is_refused_and_what_is_installed_stays(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    bundle = launcher(node)
    node.install()
    before = node.state()
    (bundle / "lib" / "ld.so").unlink()
    with pytest.raises(InstallError, match=r"capture-cni: started, but does not answer VERSION: status 127.*ld\.so"):
        node.install()
    assert node.state() == before


def test_a_bundle_that_was_damaged_in_place_is_repaired(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    launcher(node)
    node.install()
    ((node.bin_dir / "capture-cni").resolve().parent / "lib" / "ld.so").unlink()
    node.install()
    assert ((node.bin_dir / "capture-cni").resolve().parent / "lib" / "ld.so").exists()
    node.install()
    assert len(node.plugins()) == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("#!/no/such/python -IS\n", "its interpreter /no/such/python is missing here"),
        ("\x7fELF and nothing more", "not a program for this machine"),
        ("#!/bin/sh\nexit 3\n", "does not answer VERSION: status 3, no output"),
        ("#!/bin/sh\necho '{}'\n", "does not answer VERSION: status 0, {}"),
        ("#!/bin/sh\nsleep 9\n", "no answer to VERSION within 0.2 s"),
    ],
)
def test_a_plugin_that_does_not_answer_gets_no_entry(
    node: Node, content: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cni.trial.CALL_TIMEOUT", 0.2)
    node.write("10-main.conflist", network(BRIDGE))
    before = node.state()
    node.plugin.write_text(content)
    with pytest.raises(InstallError) as refused:
        node.install()
    assert problem in refused.value.message
    assert "The network configuration was not changed" in refused.value.remedy
    assert node.state() == before


def test_the_plugin_is_tried_as_a_runtime_calls_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the shell of a person happens to have."""
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    node.write("10-main.conflist", network(BRIDGE))
    node.plugin.write_text('#!/bin/sh\n[ -z "$PYTHONPATH" ] && [ "$CNI_COMMAND" = VERSION ] || exit 1\n' + SCRIPT)
    assert node.install() == ["bin/capture-cni: copied from capture-cni", "net.d/10-main.conflist: entry added"]


def test_a_state_directory_of_an_older_version_is_made_private(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    state = node.conf_dir.parent / "state"
    state.mkdir()
    state.chmod(0o755)
    monkeypatch.setattr(install, "STATE_DIRECTORY", str(state))
    node.write("10-main.conflist", network(BRIDGE))
    assert node.install()[0] == "state: made private, mode 0700"
    state.chmod(0o777)
    with pytest.raises(StateDirectoryError):
        node.install()


# --- others at the same time ------------------------------------------------------------------------------------


def test_leftovers_of_a_killed_installer_are_cleaned_up(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    (node.conf_dir / ".10-main.conflist.abc.capture-tmp").write_text("half")
    (node.bin_dir / ".capture-cni.bundle-1.abc.capture-tmp" / "lib").mkdir(parents=True)
    node.install()
    assert (node.files(), node.plugins()) == (["10-main.conflist"], ["capture-cni"])


def test_two_installers_take_turns(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    monkeypatch.setattr("cni.install_lock.INSTALL_TIMEOUT", 0.1)
    lock = os.open(node.conf_dir, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(InstallError, match=r"another installer has held its lock for 0\.1 s"):
        node.install()
    os.close(lock)
    node.install()


def test_one_directory_for_both_will_do(node: Node) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    node.bin_dir = node.conf_dir
    node.install()
    assert node.files() == ["10-main.conflist", "capture-cni"]


def test_a_file_that_never_comes_to_rest_is_an_error(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.write("10-main.conflist", network(BRIDGE))
    monkeypatch.setattr("cni.install_lock.INSTALL_TIMEOUT", 0.05)

    def always_changed(old: atomic_files.Snapshot, content: bytes, *, is_urgent: bool) -> None:
        raise atomic_files.ChangedMeanwhileError(old.path)

    monkeypatch.setattr(atomic_files, "replace", always_changed)
    with pytest.raises(InstallError, match=r"another program keeps changing it: .*10-main\.conflist"):
        node.install()
