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


WAYS = {
    "app": (APP, "pass", "proxy"),
    "uid": (["setpriv", "--reuid=1337", "--regid=1000", "--clear-groups"], "pass", "outside"),
    "gid": (["setpriv", "--reuid=1000", "--regid=1337", "--clear-groups"], "pass", "outside"),
    "supplementary group": (["setpriv", "--reuid=1000", "--regid=1000", "--groups=1337"], "pass", "proxy"),
    "SETUID": (capable("setuid"), "os.setuid(1337)", "outside"),
    "SETGID": (capable("setgid"), "os.setgid(1337)", "outside"),
    "root": (["setpriv", "--reuid=0", "--regid=0", "--clear-groups"], "os.setuid(1337)", "outside"),
    "NET_ADMIN": (capable("net_admin"), "os.system('nft flush ruleset')", "outside"),
}


@pytest.mark.parametrize(("before", "first", "answered"), WAYS.values(), ids=WAYS)
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


TRIED = {
    "a container with `runAsUser` of the proxy": "uid",
    "a container with `runAsGroup` of the proxy": "gid",
    "the proxy's group as `fsGroup`": "supplementary group",
    "a set-gid program": "test_a_set_gid_program_gets_round_it_unless_privileges_may_not_grow",
    "the capability `SETUID` or `SETGID`": "SETUID, SETGID, root",
    "the capability `NET_RAW`": "test_frames_past_the_rules_need_net_raw",
    "the capability `NET_ADMIN`": "NET_ADMIN",
    "UDP, ICMP, SCTP": "test_only_tcp_is_captured",
    "`privileged: true`": "",
    "`hostNetwork: true`": "",
    "Kata Containers": "",
    "what settings exclude": "",
    "connections that are older than the rules": "",
}
"""The first words of each row of the page's table, with what tries it here."""


def test_each_documented_escape_is_tried_or_known_not_to_be() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "what-capture-is-not.md").read_text()
    _, _, *rows = [line.removeprefix("| ") for line in page.splitlines() if line.startswith("|")]
    assert [row for row in rows if not row.startswith(tuple(TRIED))] == []
    assert [words for words in TRIED if not any(row.startswith(words) for row in rows)] == []
    named = {name for names in TRIED.values() for name in names.split(", ") if name}
    assert named - {name for name in globals() if name.startswith("test_")} == set(WAYS) - {"app"}
