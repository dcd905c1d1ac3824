"""Addresses that a program of a cgroup translates at connect(), as Cilium does: `capture why` names it."""

import ctypes
import json
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capture import make_settings, operations
from capture.model.addresses import parse_address
from capture.model.packet import Packet
from capture.operations import diagnosis
from capture.system import socket_lb
from pytest_netns import Pod, PodPair, require
from support.processes.our_programs import run_program

CAPTURE = str(Path(sys.executable).with_name("capture"))
SERVICE, ENDPOINT = "203.0.113.9", "203.0.113.50"
# linux/bpf.h
BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_CGROUP_INET4_CONNECT, BPF_F_ALLOW_MULTI = 5, 8, 10, 2
BPF_PROG_TYPE_CGROUP_SOCK_ADDR, USER_IP4 = 18, 4
BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP, BPF_LINK_CREATE, TC_ACT_SHOT, XDP_DROP = 3, 6, 28, 2, 1


def program() -> bytes:
    """Return instructions: if the address is the service's, make it the endpoint's; let it pass."""
    service, endpoint = (struct.unpack("=i", bytes(map(int, address.split("."))))[0] for address in (SERVICE, ENDPOINT))
    steps = (
        (0x61, 2, 1, USER_IP4, 0),  # r2 = context.user_ip4
        (0xB4, 3, 0, 0, service),
        (0x5D, 2, 3, 2, 0),  # two steps further if they differ
        (0xB4, 4, 0, 0, endpoint),
        (0x63, 1, 4, USER_IP4, 0),
        (0xB7, 0, 0, 0, 1),
        (0x95, 0, 0, 0, 0),
    )
    return b"".join(struct.pack("=BBhi", code, to | of << 4, place, value) for code, to, of, place, value in steps)


def loaded(code: bytes, kind: int, attach_type: int = 0) -> int:
    """Return the descriptor of a program with the name of one of Cilium's."""
    instructions = ctypes.create_string_buffer(code)
    of_license = ctypes.create_string_buffer(b"GPL")
    attribute = struct.pack(
        "=IIQQIIQII16sII",
        kind,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(of_license),
        *(0, 0, 0, 0, 0),
        b"cil_sock4_conne",
        0,
        attach_type,
    )
    return socket_lb._call_bpf(BPF_PROG_LOAD, attribute)[0]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Yield a cgroup whose processes have a destination translated."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    root = next((words[1] for words in mounts if words[2] == "cgroup2"), "")
    require(bool(root), "a cgroup2 hierarchy is mounted")
    made = Path(root) / f"capture-{os.getpid()}"
    try:
        made.mkdir()
        descriptor = loaded(program(), BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT)
        directory = os.open(made, os.O_RDONLY)
    except OSError as error:
        require(False, f"programs can be attached to cgroups: {error}")  # the reason comes behind it
        raise
    attribute = struct.pack("=IIII", directory, descriptor, BPF_CGROUP_INET4_CONNECT, BPF_F_ALLOW_MULTI)
    socket_lb._call_bpf(BPF_PROG_ATTACH, attribute)
    yield made
    os.close(descriptor)
    os.close(directory)
    made.rmdir()


def test_a_service_that_is_translated_at_connect(pod_pair: PodPair, cgroup: Path) -> None:
    pod, peer = pod_pair
    peer.own_every_address()
    pod.listener(*[(address, port) for address in ("0.0.0.0", "::") for port in (15001, 15006)], uid=1337)
    run_program(pod, "capture", "apply")

    def why(*connection: str, within: bool = True) -> dict[str, list[dict[str, str]]]:
        enter = f"echo $$ > {cgroup}/cgroup.procs; " if within else ""
        words = " ".join((CAPTURE, "why", *connection, "--format json"))
        found: dict[str, list[dict[str, str]]] = json.loads(
            pod.run(["sh", "-c", f"{enter}exec {words}"], check=False).stdout
        )
        return found

    (cause,) = why("tcp", f"{SERVICE}:80")["causes"]
    assert cause["kind"] == "translated-before"
    assert f"Cilium sends the connection to {ENDPOINT} port 80 at connect()" in cause["says"]
    assert why("tcp", "203.0.113.8:80")["causes"] == []
    assert why("tcp", f"{SERVICE}:80", within=False)["causes"] == []
    (note,) = why()["notes"]
    assert (note["kind"], note["where"]) == ("translated-before", "cil_sock4_conne")
    assert why(within=False)["notes"] == []


def attach_xdp(pod: Pod) -> None:
    pod.route.link("set", index=pod.index_of("eth0"), xdp_fd=loaded(returning(XDP_DROP), BPF_PROG_TYPE_XDP))


def attach_tc(pod: Pod) -> None:
    """As clsact: what leaves by lo."""
    program = loaded(returning(TC_ACT_SHOT), BPF_PROG_TYPE_SCHED_CLS)
    pod.route.tc("add", "clsact", pod.index_of("lo"))
    where = {"parent": 0xFFFF_FFF3, "classid": 1, "direct_action": True}
    pod.route.tc("add-filter", "bpf", pod.index_of("lo"), ":1", fd=program, name="drop", **where)


def attach_tcx(pod: Pod) -> None:
    """The program stays until the link is closed, which is with this process."""
    program = loaded(returning(TC_ACT_SHOT), BPF_PROG_TYPE_SCHED_CLS)
    with pod.entered():
        attribute = struct.pack("=IIII", program, pod.index_of("eth0"), socket_lb.BPF_TCX_EGRESS, 0)
        socket_lb._call_bpf(BPF_LINK_CREATE, attribute)


def redirect(pod: Pod) -> None:
    pod.run(["tc", "qdisc", "add", "dev", "lo", "clsact"])
    match = "match ip dport 15001 0xffff action mirred egress redirect dev eth0"
    pod.run(f"tc filter add dev lo ingress protocol ip u32 {match}".split())


def returning(value: int) -> bytes:
    """Return instructions that return a value for every packet."""
    return struct.pack("=BBhiBBhi", 0xB7, 0, 0, value, 0x95, 0, 0, 0)


@pytest.mark.parametrize(
    ("attach", "words"),
    [
        (attach_xdp, "an XDP program of eth0"),
        (attach_tc, "a tc filter (egress) of lo"),
        (attach_tcx, "a tcx program (egress) of eth0"),
        (redirect, "a tc filter (ingress) of lo"),
    ],
)
def test_a_program_that_sees_packets_where_no_rule_does(
    pod_pair: PodPair, attach: Callable[[Pod], None], words: str
) -> None:
    """It may drop them, and does; a pod with one is not called captured."""
    pod, peer = pod_pair
    peer.own_every_address()
    peer.listener(("0.0.0.0", 80), label="world")
    pod.listener(*[(address, port) for address in ("0.0.0.0", "::") for port in (15001, 15006)], uid=1337)
    operations.apply(make_settings(), pod.path)
    attach(pod)

    with pod.entered():
        found = diagnosis.why(), diagnosis.why(Packet("tcp", parse_address(SERVICE), 80, uid=1000, gid=1000))
    for each in found:
        assert each.verdict == "cannot be told"
        assert [(note.kind, words in note.message) for note in each.notes] == [("unjudged", True)]
    is_over_lo = " lo" in words
    client = pod.client(uid=1000 if is_over_lo else 1337)
    assert client.connect(SERVICE, 80, timeout=0.1).label == ""
