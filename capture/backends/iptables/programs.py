"""Finds the programs of iptables, and runs programs in the network namespace of the calling thread.

``subprocess`` costs 13 ms to import, while a pod's start waits for us: posix_spawn(3) and three pipes take its place.
Rules go in on standard input, since a file could be refused by SELinux and left behind by a crash.
"""

from __future__ import annotations

import os

from capture.errors import UnsupportedError
from capture.model.addresses import FAMILIES, IPV4, Family
from capture.model.values import Value
from capture.state.lock import held_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from capture.backends.iptables.tables import Variant

    Purpose = Literal["save", "restore"]

SYSTEM_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Directories for iptables apart from PATH: a container runtime starts plugins with a short one."""

PROGRAM_NAMES: dict[Family, str] = {family: "iptables" if family == IPV4 else "ip6tables" for family in FAMILIES}

PACKAGES: dict[Variant, str] = {
    "nft": "on Fedora and RHEL: iptables-nft",
    "legacy": "on Fedora and RHEL: iptables-legacy; on Alpine: iptables-legacy",
}

PIPE_PIECE = 65536


class Finished(Value):
    """How a program ended: its exit status (128 and the number of the signal that killed it), and its output."""

    status: int
    stdout: str
    stderr: str


def find_iptables(variant: Variant, family: Family, purpose: Purpose) -> str | None:
    """Return the path of the program that saves or restores one family's tables; None if it is not installed.

    That is ``ip6tables-nft-save`` and the like. Some systems have one variant only and call it
    ``ip6tables-save``; then its version shows which it is. ``--version`` touches no table.
    """
    command = PROGRAM_NAMES[family]
    path = find_program(f"{command}-{variant}-{purpose}")
    if path is not None:
        return path
    plain = find_program(f"{command}-{purpose}")
    return plain if plain is not None and variant_of(plain) == variant else None


def variant_of(path: str) -> Variant:
    """Return the variant of a program by the version that it prints; releases before 1.8 name none and are legacy."""
    return "nft" if "(nf_tables)" in run_program([path, "--version"]).stdout else "legacy"


def require_iptables(variant: Variant, family: Family, purpose: Purpose) -> str:
    """Return the path as ``find_iptables`` does. Raise UnsupportedError, naming the package, if it is not installed."""
    path = find_iptables(variant, family, purpose)
    if path is None:
        name = f"{PROGRAM_NAMES[family]}-{variant}-{purpose}"
        raise UnsupportedError(
            f"the program {name} is not installed",
            f"Install the package iptables ({PACKAGES[variant]}), or choose nftables (--backend nftables).",
        )
    return path


def find_program(name: str) -> str | None:
    """Return the path of a program in PATH or in the system's directories, or None."""
    directories = os.environ.get("PATH", "").split(":")
    for directory in dict.fromkeys((*directories, *SYSTEM_DIRECTORIES)):
        path = f"{directory}/{name}"
        if directory and os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    return None


def run_program(command: Sequence[str], stdin: str = "", environment: Mapping[str, str] | None = None) -> Finished:
    """Run a program to its end and return how it ended. Raises OSError if it cannot be started."""
    (its_stdin, to_stdin), (from_stdout, its_stdout), (from_stderr, its_stderr) = _open_pipes(3)
    our_ends = [to_stdin, from_stdout, from_stderr]
    its_ends = [its_stdin, its_stdout, its_stderr]
    actions = [(os.POSIX_SPAWN_DUP2, end, number) for number, end in enumerate(its_ends)]
    # A descriptor onto itself is inherited: the lock is held as long as the program runs.
    actions += [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in held_descriptors()]
    try:
        try:
            process = os.posix_spawn(
                command[0],
                list(command),
                {**os.environ, "LC_ALL": "C", **(environment or {})},
                file_actions=actions,
                setsigdef=[_SIGPIPE],
            )
        finally:
            for end in its_ends:
                os.close(end)
        output, errors = _feed_and_read(our_ends, stdin.encode("utf-8", "surrogateescape"))
    finally:
        for end in our_ends:
            if end >= 0:
                os.close(end)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return Finished(status if status >= 0 else 128 - status, _decoded_output(output), _decoded_output(errors))


def _open_pipes(number: int) -> list[tuple[int, int]]:
    pipes: list[tuple[int, int]] = []
    try:
        while len(pipes) < number:
            pipes.append(os.pipe())
    except OSError:  # for want of descriptors: those of the first pipes are given back
        for end in sum(pipes, ()):
            os.close(end)
        raise
    return pipes


_SIGPIPE = 13  # linux/signal.h; the module ``signal`` costs more than the number


def _feed_and_read(ends: list[int], words: bytes) -> tuple[bytes, bytes]:
    """Feed the first end, read the two others to their end. Closed ends become -1 in ``ends``.

    All at once, because a program that waits for us to read would never read what we have to write.
    """
    import select  # a C extension, here only because most callers of this module just look for programs

    to_stdin, from_stdout, from_stderr = ends
    heard: dict[int, list[bytes]] = {from_stdout: [], from_stderr: []}
    unsent = memoryview(words)
    os.set_blocking(to_stdin, False)
    poll = select.poll()
    poll.register(to_stdin, select.POLLOUT)
    for end in heard:
        poll.register(end, select.POLLIN)

    def close(end: int) -> None:
        poll.unregister(end)
        os.close(end)
        ends[ends.index(end)] = -1

    while any(end >= 0 for end in ends):
        for end, _ in poll.poll():
            if end in heard:
                piece = os.read(end, PIPE_PIECE)
                heard[end].append(piece)
                if not piece:
                    close(end)
                continue
            try:
                unsent = unsent[os.write(end, unsent[:PIPE_PIECE]) :] if unsent else unsent
            except BrokenPipeError:  # it ended early; the reason is on its stderr
                unsent = unsent[:0]
            if not unsent:
                close(end)
    return b"".join(heard[from_stdout]), b"".join(heard[from_stderr])


def _decoded_output(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape")
