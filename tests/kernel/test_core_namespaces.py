"""Entering namespaces, distinguishing the host's from a pod's, and the facts of a pod, all as the kernel has them."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from capture.errors import EXIT_FAILED, EXIT_UNSUPPORTED, EXIT_USAGE, HostNamespaceError, NamespaceError, PrivilegeError
from capture.operations import clean
from capture.system import netns as capture_netns
from capture.system.netns import CURRENT, InNamespace, namespace_id, path_of_process, refuse_host
from capture.system.pod_host import PodFromInside
from pytest_netns import Namespace, NamespaceFactory, require

Veth = Callable[[Namespace, Namespace], None]

HERE = "/proc/thread-self/ns/net"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


class TestEntered:
    def test_a_context_enters_and_comes_back(self, netns: NamespaceFactory) -> None:
        pod = netns()
        home = os.readlink(HERE)
        before = open_files()
        with InNamespace(pod.path):
            assert os.readlink(HERE) == f"net:[{pod.inode}]"
        assert os.readlink(HERE) == home
        assert open_files() == before

    def test_contexts_can_be_nested(self, netns: NamespaceFactory) -> None:
        one, two = netns(), netns()
        with InNamespace(one.path):
            with InNamespace(two.path):
                assert os.readlink(HERE) == f"net:[{two.inode}]"
            assert os.readlink(HERE) == f"net:[{one.inode}]"

    def test_back_after_an_error(self, netns: NamespaceFactory) -> None:
        home = os.readlink(HERE)
        with pytest.raises(ZeroDivisionError), InNamespace(netns().path):
            raise ZeroDivisionError
        assert os.readlink(HERE) == home

    def test_without_a_path_the_thread_stays(self) -> None:
        home = os.readlink(HERE)
        with InNamespace(None):
            assert os.readlink(HERE) == home

    def test_other_threads_stay_where_they_are(self, netns: NamespaceFactory) -> None:
        seen: list[str] = []
        home = os.readlink(HERE)
        with InNamespace(netns().path):
            thread = threading.Thread(target=lambda: seen.append(os.readlink(f"/proc/{os.getpid()}/ns/net")))
            inside = threading.Thread(target=lambda: seen.append(os.readlink(HERE)))
            for each in (thread, inside):
                each.start()
                each.join()
            here = os.readlink(HERE)
        assert seen[1] == here, "a thread starts where the one that started it is"
        assert os.readlink(HERE) == home

    def test_a_namespace_is_named_by_its_process(self, netns: NamespaceFactory) -> None:
        pod = netns()
        process = pod.popen(["sleep", "60"])
        with InNamespace(path_of_process(process.pid)):
            assert os.readlink(HERE) == f"net:[{pod.inode}]"

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("/run/netns/no-such-namespace", "does not exist"),
            ("/proc/self/ns/mnt", "is not a network namespace"),
            ("/etc/passwd", "is not a network namespace"),
            ("/etc", "is not a network namespace"),
            ("/etc/passwd/x", "Not a directory"),
            ("/proc/4194305/ns/net", "no process 4194305"),
            ("/proc/4194305/ns/mnt", "does not exist"),
            ("/" + "x" * 5000, "File name too long"),
            ("", "does not exist"),
        ],
    )
    def test_a_path_of_no_namespace_is_refused(self, path: str, reason: str) -> None:
        home, before = os.readlink(HERE), open_files()
        with pytest.raises(NamespaceError, match=reason) as caught, InNamespace(path):
            pass
        assert caught.value.exit_code == EXIT_FAILED
        assert (os.readlink(HERE), open_files()) == (home, before)

    def test_entering_takes_the_capability(self, netns: NamespaceFactory) -> None:
        """A user other than root may open the namespace of its own process, and enter none."""
        path = f"/proc/{os.getpid()}/ns/net"
        program = f"""
import sys; sys.path.insert(0, {os.getcwd()!r})
from capture.errors import PrivilegeError
from capture.system.netns import InNamespace
for path in ("/proc/self/ns/net", {path!r}):
    try:
        with InNamespace(path):
            print("entered")
    except PrivilegeError as error:
        print(error.exit_code, error.message, error.remedy.partition(",")[0], sep="; ")
"""
        answer = netns().run([sys.executable, "-I", "-S", "-c", program], uid=1000, gid=1000, reads_everything=True)
        assert answer.stdout.splitlines() == [
            f"{EXIT_UNSUPPORTED}; not permitted to enter /proc/self/ns/net; Run as root",
            f"{EXIT_UNSUPPORTED}; not permitted to open {path}; Run as root with the capability SYS_PTRACE",
        ]
        assert PrivilegeError.exit_code == EXIT_UNSUPPORTED

    def test_entering_works_in_python_without_setns(
        self, netns: NamespaceFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``os.setns`` came with Python 3.12."""
        monkeypatch.delattr(os, "setns", raising=False)
        pod = netns()
        with InNamespace(pod.path):
            assert os.readlink(CURRENT) == f"net:[{pod.inode}]"
        with pytest.raises(NamespaceError, match="is not a network namespace"), InNamespace("/etc/passwd"):
            pass


