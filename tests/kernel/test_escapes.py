"""Ways round the capture, each tried, as docs/what-capture-is-not.md describes them."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from capture import operations
from pytest_netns import PodPair
from support.captures.settings import settings

OUTSIDE_PORT = 8080

CONNECT = """
import os, socket, sys
exec(sys.argv[3])
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as connection:
    print(__import__("json").loads(connection.recv(4096))["label"])
"""

APP = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
WITH = [*APP, "--inh-caps=-all,{0}", "--ambient-caps=-all,{0}"]


@pytest.fixture
def captured(pod_pair: PodPair) -> PodPair:
    """A captured pod whose proxy answers, and a peer that answers what gets round it."""
    pod, peer = pod_pair
    pod.listener(("0.0.0.0", 15001), label="proxy", uid=1337)
    peer.listener(("0.0.0.0", OUTSIDE_PORT), label="outside")
    with pod.entered():
        operations.apply(settings())
    return pod_pair


def label(pair: PodPair, before: list[str], first: str = "pass", python: str = "/usr/bin/python3") -> str:
    """Return who answers a connection to the peer, by a program that does something first."""
    command = [*before, python, "-S", "-c", CONNECT, pair.peer.ipv4, str(OUTSIDE_PORT), first]
    return pair.pod.run(command).stdout.strip()


def capable(name: str) -> list[str]:
    return [part.format(f"+{name}") for part in WITH]


@pytest.mark.parametrize(
    ("before", "first", "answered"),
    [
        (APP, "pass", "proxy"),
        (["setpriv", "--reuid=1337", "--regid=1000", "--clear-groups"], "pass", "outside"),
        (["setpriv", "--reuid=1000", "--regid=1337", "--clear-groups"], "pass", "outside"),
        (["setpriv", "--reuid=1000", "--regid=1000", "--groups=1337"], "pass", "proxy"),
        (capable("setuid"), "os.setuid(1337)", "outside"),
        (capable("setgid"), "os.setgid(1337)", "outside"),
        (["setpriv", "--reuid=0", "--regid=0", "--clear-groups"], "os.setuid(1337)", "outside"),
        (capable("net_admin"), "os.system('nft flush ruleset')", "outside"),
    ],
    ids=["app", "uid", "gid", "supplementary group", "SETUID", "SETGID", "root", "NET_ADMIN"],
)
def test_each_way_round_the_capture_is_as_documented(
    captured: PodPair, before: list[str], first: str, answered: str
) -> None:
    assert label(captured, before, first) == answered


def test_a_set_gid_program_gets_round_it_unless_privileges_may_not_grow(
    captured: PodPair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a program in a volume has it, whose group is the pod's fsGroup."""
    folder = tmp_path_factory.mktemp("volume")
    for parent in (folder, *folder.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o011)
    program = Path(shutil.copy(os.path.realpath("/usr/bin/python3"), folder / "python"))
    os.chown(program, 1000, 1337)
    program.chmod(0o2755)

    assert label(captured, APP, python=str(program)) == "outside"
    assert label(captured, [*APP, "--no-new-privs"], python=str(program)) == "proxy"


def test_frames_past_the_rules_need_net_raw(captured: PodPair) -> None:
    pod, peer = captured
    send = (
        "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0));"
        " s.send(bytes.fromhex(sys.argv[1]))"
    )
    frame = "ff" * 6 + "02" * 6 + "88b5" + b"round it".hex()
    with peer.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5)) as heard:
        heard.settimeout(2)
        refused = pod.run([*APP, "/usr/bin/python3", "-c", send, frame], check=False)
        assert "PermissionError" in refused.stderr
        pod.run([*capable("net_raw"), "/usr/bin/python3", "-c", send, frame])
        assert b"round it" in heard.recv(2048)


def test_only_tcp_is_captured(captured: PodPair) -> None:
    pod, peer = captured
    peer.listener(("0.0.0.0", 5353), label="outside", protocols=("udp",))
    assert pod.client(uid=1000).connect(peer.ipv4, 5353, "udp").label == "outside"


def test_the_documented_escapes_are_those_that_are_tried() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "what-capture-is-not.md").read_text()
    for word in ("`SETUID`", "`SETGID`", "`NET_RAW`", "`NET_ADMIN`", "set-gid", "UDP", "`fsGroup`", "`runAsGroup`"):
        assert word in page
