"""The agent keeps plugin, entry and credentials on the node, whatever other programs write there."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capture.errors import ConfigurationError
from cni.agent.handover import Handover
from cni.agent.health import Health
from cni.agent.installation import IDLE_INTERVAL, INSTALLED_PARTS, Installation
from cni.agent.options import Options
from cni.agent.runtime import LoadedNetwork, RuntimeClient, RuntimeSilentError
from support.output.agent_lines import AgentLines
from support.processes.waiting import wait_until

CREDENTIALS = ("ca.crt", "token", "kubeconfig")
BRIDGE = {"type": "bridge"}
PLUGIN = '#!/bin/sh\ncat > /dev/null; echo \'{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]}\'\n'


class Node:
    """A node's directories, and an agent's installation on it."""

    def __init__(self, root: Path, **more: Any) -> None:
        self.bin_dir, self.conf_dir = root / "opt" / "bin", root / "etc" / "net.d"
        account, plugin = root / "account", root / "capture-cni"
        for directory in (self.bin_dir, self.conf_dir, account):
            directory.mkdir(parents=True)
        (account / "token").write_text("a token")
        (account / "ca.crt").write_text("an authority")
        plugin.write_text(PLUGIN)
        plugin.chmod(0o755)
        self.published: list[tuple[str, str]] = []
        self.health, self.log = Health(INSTALLED_PARTS), AgentLines()
        self.options = Options(
            plugin=str(plugin), entry={"exclude_namespaces": ["kube-system"]},
            bin_dir=str(self.bin_dir), conf_dir=str(self.conf_dir), service_account=str(account),
            socket=str(root / "run" / "socket"), **{"node": "node-1"} | more,
        )  # fmt: skip
        self.list = self.conf_dir / "10-lab.conflist"
        self.installation = Installation(
            self.options, self.health, self.log, publish=lambda *words: self.published.append(words)
        )

    def write(self, *plugins: dict[str, Any], name: str = "10-lab.conflist") -> None:
        """Write the list as its owner does: whole, by a rename."""
        new = self.conf_dir.parent / "new"
        new.write_text(json.dumps({"cniVersion": "1.0.0", "name": "lab", "plugins": plugins or [BRIDGE]}))
        new.rename(self.conf_dir / name)

    def types(self, name: str = "10-lab.conflist") -> list[str]:
        return [plugin["type"] for plugin in json.loads((self.conf_dir / name).read_text())["plugins"]]

    def problems(self) -> dict[str, Any]:
        problems: dict[str, Any] = self.health.as_plain()["problems"]
        return problems


@pytest.fixture
def node(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    made = Node(tmp_path, **getattr(request, "param", {}))
    yield made
    made.installation.directories.close()
    made.installation.writers.close()


@pytest.fixture
def running(node: Node) -> Iterator[Node]:
    node.write()
    stop = threading.Event()
    handover = Handover(str(Path(node.options.socket).parent), "agent")
    thread = threading.Thread(target=node.installation.run, args=(stop, handover))
    thread.start()
    wait_until(lambda: node.health.is_ready)
    yield node
    stop.set()
    node.installation.directories.wake()
    thread.join(10)


def test_plugin_entry_and_credentials_are_put_onto_the_node(node: Node) -> None:
    node.write()
    node.installation.run_once(0)
    entry = json.loads(node.list.read_text())["plugins"][1]
    assert entry == {
        "type": "capture-cni",
        "exclude_namespaces": ["kube-system"],
        "kubeconfig": f"{node.conf_dir.parent}/istio-capture/kubeconfig",
        "agent_socket": node.options.socket,
        "pod_sources": ["runtime", "agent", "kubernetes"],
    }
    assert os.path.exists(entry["kubeconfig"])
    assert (node.bin_dir / "capture-cni").exists()
    assert node.health.is_ready
    told = [(line["message"], line["path"]) for line in node.log.lines]
    credentials = [("credentials written", f"{node.options.credentials}/{name}") for name in CREDENTIALS]
    assert told[:3] == credentials
    assert {("installed", f"{node.bin_dir}/capture-cni"), ("installed", str(node.list))} <= {*told[3:]}
    node.installation.run_once(1)
    assert len(node.log.lines) == len(told), "what is in place is told once"


def test_a_node_whose_network_comes_later(running: Node) -> None:
    running.list.unlink()
    wait_until(lambda: "entry" in running.problems())
    assert not running.health.is_ready
    running.write()
    wait_until(lambda: "capture-cni" in running.types())
    wait_until(lambda: running.health.is_ready)


def test_a_rewritten_list_has_the_entry_again_at_once(running: Node) -> None:
    gaps, begun = [], time.time()
    for _ in range(5):
        time.sleep(0.05)
        running.write({"type": "bridge", "mtu": 1450})
        started = time.monotonic()
        wait_until(lambda: "capture-cni" in running.types())
        gaps.append(time.monotonic() - started)
    assert min(gaps) < 0.2
    rival = "list_rewrites", "the owner of 10-lab.conflist (plugin bridge)"
    wait_until(lambda: running.health.counts().get(rival) == 5)
    wait_until(lambda: (running.health.fact("restored") or 0.0) > begun)
    told = ["entry restored", "another program rewrote the network configuration"] * 5
    assert [message for message in running.log.messages if message in told] == told
    assert running.published == []


@pytest.mark.parametrize("fault", [FileNotFoundError(), ConfigurationError("10-lab.conflist", "{", "a file", "JSON")])
def test_a_list_that_cannot_be_read_for_a_moment_was_not_rewritten_by_a_rival(
    node: Node, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fails(*_: object) -> None:
        raise fault

    node.write()
    node.installation.run_once(0)
    with monkeypatch.context() as patch:
        patch.setattr("cni.install.selected_network", fails)
        node.installation.run_once(1)
    node.write()
    node.installation.run_once(2)
    assert node.types() == ["bridge", "capture-cni"]
    assert not [name for name, _ in node.health.counts() if name == "list_rewrites"]
    node.write()
    node.installation.run_once(3)
    assert node.types() == ["bridge", "capture-cni"]
    assert [name for name, _ in node.health.counts() if name == "list_rewrites"], "it is in place again, and lost"


def test_a_conflict_is_not_fought_out_and_its_rival_is_named(running: Node) -> None:
    for _ in range(6):
        wait_until(lambda: "capture-cni" in running.types())
        running.write({"type": "cilium-cni"})
        time.sleep(0.05)
    wait_until(lambda: running.published)
    assert "capture-cni" not in running.types()
    assert not running.health.is_ready
    assert running.published[0][0] == "CaptureListRewritten"
    assert "plugin cilium-cni" in running.published[0][1]
    wait_until(lambda: "capture-cni" in running.types())  # after a second


def test_a_directory_that_was_made_anew(running: Node) -> None:
    running.conf_dir.rename(running.conf_dir.with_name("old"))
    running.conf_dir.mkdir()
    running.write()
    wait_until(lambda: "capture-cni" in running.types())


def test_a_plugin_that_was_removed_comes_back(running: Node) -> None:
    (running.bin_dir / "capture-cni").unlink()
    wait_until((running.bin_dir / "capture-cni").exists)


def test_a_renewed_token_reaches_the_plugin_at_once(running: Node) -> None:
    account = Path(running.options.service_account)
    (account / "new").write_text("a newer token")
    (account / "new").rename(account / "token")  # as kubelet: one rename
    wait_until(lambda: Path(running.options.credentials, "token").read_text() == "a newer token", 1)


@pytest.mark.parametrize("node", [{"own_config": "00-capture.conflist"}], indirect=True)
def test_a_list_of_our_own_follows_the_main_one(node: Node) -> None:
    node.write()
    node.installation.run_once(0)
    assert (node.types(), node.types("00-capture.conflist")) == (["bridge"], ["bridge", "capture-cni"])
    node.write({"type": "bridge", "mtu": 1450})
    node.installation.run_once(1)
    own = json.loads((node.conf_dir / "00-capture.conflist").read_text())
    assert own["plugins"][0] == {"type": "bridge", "mtu": 1450}
    assert node.problems() == {}


@pytest.mark.parametrize("node", [{"own_config": "00-capture.conflist"}], indirect=True)
def test_a_list_of_our_own_goes_with_the_main_one(node: Node) -> None:
    node.write()
    node.installation.run_once(0)
    main = next(path for path in node.conf_dir.iterdir() if not path.name.startswith("00-"))
    kept = main.read_text()
    main.unlink()
    node.installation.run_once(1)
    assert [path.name for path in node.conf_dir.iterdir()] == []
    assert "entry" in node.problems()
    main.write_text(kept)
    node.installation.run_once(2)
    assert (node.types("00-capture.conflist"), node.problems()) == (["bridge", "capture-cni"], {})


class FakeRuntime(RuntimeClient):
    """What a runtime reports as loaded."""

    def __init__(self, loaded: LoadedNetwork | None) -> None:
        self.answer = loaded

    def loaded(self) -> LoadedNetwork | None:
        return self.answer


@pytest.mark.parametrize(
    ("conf_dir", "bin_dir", "plugins", "problem"),
    [
        ("CONF", "BIN", ("bridge", "capture-cni"), ""),
        ("CONF", "BIN", ("bridge",), "without capture-cni"),
        ("CONF", "BIN", (), "the network lab without"),
        ("/var/lib/rancher/k3s/agent/etc/cni/net.d", "BIN", ("bridge",), "reads /var/lib/rancher"),
        ("CONF", "/home/kubernetes/bin", ("bridge",), "looks for plugins in /home/kubernetes/bin"),
    ],
)
def test_ready_is_what_the_runtime_has_loaded(
    node: Node, conf_dir: str, bin_dir: str, plugins: tuple[str, ...], problem: str
) -> None:
    conf, binary = conf_dir.replace("CONF", str(node.conf_dir)), bin_dir.replace("BIN", str(node.bin_dir))
    node.installation.runtime = FakeRuntime(LoadedNetwork(plugins, "lab", conf, (binary,)))
    node.write()
    node.installation.run_once(1)
    assert problem in node.problems().get("loaded", {}).get("problem", "")
    assert node.health.is_ready == (not problem)


def test_a_silent_runtime_is_a_problem_and_one_without_this_report_is_none(node: Node) -> None:
    class Silent(FakeRuntime):
        def loaded(self) -> LoadedNetwork | None:
            raise RuntimeSilentError("/run/x.sock: Status: UNAVAILABLE")

    node.write()
    node.installation.runtime = Silent(None)
    node.installation.run_once(1)
    assert "UNAVAILABLE" in node.problems()["loaded"]["problem"]
    node.installation.runtime = FakeRuntime(None)
    node.installation.run_once(2)
    assert node.health.is_ready


def test_a_runtime_that_loads_nothing_new_is_named_after_a_while(node: Node) -> None:
    node.write()
    runtime = FakeRuntime(LoadedNetwork(("bridge",), "lab", str(node.conf_dir), (str(node.bin_dir),)))
    node.installation.runtime = runtime
    problems = []
    for now in (1.0, 16.0, 16.1):
        node.installation.run_once(now)
        problems.append(node.problems()["loaded"]["problem"])
        assert node.installation._pause(now) == 0.5
    without = "the container runtime has loaded the network lab without capture-cni"
    assert problems == [without, without, f"{without}; after 15 s: look into its log"]
    runtime.answer = LoadedNetwork(("bridge", "capture-cni"), "lab", str(node.conf_dir), (f"{node.bin_dir}/",))
    node.installation.run_once(17.0)
    assert node.installation._pause(17.0) == IDLE_INTERVAL
    assert node.health.fact("loaded") == {
        "network": "lab", "plugins": ("bridge", "capture-cni"), "directory": str(node.conf_dir),
    }  # fmt: skip
    assert abs(node.health.fact("loaded_at") - time.time()) < 60
    runtime.answer = LoadedNetwork(("bridge",), "lab", "", ())
    node.installation.run_once(100.0)
    assert node.problems()["loaded"]["problem"] == without, "the wait begins anew"


@pytest.mark.parametrize("node", [{"node": ""}], indirect=True)
def test_without_an_api_server_the_plugin_has_no_credentials(node: Node) -> None:
    node.write()
    node.installation.run_once(0)
    entry = json.loads(node.list.read_text())["plugins"][1]
    assert (entry.keys() & {"kubeconfig", "agent_socket"}, entry["pod_sources"]) == (set(), ["runtime"])
    assert not os.path.exists(node.options.kubeconfig)
    assert node.health.is_ready


def test_credentials_that_are_missing_or_end_are_a_problem(node: Node) -> None:
    node.write()
    token = Path(node.options.service_account, "token")
    token.unlink()
    node.installation.run_once(0)
    assert node.problems()["credentials"]["problem"] == f"{token}: No such file or directory"
    now = time.time()
    for ends, problem in ((60, "the token is about to end: kubelet does not renew it"), (3600, None)):
        claims = base64.urlsafe_b64encode(json.dumps({"iat": now - 3600, "exp": now + ends}).encode()).decode()
        token.write_text(f"head.{claims.rstrip('=')}.signature")
        node.installation.run_once(1)
        assert node.problems().get("credentials", {}).get("problem") == problem
        assert node.health.fact("token_expires") == pytest.approx(now + ends, abs=1)


def test_a_plugin_that_cannot_be_installed_is_told_once(node: Node) -> None:
    node.write()
    Path(node.options.plugin).write_text("#!/bin/sh\nexit 1\n")
    for now in (0, 1):
        node.installation.run_once(now)
    assert "plugin" in node.problems()
    assert node.types() == ["bridge"], "an entry without a plugin stops every pod"
    [(reason, message)] = node.published
    [told] = [line for line in node.log.lines if line["level"] == "error"]
    assert reason == "CaptureNotInstalled"
    assert told["message"] in message
    assert told["remedy"]
    assert node.health.counts()["installs", "failure"] == 2
    Path(node.options.plugin).write_text(PLUGIN)
    node.installation.run_once(2)
    assert (node.types(), node.problems()) == (["bridge", "capture-cni"], {})
    assert node.health.counts()["installs", "success"] == 1


def test_a_file_that_cannot_be_read_is_a_problem_and_no_end(node: Node) -> None:
    node.write()
    node.installation.run_once(0)
    fifo = node.conf_dir / "00-first.conf"
    os.mkfifo(fifo)
    node.installation.run_once(1)
    assert node.problems()["entry"]["problem"].startswith(f"{fifo}: it is not a regular file")
    fifo.unlink()
    node.installation.run_once(2)
    assert (node.types(), node.problems()) == (["bridge", "capture-cni"], {})


def test_in_a_conflict_the_entry_is_put_back_after_its_pause_and_peace_is_told(node: Node) -> None:
    node.write()
    node.installation.run_once(0.0)
    for second in range(6):
        assert "capture-cni" in node.types()
        node.write({"type": "cilium-cni"})
        node.installation.run_once(float(second))
    assert node.installation._pause(5.25) == 0.75
    entries = []
    for now in (5.9, 6.0):
        node.installation.run_once(now)
        entries.append("capture-cni" in node.types())
    assert entries == [False, True]
    assert "entry" in node.problems()
    assert [reason for reason, _ in node.published] == ["CaptureListRewritten"]
    told = "no program has rewritten the network configuration for a minute"
    for now in (65.9, 66.0):
        assert told not in node.log.messages
        node.installation.run_once(now)
    assert (node.log.messages[-1], node.problems()) == (told, {})


@pytest.mark.parametrize("node", [{"runtime_socket": "/run/crio/crio.sock"}], indirect=True)
def test_under_crio_the_entry_is_in_the_list_that_crio_takes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cni.networks.HALF_WRITTEN_TIMEOUT", 0.05)
    node.write()
    (node.conf_dir / "05-broken.conflist").write_text("{")
    node.installation.run_once(0.0)
    assert node.types() == ["bridge", "capture-cni"]
    node.write()
    node.installation.run_once(1.0)
    assert node.types() == ["bridge", "capture-cni"]
    assert "entry" not in node.problems()
