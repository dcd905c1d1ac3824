"""The image of the init container, built and run by podman as a real init container of a pod."""

import glob
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import initcontainer
from pytest_netns import Namespace, require
from support.processes.private_mounts import OWN_MOUNTS
from support.runtimes.node import Node
from support.runtimes.podman_pods import Podman, PodmanPod, podman_in
from support.traffic.proxies import listen_as_proxy

ROOT = Path(initcontainer.__file__).parents[1]
ON_NOTHING = "capture.test/istio-init:scratch"
ON_IPTABLES = "capture.test/istio-init:iptables"
BASE = "capture.test/iptables:1"
GATEWAY = ("10.123.20.1", "fd42:123:20::1")
"""The node, as pods of the network "plain" see it."""

# What a sidecar's init container gets in a cluster: upstream's arguments, and nothing that it does not need.
ARGUMENTS = [
    "istio-iptables",
    *("-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"),
    *("-i", "*", "-x", "", "-b", "*", "-d", "15090,15021,15020"),
]
CONFINED = ["--cap-drop", "all", "--security-opt", "no-new-privileges", "--read-only", "--read-only-tmpfs=false"]
CAPABILITIES = ("NET_ADMIN", "NET_RAW")
SEED = ("--env", "CAPTURE_PROFILE=1.8", "--env", "CAPTURE_IP_FAMILIES=both")


@pytest.fixture(scope="module")
def podman(node: Node, bundle: Path) -> Podman:
    """Runs podman in the node, which then has the images."""
    run = podman_in(node)
    context = node.directory / "context"
    shutil.copytree(bundle, node.outside(context), symlinks=True, dirs_exist_ok=True)
    node.write("Dockerfile", (ROOT / "initcontainer/Dockerfile").read_text(encoding="utf-8"))
    write_base(node.outside(node.directory / "base.tar"))
    run("import", "--quiet", str(node.directory / "base.tar"), BASE)
    build(run, node, ON_NOTHING)
    build(run, node, ON_IPTABLES, BASE)
    return run


def build(podman: Podman, node: Node, image: str, base: str = "") -> None:
    """Build the image on a base, or on the Dockerfile's own, which is none; nothing comes from any network."""
    words = ["build", "--quiet", "--pull=never", "--network=none", "--tag", image]
    words += ["--file", str(node.directory / "Dockerfile"), *(("--build-arg", f"BASE={base}") if base else ())]
    podman(*words, str(node.directory / "context"))


def write_base(archive: Path) -> None:
    """Write a root file system with the machine's programs of iptables, and with what these load."""
    programs = [
        f"/usr/sbin/{command}-{variant}-{purpose}"
        for command in ("iptables", "ip6tables")
        for variant in ("nft", "legacy")
        for purpose in ("save", "restore")
    ]
    binaries = {os.path.realpath(program) for program in programs}
    extensions = set(glob.glob("/usr/lib/*/xtables/*.so"))
    listing = subprocess.run(["ldd", *binaries, *extensions], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"(/\S+) \(0x", listing))
    with tarfile.open(archive, "w") as root:
        for path in sorted(binaries | extensions | libraries):
            root.add(os.path.realpath(path), arcname=path)
        for program in programs:
            link = tarfile.TarInfo(program)
            link.type, link.linkname = tarfile.SYMTYPE, os.path.realpath(program)
            root.addfile(link)


class InitPod(PodmanPod):
    """A pod with an init container, that no CNI plugin captures."""

    def __init__(self, node: Node, podman: Podman, name: str) -> None:
        super().__init__(node, podman, name, "plain")

    def add_init(self, *arguments: str, image: str = ON_NOTHING, capabilities: Sequence[str] = CAPABILITIES) -> None:
        """Add the init container, confined as it is in a cluster, in the seed's layout, for both families.

        The image itself has `current` and `mesh`.
        """
        words = ["create", "--pod", self.name, "--init-ctr", "always", "--name", f"{self.name}-init"]
        words += [word for name in capabilities for word in ("--cap-add", name)]
        self.podman(*words, *CONFINED, *SEED, image, *arguments)

    def explicit(self) -> str:
        """Return what the init container has printed."""
        done = self.podman("logs", f"{self.name}-init")
        return done.stdout + done.stderr


