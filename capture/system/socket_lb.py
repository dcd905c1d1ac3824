"""Programs that translate addresses at connect(), before any rule: socket load balancing of Cilium and others.

They are BPF programs attached to cgroups (BPF_CGROUP_INET4_CONNECT in linux/bpf.h). Whether one translates a
destination shows by connecting a UDP socket to it, which sends nothing, and reading where the kernel connected it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from capture.model.addresses import IPV4, IPV6, Family, address_text
from capture.model.packet import Packet
from capture.system.files import content_of

# linux/bpf.h
BPF_PROG_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD, BPF_PROG_QUERY = 13, 15, 16
BPF_CGROUP_CONNECT: dict[Family, int] = {IPV4: 10, IPV6: 11}
BPF_TCX_INGRESS, BPF_TCX_EGRESS = 46, 47
BPF_F_QUERY_EFFECTIVE = 1
ATTRIBUTE_BYTES, INFO_BYTES, NAME_OFFSET, NAME_BYTES = 128, 256, 64, 16
MAX_PROGRAMS = 64
SYSCALLS = {"x86_64": 321, "aarch64": 280, "s390x": 351, "ppc64le": 361, "riscv64": 280}
"""Numbers of bpf(2), by machine."""
OWNERS = {"cil_": "Cilium", "sock4_": "Cilium", "sock6_": "Cilium", "cali_": "Calico", "calico_": "Calico"}
"""Owners of such programs, by how the programs' names begin."""


def connect_programs(family: Family = IPV4) -> tuple[str, ...]:
    """Return the names of programs that see connect() of this process; none where the kernel does not report them."""
    try:
        directory = os.open(_own_cgroup(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return tuple(_program_names(directory, BPF_CGROUP_CONNECT[family], BPF_F_QUERY_EFFECTIVE))
        finally:
            os.close(directory)
    except OSError:
        return ()


def has_programs(interface: int, attach_type: int) -> bool:
    """Return whether programs (BPF_TCX_...) see what passes an interface; False where the kernel reports none."""
    try:
        return any(_program_names(interface, attach_type))
    except OSError:
        return False


def owner_of(names: tuple[str, ...]) -> str:
    """Return whose programs these are, as far as their names show."""
    owners = (owner for name in names for prefix, owner in OWNERS.items() if name.startswith(prefix))
    return next(owners, "another program")


def socket_translation(packet: Packet) -> tuple[str, int] | None:
    """Return to which address and port the destination of a packet leads at connect(), if that is elsewhere."""
    import socket

    target = address_text(packet.family, packet.destination.first), packet.port
    with socket.socket(socket.AF_INET if packet.family == IPV4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(target)
            address, port = probe.getpeername()[:2]
        except OSError:
            return None
    return None if (address, port) == target else (address, port)


def _own_cgroup() -> str:
    """Return the directory of this process's cgroup in the unified hierarchy (cgroups(7))."""
    groups, mounts = (content_of(f"/proc/self/{name}").decode(errors="replace") for name in ("cgroup", "mounts"))
    path = next((line[3:] for line in groups.splitlines() if line.startswith("0::")), "/")
    mount = next((words[1] for words in map(str.split, mounts.splitlines()) if words[2] == "cgroup2"), "/sys/fs/cgroup")
    own = f"{mount}{path}"
    return own if os.path.isdir(own) else mount


def _program_names(target: int, attach_type: int, flags: int = 0) -> Iterator[str]:
    import ctypes
    import struct

    ids = (ctypes.c_uint32 * MAX_PROGRAMS)()
    query = struct.pack("=IIIIQI", target, attach_type, flags, 0, ctypes.addressof(ids), MAX_PROGRAMS)
    answer = _call_bpf(BPF_PROG_QUERY, query)[1]
    (count,) = struct.unpack_from("=I", answer, 24)
    for number in ids[:count]:
        program, _ = _call_bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=I", number))
        try:
            info = ctypes.create_string_buffer(INFO_BYTES)
            _call_bpf(BPF_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program, INFO_BYTES, ctypes.addressof(info)))
        finally:
            os.close(program)
        name = info.raw[NAME_OFFSET : NAME_OFFSET + NAME_BYTES]
        yield name.split(b"\0")[0].decode(errors="replace") or f"program {number}"


def _call_bpf(command: int, attribute: bytes) -> tuple[int, bytes]:
    """Return what bpf(2) returns, and what happened to its argument. Raises OSError."""
    import ctypes

    number = SYSCALLS.get(os.uname().machine)
    if number is None:
        raise OSError(f"bpf(2) on {os.uname().machine} is not known")
    buffer = ctypes.create_string_buffer(attribute, ATTRIBUTE_BYTES)
    library = ctypes.CDLL(None, use_errno=True)
    result = library.syscall(number, command, buffer, ATTRIBUTE_BYTES)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result, buffer.raw