class TestHost:
    def test_the_machine_s_own_namespace_is_refused(self) -> None:
        refuse_host(allowed=True)
        require(
            os.path.exists(capture_netns.ONLY_ON_HOST),
            "the tests run in a container, where the kernel does not show that the namespace is the host's",
        )
        with pytest.raises(HostNamespaceError, match="would cut the node off") as caught:
            refuse_host(allowed=False)
        assert caught.value.exit_code == EXIT_USAGE
        assert "--allow-host" in str(caught.value)
        with pytest.raises(HostNamespaceError, match="pass --allow-host to clean it"):
            clean()

    def test_the_namespace_of_the_thread_counts(self, netns: NamespaceFactory) -> None:
        """Not where the process started: from a pod the host's namespace is refused, too."""
        program = """
import sys
from capture.errors import HostNamespaceError
from capture.system.netns import InNamespace, refuse_host
for path in (sys.argv[1], None):
    with InNamespace(path):
        try:
            refuse_host(allowed=False)
            print("pod")
        except HostNamespaceError:
            print("host")
"""
        here = "host" if os.path.exists(capture_netns.ONLY_ON_HOST) else "pod"
        with subprocess.Popen(["sleep", "60"]) as stays_here:
            path = path_of_process(stays_here.pid)
            answer = netns().run([sys.executable, "-c", program, path]).stdout.split()
            stays_here.kill()
        assert answer == [here, "pod"]


class TestIdentity:
    def test_each_its_own_and_always_the_same(self, netns: NamespaceFactory) -> None:
        one, two = netns(), netns()
        assert one.call(namespace_id) == one.call(namespace_id) != two.call(namespace_id)
        assert one.call(namespace_id).startswith(f"{one.inode}-")

    def test_a_kernel_without_cookies_gives_the_inode(
        self, netns: NamespaceFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(capture_netns, "SO_NETNS_COOKIE", 12345)
        pod = netns()
        assert pod.call(namespace_id) == str(pod.inode)


class TestFacts:
    def test_addresses_of_both_families_without_those_on_lo(self, netns: NamespaceFactory, veth: Veth) -> None:
        pod = netns()
        veth(pod, netns())
        pod.ip(
            "link set eth0 up",
            "address add 10.0.0.5/24 dev eth0",
            "address add 10.0.0.6/24 dev eth0",
            "address add fd00::5/64 dev eth0 nodad",
            "address add ::6/128 dev lo",
            "address add 192.0.2.1/32 dev lo",
        )
        found = {str(address) for address in pod.call(PodFromInside({}).pod_addresses)}
        assert {address for address in found if not address.startswith("fe80:")} == {
            "10.0.0.5/32",
            "10.0.0.6/32",
            "fd00::5/128",
        }

    def test_a_pod_without_any(self, netns: NamespaceFactory) -> None:
        assert netns().call(PodFromInside({}).pod_addresses) == ()

    @pytest.mark.parametrize(
        ("ipv4", "ipv6", "primary"),
        [
            ("10.77.0.2/24", "fd77::2/64", "10.77.0.2/32"),
            ("10.77.0.2/24", None, "10.77.0.2/32"),
            (None, "fd77::2/64", "fd77::2/128"),
            ("169.254.172.2/22", "fd77::2/64", "fd77::2/128"),
            ("169.254.172.2/22", None, "None"),
            (None, None, "None"),
        ],
    )
    def test_the_primary_address(
        self, netns: NamespaceFactory, ipv4: str | None, ipv6: str | None, primary: str
    ) -> None:
        pod = netns.pod(ipv4=ipv4, ipv6=ipv6)
        assert str(pod.call(PodFromInside({}).primary_address)) == primary

    def test_the_primary_address_is_of_the_interface_of_the_default_route(
        self, netns: NamespaceFactory, veth: Veth
    ) -> None:
        pod, other = netns.pod(ipv4=None), netns("other")
        veth(other, netns("third"))
        other.ip(f"link set eth0 down name net1 netns {pod.path}")
        pod.ip("link set net1 up", "address add 192.168.7.2/24 dev net1")
        assert str(pod.call(PodFromInside({}).primary_address)) == "fd77::2/128"
        assert pod.call(PodFromInside({}).interface_names) == ("eth0", "net1")

    def test_ipv6_is_there_if_the_kernel_has_it(self, netns: NamespaceFactory) -> None:
        status = subprocess.run(["test", "-e", "/proc/net/if_inet6"], check=False).returncode
        assert netns().call(PodFromInside({}).has_ipv6) is (status == 0)