@pytest.fixture
def make_pod(node: Node, podman: Podman) -> Iterator[Callable[[str], InitPod]]:
    made: list[InitPod] = []

    def make(name: str) -> InitPod:
        made.append(InitPod(node, podman, f"{name}-{os.getpid()}"))
        return made[-1]

    yield make
    for pod in made:
        pod.remove()


MakePod = Callable[[str], InitPod]


@pytest.fixture(scope="module", autouse=True)
def elsewhere(node: Node) -> Iterator[None]:
    """A host outside of all pods, which answers on the bridges."""
    listener = node.network.listener(("0.0.0.0", 82), ("::", 82), label="elsewhere", protocols=("tcp",))
    yield
    listener.close()


def require_captured(node: Node, pod: InitPod, inside: Namespace) -> None:
    listen_as_proxy(inside)
    for here, gateway in zip(pod.addresses, GATEWAY, strict=True):
        assert inside.client(1000).connect(gateway, 82).label == "outbound"
        assert inside.client(1337).connect(gateway, 82).label == "elsewhere"
        assert node.network.client().connect(here, 8080).label == "inbound"


@pytest.mark.parametrize(
    ("image", "flags", "way"),
    [
        (ON_NOTHING, [], "driver netlink"),
        (ON_NOTHING, ["--native-nftables"], "backend nftables, driver netlink"),
        (ON_IPTABLES, ["--driver", "restore"], "backend iptables-nft, driver restore"),
        (ON_IPTABLES, ["--force-iptables-binary", "legacy"], "backend iptables-legacy, driver restore"),
    ],
    ids=["scratch", "nftables", "iptables-nft", "iptables-legacy"],
)
def test_the_init_container_captures_its_pod(
    node: Node, make_pod: MakePod, image: str, flags: list[str], way: str
) -> None:
    pod = make_pod("captured")
    pod.add_init(*ARGUMENTS, *flags, image=image)
    inside = pod.start()

    require_captured(node, pod, inside)
    explicit = pod.explicit()
    assert "applied: 38 rules for IPv4 and IPv6, " in explicit
    assert way in explicit
    assert "# in sync: live rules match the applied configuration" in explicit
    inspected = json.loads(pod.podman("inspect", f"{pod.name}-init").stdout)[0]
    assert inspected["State"]["ExitCode"] == 0
    assert inspected["EffectiveCaps"] == ["CAP_NET_ADMIN", "CAP_NET_RAW"]
    assert inspected["HostConfig"]["ReadonlyRootfs"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_image_on_a_base_by_debootstrap_has_its_programs(
    node: Node, podman: Podman, bundle: Path, make_pod: MakePod, tmp_path: Path
) -> None:
    """People look into the pod with the programs that the base has."""
    require(shutil.which("debootstrap"), "the program debootstrap is missing")
    root, archive = tmp_path / "root", node.outside(node.directory / "debian.tar")
    install = ["debootstrap", "--variant=minbase", "--include=iptables", "stable", str(root)]
    subprocess.run([*OWN_MOUNTS, *install], check=True, capture_output=True)  # its /proc stays its own
    with tarfile.open(archive, "w") as tar:
        tar.add(root, arcname=".", filter=lambda entry: None if entry.ischr() or entry.isblk() else entry)
    image, base = "capture.test/istio-init:debian", "capture.test/debian:1"
    podman("import", "--quiet", str(node.directory / "debian.tar"), base)
    build(podman, node, image, base)

    pod = make_pod("debian")
    pod.add_init(*ARGUMENTS, "--driver", "restore", image=image)
    require_captured(node, pod, pod.start())

    assert "backend iptables-nft, driver restore" in pod.explicit()
    look = ["run", "--rm", "--pod", pod.name, "--cap-drop", "all", "--cap-add", "NET_ADMIN", "--entrypoint", "iptables"]
    assert "Chain ISTIO-OUTPUT (1 references)" in podman(*look, image, "-t", "nat", "-nvL").stdout


CANNOT_UNDO = """
import socket, subprocess, sys
for command in sys.argv[1:]:
    done = subprocess.run(command.split(), capture_output=True)
    print(done.returncode != 0, end=" ")
try:
    socket.create_connection(("10.123.20.1", 82), 2)
except ConnectionRefusedError:
    print("refused: no process listens on 15001")
"""
ATTEMPTS = [
    "nft flush ruleset",
    "nft delete table inet istio-proxy-nat",
    "iptables-nft -t nat -F",
    "iptables-legacy -t nat -F",
    "ip address delete ::6/128 dev lo",
    "ip link set eth0 down",
]


@pytest.mark.parametrize("user", [1000, 0])
def test_the_app_sees_the_capture_and_cannot_undo_it(node: Node, make_pod: MakePod, user: int) -> None:
    pod = make_pod("confined")
    pod.add_init(*ARGUMENTS)
    inside = pod.start()

    done = pod.run("app", user, ["/usr/bin/python3", "-I", "-S", "-c", CANNOT_UNDO, *ATTEMPTS])

    assert done.stdout.split() == ["True"] * len(ATTEMPTS) + ["refused:", "no", "process", "listens", "on", "15001"]
    require_captured(node, pod, inside)


def test_tproxy_and_dns_and_a_second_run(node: Node, make_pod: MakePod) -> None:
    """The pod is stopped and started: the init container runs again, in a new namespace."""
    pod = make_pod("again")
    pod.add_init("-m", "TPROXY", "--redirect-dns", "--capture-all-dns", "--drop-invalid")
    first = pod.start()
    assert "fwmark 0x539 lookup 133" in first.run(["ip", "rule"]).stdout
    pod.podman("start", "--attach", f"{pod.name}-init")
    assert "unchanged: " in pod.explicit()

    pod.podman("pod", "stop", "--time", "0", pod.name)
    second = pod.start()
    assert first.inode != second.inode
    assert "local default dev lo" in second.run(["ip", "-6", "route", "show", "table", "133"]).stdout


@pytest.mark.parametrize("capabilities", [CAPABILITIES, (*CAPABILITIES, "SETUID", "SETGID")], ids=len)
def test_validation_before_the_app_starts(make_pod: MakePod, capabilities: tuple[str, ...]) -> None:
    """Without the right to become the proxy's user it cannot prove what comes in, and reports that."""
    pod = make_pod("valid")
    pod.add_init(*ARGUMENTS, "--run-validation", capabilities=capabilities)
    pod.start()
    explicit = pod.explicit()
    assert "validated: IPv4 outbound" in explicit
    assert "validated: IPv6 outbound" in explicit
    assert ("not validated: IPv4 inbound: not permitted to act as another user" in explicit) == (
        capabilities == CAPABILITIES
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "http"], "--envoy-port: invalid value 'http': expected a port (1-65535)"),
        (["--no-such-flag"], "unknown flag --no-such-flag"),
        (["--force-iptables-binary", "nft", "--driver", "restore"], "is not installed"),
    ],
    ids=["value", "flag", "driver"],
)
def test_a_pod_whose_init_container_fails_does_not_start(make_pod: MakePod, arguments: list[str], words: str) -> None:
    pod = make_pod("refused")
    pod.add_init(*arguments)
    assert pod.podman("pod", "start", pod.name, check=False).returncode != 0
    assert words in pod.explicit()


def test_a_missing_capability_is_named(make_pod: MakePod) -> None:
    pod = make_pod("powerless")
    pod.add_init(*ARGUMENTS, capabilities=("NET_RAW",))
    assert pod.podman("pod", "start", pod.name, check=False).returncode != 0
    assert "NET_ADMIN" in pod.explicit()
