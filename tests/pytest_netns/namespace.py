"""Network namespaces, and pods: namespaces with an ``eth0`` of both families."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import ipaddress
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ParamSpec, Self, TypeVar

from pyroute2 import IPRoute

from pytest_netns.client import Client
from pytest_netns.kernel import has_listener, in_namespace, open_new, open_new_of
from pytest_netns.listener import Listener
from pytest_netns.process import CommandError, Process, command_line

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

IFA_F_NODAD = 0x02  # linux/if_addr.h


class Namespace:
    """A network namespace with ``lo`` up, and what a test started in it.

    With ``first_user`` it belongs to a user namespace of its own, whose 0 is that user here.
    """

    def __init__(self, name: str = "netns", *, first_user: int = 0) -> None:
        self.name = name
        self._open: list[Process | Listener] = []
        self.descriptor = open_new_of(first_user) if first_user else open_new()
        # No duplicate address detection: an address is usable at once.
        self.sysctl("net.ipv6.conf.default.accept_dad", "0")
        self.set_up("lo")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.path}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what was started here, last first, and give the namespace up."""
        started_processes = any(isinstance(one, Process) for one in self._open)
        while self._open:
            self._open.pop().close()
        if started_processes:
            self._kill_the_rest()
        if "route" in self.__dict__:
            self.route.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _kill_the_rest(self) -> None:
        """Kill what background processes left behind: it would keep the namespace."""
        name = f"net:[{self.inode}]"
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
            # It has ended meanwhile; or it has capabilities that we lack, and so is not our own.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if pid != os.getpid() and os.readlink(f"/proc/{pid}/ns/net") == name:
                    os.kill(pid, signal.SIGKILL)

    @property
    def path(self) -> str:
        """A path that names the namespace, as ``nsenter --net=`` and ``CNI_NETNS`` take one."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @property
    def inode(self) -> int:
        """The number that identifies the namespace, as in ``net:[4026531840]``."""
        return os.fstat(self.descriptor).st_ino

    # -- doing something in it

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace for the length of a block."""
        with in_namespace(self.descriptor):
            yield

    def call(
        self, function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Call a function of this process with the calling thread in the namespace; return its result."""
        with self.entered():
            return function(*args, **kwargs)

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        uid: int | None = None,
        gid: int | None = None,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        timeout: float = 20.0,
        check: bool = True,
        reads_everything: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace, as the user, and return what it printed.

        Without ``uid`` it runs as root; ``gid`` is the uid's number unless given; the
        supplementary groups are cleared. ``reads_everything`` lets a user read what only root
        may (CAP_DAC_READ_SEARCH), which a program needs that lies in a private checkout. Raises
        ``CommandError`` for an exit status other than 0 (unless ``check`` is off) and
        ``subprocess.TimeoutExpired`` after ``timeout`` seconds.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        words = command_line(command, uid, gid, reads_everything=reads_everything)
        with self.entered():
            done = subprocess.run(
                words, input=stdin, capture_output=True, text=True, timeout=timeout, env=env, cwd=cwd, check=False
            )
        if check and done.returncode != 0:
            raise CommandError(done.returncode, [os.fspath(word) for word in command], done.stdout, done.stderr)
        return done

    def popen(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        uid: int | None = None,
        gid: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        ports: Iterable[int] = (),
        timeout: float = 10.0,
        reads_everything: bool = False,
    ) -> Process:
        """Start a command in the background and return when it listens on the given TCP ports.

        Users as for ``run``. It is stopped with the namespace, and killed when pytest is.
        """
        words = command_line(command, uid, gid, reads_everything=reads_everything)
        process = Process(self, command, words, env=env, cwd=cwd)
        self._open.append(process)
        for port in ports:
            process.wait_for_port(port, timeout=timeout)
        return process

    def client(self, uid: int = 0, gid: int | None = None) -> Client:
        """Return a user of this namespace who connects; ``gid`` is the uid's number unless given."""
        return Client(self, uid, uid if gid is None else gid)

    def listener(
        self,
        *endpoints: tuple[str, int],
        label: str = "",
        protocols: Sequence[str] = ("tcp", "udp"),
        uid: int = 0,
        gid: int | None = None,
        transparent: bool = False,
    ) -> Listener:
        """Answer on (address, port) pairs until the namespace ends; "0.0.0.0" and "::" mean every address.

        The label distinguishes listeners in ``Outcome.label`` (by default, the namespace's name).
        ``transparent`` takes connections that TPROXY sends.
        """
        listener = Listener(
            self,
            endpoints,
            label=label or self.name,
            protocols=protocols,
            uid=uid,
            gid=uid if gid is None else gid,
            transparent=transparent,
        )
        self._open.append(listener)
        return listener

    # -- links, addresses, settings

    @functools.cached_property
    def route(self) -> IPRoute:
        """rtnetlink(7) in this namespace, by pyroute2: ``namespace.route.get_links()``."""
        with self.entered():
            return IPRoute()

    def index_of(self, interface: str) -> int:
        """Return the number of an interface."""
        with self.entered():
            return socket.if_nametoindex(interface)

    def set_up(self, interface: str) -> None:
        """Set an interface up."""
        self.route.link("set", index=self.index_of(interface), state="up")

    def ip(self, *lines: str) -> str:
        """Run lines of ``ip -batch`` in one process: ``ip("link set eth0 up", "route show table all")``.

        The first line that fails raises ``CommandError``.
        """
        return self.run(["ip", "-batch", "-"], stdin="\n".join(lines) + "\n").stdout

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Set a ``net.`` setting of the namespace if a value is given; return what it is now."""
        path = f"/proc/sys/{name.replace('.', '/')}"
        with self.entered():
            if value is not None:
                with open(path, "w", encoding="ascii") as setting:
                    setting.write(str(value))
            with open(path, encoding="ascii") as setting:
                return setting.read().strip()

    def add_address(self, address: str, interface: str = "eth0") -> None:
        """Add an address with its prefix length, such as ``10.1.2.3/24``; IPv6 is usable at once."""
        host, _, prefix = address.partition("/")
        flags = IFA_F_NODAD if ":" in host else 0
        self.route.addr("add", index=self.index_of(interface), address=host, prefixlen=int(prefix), flags=flags)

    def own_every_address(self) -> None:
        """Take every address that is not routed elsewhere for this namespace's own.

        So one listener answers for the whole outside world. Replaces the default routes.
        """
        self.ip("route replace local 0.0.0.0/0 dev lo table main", "route replace local ::/0 dev lo table main")

    def wait_for_port(
        self,
        port: int,
        protocol: str = "tcp",
        family: int | None = None,
        timeout: float = 10.0,
        *,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Return when a process listens on the port (in the family, if one is given).

        Asks the kernel and connects to nothing, so that no proxy sees a stray connection.
        ``alive`` is called while waiting and may raise. Raises TimeoutError.
        """
        give_up = time.monotonic() + timeout
        while not self._is_open(port, protocol, family):
            alive()
            if time.monotonic() > give_up:
                raise TimeoutError(f"no process listens on {protocol} port {port} in {self.name} after {timeout} s")
            time.sleep(0.005)

    def _is_open(self, port: int, protocol: str, family: int | None) -> bool:
        families = (socket.AF_INET, socket.AF_INET6) if family is None else (family,)
        with self.entered():
            return any(has_listener(each, protocol, port) for each in families)


class Pod(Namespace):
    """A namespace like a pod's: ``eth0`` with an address of each family, and default routes."""

    interface = "eth0"

    def __init__(self, name: str, ipv4: str | None, ipv6: str | None, *, first_user: int = 0) -> None:
        super().__init__(name, first_user=first_user)
        self.addresses = tuple(address for address in (ipv4, ipv6) if address)
        self.ipv4 = ipv4.partition("/")[0] if ipv4 else ""
        self.ipv6 = ipv6.partition("/")[0] if ipv6 else ""
        # Container runtimes let every user of a pod listen on low ports.
        self.sysctl("net.ipv4.ip_unprivileged_port_start", 0)

    def wait_for_own_route(self, timeout: float = 5.0) -> None:
        """Return when the IPv6 address has its local route, which the kernel adds a moment later (addrconf_dad_work).

        Raises TimeoutError.
        """
        give_up = time.monotonic() + timeout
        while self.ipv6 and not self._has_own_route():
            if time.monotonic() > give_up:
                raise TimeoutError(f"no local route to {self.ipv6} in {self.name} after {timeout} s")
            time.sleep(0.001)

    def _has_own_route(self) -> bool:
        destination = f"{socket.inet_pton(socket.AF_INET6, self.ipv6).hex()} 80 "
        with self.entered(), open("/proc/thread-self/net/ipv6_route", encoding="ascii") as routes:
            return any(line.startswith(destination) for line in routes)

    def route_through(self, gateway: Pod) -> None:
        """Make the other pod the default route of every family both have."""
        for own, other in ((self.ipv4, gateway.ipv4), (self.ipv6, gateway.ipv6)):
            if own and other:
                self.route.route("add", dst="default", gateway=other)


@dataclasses.dataclass(frozen=True, slots=True)
class PodPair:
    """Two pods, ``eth0`` to ``eth0``, each the other's default route."""

    pod: Pod
    peer: Pod

    def __iter__(self) -> Iterator[Pod]:
        return iter((self.pod, self.peer))


def make_veth(left: Namespace, right: Namespace, left_name: str = "eth0", right_name: str = "eth0") -> None:
    """Join two namespaces by a veth pair and set both ends up."""
    peer = {"ifname": right_name, "net_ns_fd": right.descriptor}
    left.route.link("add", ifname=left_name, kind="veth", peer=peer)
    for end, name in ((left, left_name), (right, right_name)):
        # A lost question for a neighbour is sent again while a client waits for its one datagram (1 s).
        for family in ("ipv4", "ipv6"):
            end.sysctl(f"net.{family}.neigh.{name}.retrans_time_ms", 400)
        end.set_up(name)


def gateway_of(address: str | None) -> str | None:
    """Return the first other address of a network, with its prefix length: the gateway's."""
    if address is None:
        return None
    interface = ipaddress.ip_interface(address)
    gateway = next(host for host in interface.network.hosts() if host != interface.ip)
    return f"{gateway}/{interface.network.prefixlen}"


class NamespaceFactory:
    """Makes namespaces and ends them all when it is closed; a context manager, and what ``netns`` is."""

    def __init__(self) -> None:
        self._made = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, name: str = "netns", *, first_user: int = 0) -> Namespace:
        """Return a new namespace; the name is for messages and need not be unique."""
        return self._made.enter_context(Namespace(name, first_user=first_user))

    def pod(self, name: str = "pod", *, ipv4: str | None = "10.77.0.2/24", ipv6: str | None = "fd77::2/64") -> Pod:
        """Return a pod whose ``eth0`` leads to a gateway of its own; ``None`` leaves a family out."""
        return self.pod_pair(name, ipv4=(ipv4, gateway_of(ipv4)), ipv6=(ipv6, gateway_of(ipv6))).pod

    def pod_pair(
        self,
        name: str = "pod",
        *,
        ipv4: tuple[str | None, str | None] = ("10.77.0.2/24", "10.77.0.3/24"),
        ipv6: tuple[str | None, str | None] = ("fd77::2/64", "fd77::3/64"),
        first_user: int = 0,
    ) -> PodPair:
        """Return two pods that reach each other, with the addresses given for the first and the second.

        With ``first_user`` the first is like one with ``hostUsers: false``, whose root is that user here.
        """
        pod = self._made.enter_context(Pod(name, ipv4[0], ipv6[0], first_user=first_user))
        peer = self._made.enter_context(Pod(f"{name}-peer", ipv4[1], ipv6[1]))
        make_veth(pod, peer)
        for one in (pod, peer):
            for address in one.addresses:
                one.add_address(address)
        pod.route_through(peer)
        peer.route_through(pod)
        pod.wait_for_own_route()
        peer.wait_for_own_route()
        return PodPair(pod, peer)

    def close(self) -> None:
        """End every namespace made here, last first."""
        self._made.close()
