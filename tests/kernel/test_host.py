"""``capture host``: a machine that captures itself stays reachable, and is as before unless that is confirmed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_netns import Pod, PodPair
from support.processes.on_terminal import PATIENCE, Terminal
from support.traffic.proxies import one_proxy

CAPTURE = str(Path(sys.executable).with_name("capture"))
PROMPT = "press Enter within"


@pytest.fixture
def machine(pod_pair: PodPair) -> Pod:
    """Return a namespace with an SSH server on two ports, an application and a proxy; its peer is the outside."""
    machine = pod_pair.pod
    machine.listener(*((address, port) for address in ("0.0.0.0", "::") for port in (22, 2222)), label="sshd")
    machine.listener(("0.0.0.0", 8080), label="application", uid=1000)
    one_proxy(machine)
    return machine


def run(machine: Pod, *arguments: str, ssh: str = "") -> subprocess.CompletedProcess[str]:
    environment = ["env", f"SSH_CONNECTION={ssh}"] if ssh else []
    return machine.run([*environment, CAPTURE, "host", *arguments], check=False)


def answers(pair: PodPair, port: int) -> str:
    """Return which program of the machine a connection from outside reaches."""
    return pair.peer.client().connect(pair.pod.ipv4, port).label


@pytest.mark.parametrize("profile", ["classic", "current"])
def test_everything_but_ssh_reaches_the_proxy(pod_pair: PodPair, machine: Pod, profile: str) -> None:
    done = run(machine, "apply", "--keep", "--profile", profile, ssh="203.0.113.9 50000 198.51.100.1 2222")

    assert done.returncode == 0, done.stderr
    assert [answers(pod_pair, port) for port in (22, 2222, 8080)] == ["sshd", "sshd", "proxy"]
    assert run(machine, "status").returncode == 0
    assert run(machine, "clean").stdout == "removed: nothing is captured any more\n"
    assert answers(pod_pair, 8080) == "application"
    printed = run(machine, "status")
    assert printed.returncode == 4
    assert printed.stdout.startswith("not captured: this machine\n")
    assert printed.stdout.splitlines()[2] == "  Run `capture host apply`."


def test_without_a_proxy_or_a_terminal_nothing_is_captured(pod_pair: PodPair) -> None:
    done = run(pod_pair.pod, "apply", "--keep")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1, "error: nothing listens on port 15001: without its proxy, a captured machine is cut off"
    )  # fmt: skip
    done = run(pod_pair.pod, "apply")
    assert (done.returncode, "--keep captures without a confirmation" in done.stderr) == (2, True)
    assert run(pod_pair.pod, "clean").stdout == "nothing to remove\n"


@pytest.mark.parametrize("loopback", ["127.0.0.1", "::1"])
def test_a_proxy_that_nobody_outside_reaches_captures_nothing(pod_pair: PodPair, loopback: str) -> None:
    """A redirect at PREROUTING leads to the address of the interface, and one at OUTPUT to the loopback address."""
    pod_pair.pod.listener((loopback, 15001), (loopback, 15006), label="proxy", uid=1337)
    done = run(pod_pair.pod, "apply", "--keep")
    assert done.returncode == 1
    assert done.stderr.startswith("error: nothing listens on port 15006 for connections from outside: without its")


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("end", ["Enter", "time", "hangup", "Ctrl-C"])
def test_an_unconfirmed_capture_is_removed(pod_pair: PodPair, machine: Pod, end: str, backend: str) -> None:
    limit = "1" if end == "time" else "60"
    with machine.entered():
        terminal = Terminal([CAPTURE, "host", "apply", "--backend", backend, "--confirm-within", limit], columns=80)
    with terminal:
        terminal.read_until(PROMPT)
        assert answers(pod_pair, 8080) == "proxy"
        if end == "Enter":
            terminal.type("\n")
        elif end == "hangup":
            terminal.process.send_signal(signal.SIGHUP)
        elif end == "Ctrl-C":
            terminal.process.send_signal(signal.SIGINT)
        while terminal.read():
            pass
        code = terminal.process.wait(PATIENCE)

    assert code == (0 if end == "Enter" else 1)
    assert ("the capture was not confirmed, and was removed" in terminal.text) == (end != "Enter")
    assert answers(pod_pair, 8080) == ("proxy" if end == "Enter" else "application")


def test_a_hangup_as_soon_as_the_rules_are_live_removes_them(pod_pair: PodPair, machine: Pod) -> None:
    with machine.entered():
        terminal = Terminal([CAPTURE, "host", "apply", "--backend", "nftables"], columns=80)
    with terminal:
        while "istio-proxy-nat" not in machine.run(["nft", "list", "tables"]).stdout:
            assert terminal.process.poll() is None, terminal.text
        for _ in range(2):  # a shell passes on what its terminal sent already
            terminal.process.send_signal(signal.SIGHUP)
        while terminal.read():
            pass
        assert terminal.process.wait(PATIENCE) == 1

    assert answers(pod_pair, 8080) == "application"
