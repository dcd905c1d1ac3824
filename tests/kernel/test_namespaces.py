"""The namespace plugin against the kernel: what it promises is what the kernel does."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_netns import CommandError, Endpoint, Kind, NamespaceFactory, Pod, PodPair
from support.processes.waiting import wait_until

FAMILIES = pytest.mark.parametrize("family", ["ipv4", "ipv6"])
PROTOCOLS = pytest.mark.parametrize("protocol", ["tcp", "udp"])


def address_of(pod: Pod, family: str) -> str:
    return pod.ipv4 if family == "ipv4" else pod.ipv6


def current_namespace() -> int:
    return os.stat("/proc/self/ns/net").st_ino


def nft(pod: Pod, rules: str) -> None:
    pod.run(["nft", "-f", "-"], stdin=textwrap.dedent(rules))


def redirect_output(pod: Pod) -> None:
    """Send what every user but 1337 connects to, in both families, to port 15001."""
    nft(
        pod,
        """
        table inet capture {
            chain output {
                type nat hook output priority -100
                meta skuid 1337 return
                meta l4proto { tcp, udp } redirect to :15001
            }
        }
        """,
    )


class TestNamespace:
    def test_is_empty_but_for_a_loopback_that_is_up(self, netns: NamespaceFactory) -> None:
        links = netns().run(["ip", "-oneline", "link"]).stdout.splitlines()

        assert len(links) == 1
        assert "LOOPBACK,UP" in links[0]

    def test_path_and_inode_name_it_to_other_programs(self, netns: NamespaceFactory) -> None:
        namespace = netns()

        seen = subprocess.run(
            ["nsenter", f"--net={namespace.path}", "readlink", "/proc/self/ns/net"],
            capture_output=True,
            text=True,
            check=True,
        )

        assert seen.stdout.strip() == f"net:[{namespace.inode}]"

    def test_call_runs_a_function_inside_and_comes_back(self, netns: NamespaceFactory) -> None:
        home = current_namespace()
        namespace = netns()

        assert threading.current_thread() is threading.main_thread()
        assert namespace.call(current_namespace) == namespace.inode
        assert current_namespace() == home

    def test_call_comes_back_when_the_function_raises(self, netns: NamespaceFactory) -> None:
        home = current_namespace()

        with pytest.raises(ZeroDivisionError):
            netns().call(lambda: 1 / 0)

        assert current_namespace() == home

    def test_settings_are_its_own(self, netns: NamespaceFactory) -> None:
        one, other = netns(), netns()

        assert one.sysctl("net.ipv4.ip_default_ttl", 42) == "42"
        assert other.sysctl("net.ipv4.ip_default_ttl") == "64"

    def test_ends_when_it_is_closed(self, netns: NamespaceFactory, veth: Callable[..., None]) -> None:
        kept, ended = netns(), netns()
        veth(kept, ended)

        ended.close()

        wait_until(lambda: "eth0" not in kept.run(["ip", "link"]).stdout)


class TestPods:
    @FAMILIES
    @PROTOCOLS
    def test_pods_reach_each_other(self, pod_pair: PodPair, family: str, protocol: str) -> None:
        pod, peer = pod_pair
        peer.listener(("0.0.0.0", 8080), ("::", 8080), label="peer")

        outcome = pod.client().connect(address_of(peer, family), 8080, protocol)

        assert outcome.answer is not None
        assert outcome.label == "peer"
        assert outcome.answer.local == Endpoint(address_of(peer, family), 8080)
        assert outcome.answer.peer.address == address_of(pod, family)

    def test_may_have_one_family(self, pod: Callable[..., Pod]) -> None:
        single = pod(ipv6=None)

        assert single.ipv6 == ""
        assert "default" not in single.ip("route show table main type unicast root ::/0")
        assert single.client().connect("fd77::1", 80).kind is Kind.UNREACHABLE

    def test_choose_their_source_address(self, pod_pair: PodPair) -> None:
        pod, peer = pod_pair
        pod.add_address("10.77.0.9/24")
        peer.listener(("0.0.0.0", 80))

        outcome = pod.client().connect(peer.ipv4, 80, source="10.77.0.9")

        assert outcome.answer is not None
        assert outcome.answer.peer.address == "10.77.0.9"

    @pytest.mark.parametrize("address", ["8.8.8.8", "192.168.255.1", "2001:db8::1"])
    @PROTOCOLS
    def test_one_peer_can_be_the_whole_world(self, pod_pair: PodPair, address: str, protocol: str) -> None:
        pod, peer = pod_pair
        peer.own_every_address()
        peer.listener(("0.0.0.0", 80), ("::", 80), label="world")

        outcome = pod.client().connect(address, 80, protocol)

        assert outcome.answer is not None
        assert outcome.answer.local == Endpoint(address, 80)


class TestOutcomes:
    @FAMILIES
    @PROTOCOLS
    def test_refused_where_no_process_listens(self, pod_pair: PodPair, family: str, protocol: str) -> None:
        assert pod_pair.pod.client().connect(address_of(pod_pair.peer, family), 81, protocol).kind is Kind.REFUSED

    @FAMILIES
    @PROTOCOLS
    def test_timed_out_where_packets_are_dropped(self, pod_pair: PodPair, family: str, protocol: str) -> None:
        nft(
            pod_pair.peer,
            "table inet t { chain i { type filter hook input priority 0; meta l4proto { tcp, udp } drop; }; }\n",
        )

        outcome = pod_pair.pod.client().connect(address_of(pod_pair.peer, family), 81, protocol, timeout=0.2)

        assert outcome.kind is Kind.TIMED_OUT

    @FAMILIES
    def test_unreachable_without_a_route(self, netns: NamespaceFactory, family: str) -> None:
        address = "10.9.9.9" if family == "ipv4" else "fd99::9"

        assert netns().client().connect(address, 80).kind is Kind.UNREACHABLE

    def test_forbidden_where_the_kernel_refuses_to_send(self, pod_pair: PodPair) -> None:
        nft(pod_pair.pod, "table inet t { chain o { type filter hook output priority 0; meta l4proto udp drop; }; }\n")

        assert pod_pair.pod.client().connect(pod_pair.peer.ipv4, 80, "udp").kind is Kind.FORBIDDEN

    def test_silent_where_another_program_listens(self, pod_pair: PodPair) -> None:
        with pod_pair.peer.client().open_socket(socket.AF_INET, socket.SOCK_STREAM) as other:
            other.bind((pod_pair.peer.ipv4, 80))
            other.listen()

            assert pod_pair.pod.client().connect(pod_pair.peer.ipv4, 80, timeout=0.2).kind is Kind.SILENT


class TestUsers:
    """A client's sockets must be to the kernel what those of a real process are."""

    @pytest.mark.parametrize(
        ("uid", "gid", "expected"), [(0, 0, "neither"), (1337, 0, "uid"), (0, 1337, "gid"), (1000, 1000, "neither")]
    )
    @pytest.mark.parametrize("tool", ["nft", "iptables-nft", "iptables-legacy"])
    def test_client_and_process_match_the_same_owner_rules(
        self, pod_pair: PodPair, tool: str, uid: int, gid: int, expected: str
    ) -> None:
        pod, peer = pod_pair
        if tool == "nft":
            nft(
                pod,
                """
                table inet t {
                    chain o {
                        type nat hook output priority -100
                        meta l4proto tcp meta skuid 1337 redirect to :1
                        meta l4proto tcp meta skgid 1337 redirect to :2
                    }
                }
                """,
            )
        else:
            for match, port in ((["--uid-owner", "1337"], "1"), (["--gid-owner", "1337"], "2")):
                rule = ["-A", "OUTPUT", "-p", "tcp", "-m", "owner", *match, "-j", "REDIRECT", "--to-ports", port]
                pod.run([tool, "-w", "-t", "nat", *rule])
        pod.listener(("0.0.0.0", 1), label="uid")
        pod.listener(("0.0.0.0", 2), label="gid")
        peer.listener(("0.0.0.0", 80), label="neither")
        program = f"import socket; print(socket.create_connection(('{peer.ipv4}', 80), 2).recv(999).decode())"

        outcome = pod.client(uid, gid).connect(peer.ipv4, 80)
        process = pod.run(
            ["/usr/bin/env", "python3", "-I", "-S", "-c", program], uid=uid, gid=gid, reads_everything=True
        )

        assert outcome.label == expected
        assert f'"label": "{expected}"' in process.stdout

    def test_the_test_itself_stays_root(self, pod_pair: PodPair) -> None:
        with pod_pair.pod.client(1337).open_socket(socket.AF_INET, socket.SOCK_STREAM):
            status = Path("/proc/thread-self/status").read_text(encoding="ascii")

        (uids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
        assert uids == ["0", "0", "0", "0"]

    def test_a_command_runs_as_the_user_without_further_groups(self, netns: NamespaceFactory) -> None:
        assert netns().run(["id"], uid=1337, gid=1338).stdout.strip() == "uid=1337 gid=1338 groups=1338"

    def test_a_command_has_no_capabilities_unless_it_reads_everything(
        self, netns: NamespaceFactory, tmp_path: Path
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text("for root", encoding="ascii")
        secret.chmod(0o600)
        namespace = netns()

        assert namespace.run(["cat", secret], uid=1000, check=False).returncode != 0
        assert namespace.run(["cat", secret], uid=1000, reads_everything=True).stdout == "for root"
        assert namespace.run(["touch", secret], uid=1000, reads_everything=True, check=False).returncode != 0


class TestListeners:
    @FAMILIES
    @PROTOCOLS
    def test_answer_what_was_redirected_to_them(self, pod_pair: PodPair, family: str, protocol: str) -> None:
        pod, peer = pod_pair
        peer.listener(("0.0.0.0", 80), ("::", 80), label="server")
        pod.listener(("0.0.0.0", 15001), ("::", 15001), label="proxy", uid=1337)
        redirect_output(pod)
        destination = address_of(peer, family)

        captured = pod.client(1000).connect(destination, 80, protocol)
        not_captured = pod.client(1337).connect(destination, 80, protocol)

        assert (captured.label, not_captured.label) == ("proxy", "server")
        assert captured.answer is not None
        assert captured.answer.port == 15001
        if protocol == "tcp":  # SO_ORIGINAL_DST knows TCP only
            assert captured.answer.original == Endpoint(destination, 80)
            assert captured.answer.redirected

    @FAMILIES
    def test_take_connections_from_tproxy(self, pod_pair: PodPair, family: str) -> None:
        pod, peer = pod_pair
        pod.listener(("0.0.0.0", 15006), ("::", 15006), label="proxy", uid=1337, transparent=True)
        nft(
            pod,
            """
            table inet t {
                chain p {
                    type filter hook prerouting priority -150
                    iifname eth0 meta l4proto tcp tproxy to :15006 meta mark set 1337 accept
                }
            }
            """,
        )
        pod.run(["ip", "rule", "add", "fwmark", "1337", "lookup", "133"])
        pod.run(["ip", "-6", "rule", "add", "fwmark", "1337", "lookup", "133"])
        pod.ip("route add local default dev lo table 133", "route add local ::/0 dev lo table 133")

        outcome = peer.client().connect(address_of(pod, family), 80)

        assert outcome.answer is not None
        assert outcome.label == "proxy"
        assert outcome.answer.local == Endpoint(address_of(pod, family), 80)

    def test_give_their_ports_back(self, pod_pair: PodPair) -> None:
        first = pod_pair.peer.listener(("0.0.0.0", 80), label="first")
        first.close()
        pod_pair.peer.listener(("0.0.0.0", 80), label="second")

        assert pod_pair.pod.client().connect(pod_pair.peer.ipv4, 80).label == "second"

    def test_refuse_a_port_that_is_taken(self, pod_pair: PodPair) -> None:
        pod_pair.peer.listener(("0.0.0.0", 80))

        with pytest.raises(OSError, match="Address already in use"):
            pod_pair.peer.listener(("0.0.0.0", 80))

    def test_answer_hundreds_of_connections_in_a_moment(self, pod_pair: PodPair) -> None:
        pod, peer = pod_pair
        peer.listener(("0.0.0.0", 80), ("::", 80), label="server")
        pod.listener(("0.0.0.0", 15001), ("::", 15001), label="proxy", uid=1337)
        redirect_output(pod)
        client = pod.client(1000)
        started = time.monotonic()

        labels = {client.connect(peer.ipv6, 80, protocol).label for protocol in ("tcp", "udp") for _ in range(500)}

        assert labels == {"proxy"}
        assert time.monotonic() - started < 5  # 0.2 s on two idle cores


class TestProcesses:
    def test_are_waited_for_until_they_listen(self, pod_pair: PodPair) -> None:
        pod, peer = pod_pair
        program = "import socket, time; time.sleep(0.1); s = socket.create_server(('', 8080)); time.sleep(60)"
        process = peer.popen([sys.executable, "-I", "-c", program], uid=1000, ports=[8080], reads_everything=True)

        assert process.returncode is None
        assert pod.client().connect(peer.ipv4, 8080, timeout=0.2).kind is Kind.SILENT

    def test_programs_that_end_too_early_are_quoted(self, netns: NamespaceFactory) -> None:
        with pytest.raises(CommandError, match="cannot bind"):
            netns().popen(["sh", "-c", "echo cannot bind; exit 3"], ports=[8080])

    def test_a_process_that_never_listens_is_reported(self, netns: NamespaceFactory) -> None:
        with pytest.raises(TimeoutError, match="tcp port 8080"):
            netns().popen(["sleep", "60"], ports=[8080], timeout=0.1)

    def test_end_with_the_namespace(self, netns: NamespaceFactory) -> None:
        namespace = netns()
        process = namespace.popen(["sleep", "60"])

        namespace.close()

        assert process.returncode == -signal.SIGTERM

    def test_end_even_if_they_ignore_sigterm(self, netns: NamespaceFactory) -> None:
        namespace = netns()
        process = namespace.popen(["sh", "-c", "trap '' TERM; echo ready; sleep 60 & wait; wait"])
        wait_until(lambda: "ready" in process.output())

        process.stop()

        assert process.returncode == -signal.SIGKILL

    def test_end_with_their_children(self, netns: NamespaceFactory) -> None:
        namespace = netns()
        process = namespace.popen(["sh", "-c", "sleep 60 & echo $!; wait"])
        wait_until(lambda: process.output().endswith("\n"))
        child = int(process.output())
        assert is_running(child)

        namespace.close()

        wait_until(lambda: not is_running(child))

    def test_survive_the_thread_that_started_them(self, netns: NamespaceFactory) -> None:
        namespace = netns()
        started: list[int] = []
        thread = threading.Thread(target=lambda: started.append(namespace.popen(["sleep", "60"]).pid))
        thread.start()
        thread.join()

        time.sleep(0.05)

        assert is_running(started[0])


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


KILLED_TEST = """
    import os, pathlib, time

    def test_a_process_that_never_ends_is_killed(netns):
        pod, peer = netns.pod_pair()
        peer.listener(("0.0.0.0", 80))
        process = pod.popen(["sleep", "600"], uid=1337)
        pod.ip("link add left-behind type veth peer name from-killed netns " + os.environ["OUTSIDE"])
        pathlib.Path(os.environ["REPORT"]).write_text(f"{os.getpid()} {process.pid}")
        time.sleep(600)
"""


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_killed_pytest_leaves_nothing_behind(netns: NamespaceFactory, tmp_path: Path, workers: str) -> None:
    """One end of a veth pair is in the killed test's namespace: it goes when that namespace goes.

    With a worker of pytest-xdist it is the controller that is killed, and the worker follows.
    """
    outside = netns("outside")
    report = tmp_path / "report"
    (tmp_path / "test_killed.py").write_text(textwrap.dedent(KILLED_TEST), encoding="utf-8")
    pytest_process = outside.popen(
        [sys.executable, "-m", "pytest", "-p", "pytest_netns.fixtures", "-n", workers, "--rootdir", tmp_path, tmp_path],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "OUTSIDE": outside.path,
            "REPORT": str(report),
        },
    )
    wait_until(lambda: report.exists() and report.read_text().count(" ") == 1, seconds=30)
    worker, sleeper = map(int, report.read_text().split())
    assert is_running(worker)
    assert is_running(sleeper)
    assert "from-killed" in outside.run(["ip", "link"]).stdout

    os.kill(pytest_process.pid, signal.SIGKILL)

    wait_until(lambda: not is_running(worker), seconds=30)  # execnet gives a worker five seconds to end by itself
    wait_until(lambda: not is_running(sleeper))
    wait_until(lambda: "from-killed" not in outside.run(["ip", "link"]).stdout)


@pytest.fixture(scope="module")
def shared(module_pod_pair: PodPair, module_netns: NamespaceFactory, module_pod: Callable[..., Pod]) -> PodPair:
    """The set-up of one module, with the fixtures of module scope."""
    module_pod_pair.peer.listener(("0.0.0.0", 80), label="of the module")
    assert module_pod("web").ipv4
    assert module_netns().inode
    return module_pod_pair


@pytest.mark.parametrize("occasion", ["first", "second"])
def test_fixtures_of_a_module_outlive_a_test(shared: PodPair, pod_pair: PodPair, occasion: str) -> None:
    assert shared.pod.client().connect(shared.peer.ipv4, 80).label == "of the module"
    assert pod_pair.pod.client().connect(pod_pair.peer.ipv4, 80).kind is Kind.REFUSED
