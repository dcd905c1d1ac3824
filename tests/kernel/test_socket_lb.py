"""Addresses that a program of a cgroup translates at connect(), as Cilium does: `capture why` names it."""

import ctypes
import json
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from capture.state import socket_lb
from pytest_netns import PodPair, require
from support.processes.our_programs import run_program

CAPTURE = str(Path(sys.executable).with_name("capture"))
SERVICE, ENDPOINT = "203.0.113.9", "203.0.113.50"
# linux/bpf.h
BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_CGROUP_INET4_CONNECT, BPF_F_ALLOW_MULTI = 5, 8, 10, 2
BPF_PROG_TYPE_CGROUP_SOCK_ADDR, USER_IP4 = 18, 4


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


def loaded() -> int:
    """Return the descriptor of a program with the name of one of Cilium's."""
    code = ctypes.create_string_buffer(program())
    of_license = ctypes.create_string_buffer(b"GPL")
    attribute = struct.pack(
        "=IIQQIIQII16sII",
        BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        len(program()) // 8,
        ctypes.addressof(code),
        ctypes.addressof(of_license),
        *(0, 0, 0, 0, 0),
        b"cil_sock4_conne",
        0,
        BPF_CGROUP_INET4_CONNECT,
    )
    return socket_lb._bpf(BPF_PROG_LOAD, attribute)[0]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Yield a cgroup whose processes have a destination translated."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    root = next((words[1] for words in mounts if words[2] == "cgroup2"), "")
    require(bool(root), "a cgroup2 hierarchy is mounted")
    made = Path(root) / f"capture-{os.getpid()}"
    try:
        made.mkdir()
        descriptor, directory = loaded(), os.open(made, os.O_RDONLY)
    except OSError as error:
        require(False, f"programs can be attached to cgroups: {error}")  # the reason comes behind it
        raise
    attribute = struct.pack("=IIII", directory, descriptor, BPF_CGROUP_INET4_CONNECT, BPF_F_ALLOW_MULTI)
    socket_lb._bpf(BPF_PROG_ATTACH, attribute)
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
