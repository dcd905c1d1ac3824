"""Which namespace a command is about, and what it says where it cannot enter one."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_netns import NamespaceFactory
from support.captures.commands import PROGRAMS
from support.processes.our_programs import run_program as run


@pytest.fixture
def named(netns: NamespaceFactory) -> Iterator[None]:
    """A namespace that has a name: where tests run in a container, this is what shows that it is a node."""
    name = Path("/run/netns/pod")
    name.touch()
    subprocess.run(["mount", "--bind", netns().path, name], check=True)
    yield
    subprocess.run(["umount", name], check=True)
    name.unlink()


def test_the_host_is_refused(named: None) -> None:
    """The only test that runs in the host's own namespace; it must not get as far as writing."""
    for program in (["istio-init"], ["capture", "apply"], ["capture", "clean"], ["istio-init", "--cleanup-only"]):
        done = subprocess.run([PROGRAMS / program[0], *program[1:]], capture_output=True, text=True, check=False)

        assert done.returncode == 2
        assert re.match("error: refused: this network namespace is (the host's own|that of a node, )", done.stderr)
        assert "--allow-host" in done.stderr


def test_a_namespace_that_is_not_there(netns: NamespaceFactory) -> None:
    namespace = netns()
    for target in (["--netns", "/run/netns/no-such"], ["--netns", "/etc/hostname"], ["--pid", "4194304"]):
        done = run(namespace, "capture", "dump", *target, code=1)

        assert done.stderr.startswith("error: network namespace ")
        assert "lsns" in done.stderr
    for command in (("why", "--pid"), ("trace", "tcp", "10.1.2.3:80", "--as-pid")):
        done = run(namespace, "capture", *command, "4194304", code=1)
        assert done.stderr.startswith(f"error: network namespace of {command[-1]} 4194304: no such process")


def test_commands_without_privilege_name_the_capability(netns: NamespaceFactory) -> None:
    namespace = netns()
    run(namespace, "istio-init")
    names = ("apply", "dump", "doctor", "verify", "clean")
    for program in (["istio-init"], ["istio-init", "--cleanup-only"], *(["capture", name] for name in names)):
        done = namespace.run([PROGRAMS / program[0], *program[1:]], uid=1000, check=False, reads_everything=True)

        assert done.returncode == 3, (program, done.stdout, done.stderr)
        assert "NET_ADMIN" in done.stdout + done.stderr
        assert "will be cut" not in done.stderr
        assert "Traceback" not in done.stderr


def test_another_namespace_by_path_and_by_process(netns: NamespaceFactory) -> None:
    here, there = netns("here"), netns("there")
    process = there.popen(["sleep", "60"])

    run(here, "capture", "apply", "--pid", str(process.pid))

    assert "no rules of the capture" in run(here, "capture", "dump").stderr
    assert "ISTIO-OUTPUT" in run(there, "capture", "dump").stdout
    assert "ISTIO-OUTPUT" in run(here, "capture", "dump", "--netns", f"/proc/{process.pid}/ns/net").stdout
    run(here, "capture", "clean", "--netns", f"/proc/{process.pid}/ns/net")
    assert "no rules of the capture" in run(there, "capture", "dump").stderr
