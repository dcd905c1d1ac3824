"""Network namespaces for tests: made in a millisecond, gone with the test, gone too when pytest is killed.

A namespace is held by an open file descriptor of the pytest process and by nothing else: no name
under /run/netns, no holder process. When the test ends, or pytest dies in whatever way, the
descriptor closes and the kernel takes the namespace, its links and its rules away. Processes that
a test started get SIGKILL when pytest dies (``PR_SET_PDEATHSIG``). Their children end with the test,
but outlive a killed pytest; a program that starts daemons belongs into a PID namespace, which ends as
one: ``popen(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--", ...])``.

Needs Linux, root, pytest, iproute2 (``ip``) and util-linux (``setpriv``, for processes).

Fixtures (each also as ``module_netns``, ``module_veth``, ``module_pod``, ``module_pod_pair``)::

    netns      NamespaceFactory   netns(name="netns") -> Namespace                 lo is up
    veth       function           veth(left, right, left_name="eth0", right_name="eth0") -> None
    pod        function           pod(name="pod", *, ipv4="10.77.0.2/24", ipv6="fd77::2/64") -> Pod
    pod_pair   PodPair            pod_pair.pod and pod_pair.peer, eth0 to eth0, each the other's default route

    Namespace
      .path, .inode                                  /proc/PID/fd/N for tools that take a path; N of net:[N]
      .run(command, *, uid=None, gid=None, stdin="", env=None, cwd=None, timeout=20, check=True, reads_everything=False)
            -> subprocess.CompletedProcess[str]
      .popen(command, *, uid=None, gid=None, env=None, cwd=None, ports=(), timeout=10, reads_everything=False)
            -> Process
      .call(function, *args, **kwargs) -> result     the function runs in this process, in the namespace
      .entered()                                     the same as a context manager
      .client(uid=0, gid=None) -> Client
      .listener(*endpoints, label="", protocols=("tcp", "udp"), uid=0, gid=None, transparent=False) -> Listener
      .ip(*lines), .sysctl(name, value=None), .add_address(address, interface="eth0")
      .own_every_address(), .wait_for_port(port, protocol="tcp", family=None, timeout=10)
    Pod(Namespace)  .ipv4, .ipv6 (without prefix length; "" where it has none), .interface
    Client          .connect(address, port, protocol="tcp", *, source="", timeout=1) -> Outcome
                    .open_socket(family, kind) -> socket.socket
    Process         .pid, .output(), .returncode, .wait_for_port(port, ...), .wait(timeout=10), .stop()
    Outcome         .kind (Kind.ANSWERED, REFUSED, TIMED_OUT, ...), .answer (Answer or None), .label
    Answer          .label, .port, .local, .original, .peer (Endpoint: address, port), .redirected

A whole test::

    def test_redirect(pod_pair):
        pod, peer = pod_pair
        peer.listener(("0.0.0.0", 80), label="server")
        pod.listener(("0.0.0.0", 15001), label="proxy", uid=1337)
        pod.run(["nft", "-f", "-"], stdin=RULES)

        outcome = pod.client(uid=1000).connect(peer.ipv4, 80)

        assert outcome.label == "proxy"
        assert outcome.answer.original == Endpoint(peer.ipv4, 80)

A connection by ``Client`` takes a fraction of a millisecond, for two facts about Linux. A socket
belongs for ever to the namespace and to the user of the thread that opened it, whoever uses it
later. And that user, the one which ``-m owner`` and ``meta skuid`` compare, is the thread's
filesystem uid (``file->f_cred->fsuid`` in net/netfilter/xt_owner.c and nft_meta.c), which
setfsuid(2) sets for one thread. So sockets are opened with three system calls in this process,
and no helper process is needed. ``run(uid=...)`` and ``popen(uid=...)`` start real processes.

Two traps. A thread that is not the process's first sees the first one's namespace in /proc/net and
/proc/self/ns; ``call`` runs in the calling thread, which in pytest is the first. /sys/class/net
shows the namespace in which /sys was mounted.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import enum
import errno
import fcntl
import ipaddress
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Self, TypeVar

import pytest

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

CLONE_NEWNET = 0x40000000  # linux/sched.h
SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and linux/netfilter_ipv6/ip6_tables.h
SOL_IPV6 = 41
IP_TRANSPARENT = 19  # linux/in.h
IPV6_TRANSPARENT = 75  # linux/in6.h
IPV6_FREEBIND = 78  # linux/in6.h
IP_RECVORIGDSTADDR = 20  # linux/in.h; the ancillary message has the same type
IPV6_RECVORIGDSTADDR = 74  # linux/in6.h; likewise
IP_PKTINFO = 8  # linux/in.h; the ancillary message has the same type
TCP_LISTEN = "0A"  # include/net/tcp_states.h, as /proc/net/tcp prints it
UDP_BOUND = "07"  # TCP_CLOSE, which is what an unconnected UDP socket shows

_libc = ctypes.CDLL(None, use_errno=True)


def require(condition: object, reason: str) -> None:
    """Go on if the condition holds. Otherwise skip the test, or, where ``CI`` is set, fail it.

    A layer of tests that cannot run must not look like one that passed.
    """
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"cannot run here, and with CI set that is a failure: {reason}", pytrace=False)
    pytest.skip(reason)  # a developer's machine may lack what the layer needs; CI never skips


# ---------------------------------------------------------------------------------------------
# Threads, namespaces and users
# ---------------------------------------------------------------------------------------------


def _checked(status: int, doing: str) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{doing}: {os.strerror(code)}")


def _open_current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _in_namespace(descriptor: int) -> Iterator[None]:
    """Put the calling thread into a namespace for the length of a block."""
    home = _open_current()
    try:
        _checked(_libc.setns(descriptor, CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), "setns back")
    finally:
        os.close(home)


def _set_filesystem_user(uid: int, gid: int) -> None:
    """Make the calling thread open files and sockets as this user. setfsuid(2) reports no errors."""
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    # An invalid id changes nothing and returns the one that is in force.
    if _libc.setfsuid(-1) != uid or _libc.setfsgid(-1) != gid:
        raise PermissionError(f"cannot open sockets as uid {uid} and gid {gid}")


@contextlib.contextmanager
def _as_user(uid: int, gid: int) -> Iterator[None]:
    try:
        _set_filesystem_user(uid, gid)
        yield
    finally:
        _set_filesystem_user(os.geteuid(), os.getegid())


# ---------------------------------------------------------------------------------------------
# Values
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a listener said about a connection that reached it."""

    label: str
    """Which listener it was."""
    port: int
    """The port on which it listens."""
    local: Endpoint
    """The destination as the listener saw it: after NAT; the original one under TPROXY."""
    original: Endpoint | None
    """What SO_ORIGINAL_DST said: the destination before NAT. None for UDP, and where nothing tracked the connection."""
    peer: Endpoint
    """The source as the listener saw it."""

    @property
    def redirected(self) -> bool:
        """Whether the destination was changed on the way."""
        return self.original is not None and self.original != self.local

    @classmethod
    def decode(cls, text: bytes) -> Answer:
        """Return the answer in what a listener sent; the inverse of ``encode``."""
        explicit = json.loads(text)
        return cls(
            label=explicit["label"],
            port=explicit["port"],
            local=Endpoint(*explicit["local"]),
            original=Endpoint(*explicit["original"]) if explicit["original"] else None,
            peer=Endpoint(*explicit["peer"]),
        )

    def encode(self) -> bytes:
        """Return the answer as a listener sends it."""

        def pair(endpoint: Endpoint | None) -> list[object] | None:
            return [endpoint.address, endpoint.port] if endpoint else None

        fields = {
            "label": self.label,
            "port": self.port,
            "local": pair(self.local),
            "original": pair(self.original),
            "peer": pair(self.peer),
        }
        return json.dumps(fields).encode()


class Kind(enum.StrEnum):
    """How an attempt to connect ended."""

    ANSWERED = "answered"
    """A listener of ours answered."""
    SILENT = "silent"
    """TCP: connected, but nothing of ours answered: another program listens there."""
    REFUSED = "refused"
    """Nobody listens: a reset or an ICMP port unreachable."""
    RESET = "reset"
    """Connected, then reset."""
    TIMED_OUT = "timed out"
    """Nothing came back; so it looks when packets are dropped."""
    UNREACHABLE = "unreachable"
    """No route, or an ICMP host unreachable."""
    FORBIDDEN = "forbidden"
    """The kernel refused to send (EPERM, EACCES)."""


_KINDS = {
    errno.ECONNREFUSED: Kind.REFUSED,
    errno.ECONNRESET: Kind.RESET,
    errno.ETIMEDOUT: Kind.TIMED_OUT,
    errno.EHOSTUNREACH: Kind.UNREACHABLE,
    errno.ENETUNREACH: Kind.UNREACHABLE,
    errno.EADDRNOTAVAIL: Kind.UNREACHABLE,  # no source address of that family
    errno.EPERM: Kind.FORBIDDEN,
    errno.EACCES: Kind.FORBIDDEN,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt to connect ended, and what the listener said if one answered."""

    kind: Kind
    answer: Answer | None = None

    @property
    def label(self) -> str:
        """The label of the listener that answered, or "" if none did."""
        return self.answer.label if self.answer else ""


class CommandError(subprocess.CalledProcessError):
    """A command in a namespace failed; the message has what it printed."""

    def __str__(self) -> str:
        return f"{super().__str__()}\nstdout: {self.stdout}\nstderr: {self.stderr}"


# ---------------------------------------------------------------------------------------------
# Connections out
# ---------------------------------------------------------------------------------------------


class Client:
    """A user in a namespace who connects. Made by ``Namespace.client``."""

    def __init__(self, namespace: Namespace, uid: int, gid: int) -> None:
        self.namespace = namespace
        self.uid = uid
        self.gid = gid

    def open_socket(self, family: int, kind: int) -> socket.socket:
        """Return a new socket that belongs to the namespace and to the user; the caller closes it."""
        with self.namespace.entered(), _as_user(self.uid, self.gid):
            return socket.socket(family, kind | socket.SOCK_CLOEXEC)

    def connect(
        self, address: str, port: int, protocol: str = "tcp", *, source: str = "", timeout: float = 1.0
    ) -> Outcome:
        """Connect (or send a datagram), wait for a listener's answer, and say how it ended.

        ``source`` binds the local address, ``timeout`` is in seconds and bounds each step. TCP
        connections are ended by a reset, so that hundreds to one port leave no TIME_WAIT behind.
        """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        with self.open_socket(family, kind) as connection:
            connection.settimeout(timeout)
            try:
                if source:
                    connection.bind((source, 0))
                if kind == socket.SOCK_DGRAM:
                    return self._ask(connection, address, port)
                return self._listen(connection, address, port)
            except TimeoutError:
                return Outcome(Kind.TIMED_OUT)
            except OSError as error:
                if error.errno not in _KINDS:
                    raise
                return Outcome(_KINDS[error.errno])

    @staticmethod
    def _ask(connection: socket.socket, address: str, port: int) -> Outcome:
        connection.connect((address, port))
        connection.send(b"?")
        return Outcome(Kind.ANSWERED, Answer.decode(connection.recv(4096)))

    @staticmethod
    def _listen(connection: socket.socket, address: str, port: int) -> Outcome:
        connection.connect((address, port))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        explicit = b""
        try:
            while chunk := connection.recv(4096):
                explicit += chunk
        except TimeoutError:
            return Outcome(Kind.SILENT)
        try:
            return Outcome(Kind.ANSWERED, Answer.decode(explicit))
        except (ValueError, KeyError):
            return Outcome(Kind.SILENT)


# ---------------------------------------------------------------------------------------------
# Connections in
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Bound:
    """One socket of a listener."""

    socket: socket.socket
    family: int
    kind: int
    port: int


class Listener:
    """A thread that answers on a set of addresses and ports, as a user, in a namespace.

    Each TCP connection and each datagram is answered with an ``Answer``. Made by
    ``Namespace.listener``, ended by ``close`` or with its namespace.
    """

    def __init__(
        self,
        namespace: Namespace,
        endpoints: Sequence[tuple[str, int]],
        *,
        label: str,
        protocols: Sequence[str],
        uid: int,
        gid: int,
        transparent: bool,
    ) -> None:
        self.label = label
        self._transparent = transparent
        self._closed = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._bound: list[_Bound] = []
        try:
            with namespace.entered(), _as_user(uid, gid):
                for address, port in endpoints:
                    for protocol in protocols:
                        self._bind(address, port, protocol)
        except OSError:
            self._release()
            raise
        self._thread = threading.Thread(
            target=self._serve, args=(namespace, uid, gid), name=f"listener {label}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop answering and give the ports back."""
        if not self._closed:
            self._closed = True
            os.eventfd_write(self._wake, 1)
            self._thread.join(timeout=5)
            self._release()

    def _release(self) -> None:
        for bound in self._bound:
            bound.socket.close()
        self._selector.close()
        os.close(self._wake)

    def _bind(self, address: str, port: int, protocol: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        listening = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._bound.append(_Bound(listening, family, kind, port))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # One family per socket: SO_ORIGINAL_DST is not answered for IPv4 on an IPv6 socket.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self._transparent and family == socket.AF_INET6:
            listening.setsockopt(SOL_IPV6, IPV6_TRANSPARENT, 1)
        elif self._transparent:
            listening.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        if kind == socket.SOCK_DGRAM and family == socket.AF_INET6:
            listening.setsockopt(SOL_IPV6, IPV6_RECVORIGDSTADDR, 1)
            listening.setsockopt(SOL_IPV6, IPV6_FREEBIND, 1)  # answer from an address of `own_every_address`
        elif kind == socket.SOCK_DGRAM:
            listening.setsockopt(socket.SOL_IP, IP_RECVORIGDSTADDR, 1)
        listening.bind((address, port))
        if kind == socket.SOCK_STREAM:
            listening.listen(512)
        self._selector.register(listening, selectors.EVENT_READ, self._bound[-1])

    def _serve(self, namespace: Namespace, uid: int, gid: int) -> None:
        # An accepted connection belongs to the thread that accepts it, as in a real server.
        with namespace.entered(), _as_user(uid, gid):
            while True:
                for key, _ in self._selector.select():
                    if key.data is None:
                        return
                    with contextlib.suppress(ConnectionError, BlockingIOError):  # the client went away meanwhile
                        if key.data.kind == socket.SOCK_STREAM:
                            self._answer_connection(key.data)
                        else:
                            self._answer_datagram(key.data)

    def _answer_connection(self, bound: _Bound) -> None:
        connection, peer = bound.socket.accept()
        with connection:
            answer = Answer(
                label=self.label,
                port=bound.port,
                local=Endpoint(*connection.getsockname()[:2]),
                original=_original_destination(connection, bound.family),
                peer=Endpoint(*peer[:2]),
            )
            connection.send(answer.encode())

    def _answer_datagram(self, bound: _Bound) -> None:
        _, ancillary, _, peer = bound.socket.recvmsg(4096, 256)
        (_, _, destination) = ancillary[0]
        local = _endpoint(destination, bound.family)
        answer = Answer(label=self.label, port=bound.port, local=local, original=None, peer=Endpoint(*peer[:2]))
        # A socket bound to every address would answer from the one that routing prefers, and NAT
        # recognises an answer only when it comes from where the question went.
        address = socket.inet_pton(bound.family, local.address)
        if bound.family == socket.AF_INET6:
            scope = peer[3] if ipaddress.ip_address(local.address).is_link_local else 0
            source = (SOL_IPV6, socket.IPV6_PKTINFO, address + struct.pack("i", scope))
        else:
            source = (socket.SOL_IP, IP_PKTINFO, struct.pack("i4s4x", 0, address))
        bound.socket.sendmsg([answer.encode()], [source], 0, peer)


def _endpoint(address: bytes, family: int) -> Endpoint:
    """Return what a ``sockaddr_in`` or ``sockaddr_in6`` names."""
    (port,) = struct.unpack_from("!2xH", address)
    raw = address[8:24] if family == socket.AF_INET6 else address[4:8]
    return Endpoint(socket.inet_ntop(family, raw), port)


def _original_destination(connection: socket.socket, family: int) -> Endpoint | None:
    level, size = (SOL_IPV6, 28) if family == socket.AF_INET6 else (socket.SOL_IP, 16)
    try:
        return _endpoint(connection.getsockopt(level, SO_ORIGINAL_DST, size), family)
    except OSError as error:
        # ENOENT: no conntrack entry. ENOPROTOOPT: this namespace tracks nothing.
        if error.errno not in (errno.ENOENT, errno.ENOPROTOOPT):
            raise
        return None


# ---------------------------------------------------------------------------------------------
# Processes
# ---------------------------------------------------------------------------------------------

# PR_SET_PDEATHSIG fires when the *thread* that started the child ends. This one lives as long as the process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns-spawner")


def _command(
    command: Sequence[str | os.PathLike[str]], uid: int | None, gid: int | None, *, reads_everything: bool
) -> list[str]:
    words = [os.fspath(word) for word in command]
    if shutil.which(words[0]) is None:
        raise FileNotFoundError(errno.ENOENT, "no such program", words[0])
    prefix = ["setpriv", "--pdeathsig", "KILL"]
    if uid is not None:
        prefix += ["--reuid", str(uid), "--regid", str(uid if gid is None else gid), "--clear-groups"]
        if reads_everything:
            prefix += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    elif gid is not None:
        prefix += ["--regid", str(gid), "--clear-groups"]
    return [*prefix, "--", *words]


class Process:
    """A background process in a namespace. Made by ``Namespace.popen``, ended with its namespace."""

    def __init__(
        self,
        namespace: Namespace,
        command: Sequence[str | os.PathLike[str]],
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
    ) -> None:
        self.namespace = namespace
        self.command = [os.fspath(word) for word in command]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the process
        # A program may open /dev/stdout anew, as its own user, and write beside what stderr writes.
        os.fchmod(self._log.fileno(), 0o666)
        fcntl.fcntl(self._log.fileno(), fcntl.F_SETFL, os.O_APPEND)
        self._popen = _spawner.submit(self._start, words, env, cwd).result(timeout=10)
        self.pid = self._popen.pid

    def _start(
        self, words: Sequence[str], env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None
    ) -> subprocess.Popen[bytes]:
        with self.namespace.entered():
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, env=env, cwd=cwd
            )

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._popen.poll()

    def output(self) -> str:
        """Return what the process has printed so far, on stdout and stderr together."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def wait_for_port(self, port: int, protocol: str = "tcp", family: int | None = None, timeout: float = 10.0) -> None:
        """Return when the port is open in the namespace; raise with the output if the process ends before."""
        self.namespace.wait_for_port(port, protocol, family, timeout, alive=self._check_alive)

    def _check_alive(self) -> None:
        if self.returncode is not None:
            raise CommandError(self.returncode, self.command, self.output(), "")

    def wait(self, timeout: float = 10.0) -> int:
        """Wait until the process ends and return its exit status."""
        return self._popen.wait(timeout)

    def stop(self) -> None:
        """End the process: SIGTERM, and after two seconds SIGKILL."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(2)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait(5)

    def close(self) -> None:
        """Stop and forget the output."""
        self.stop()
        self._log.close()


# ---------------------------------------------------------------------------------------------
# Namespaces
# ---------------------------------------------------------------------------------------------


def _make_namespace() -> int:
    """Return the descriptor of a new network namespace."""
    home = _open_current()
    try:
        _checked(_libc.unshare(CLONE_NEWNET), "unshare")
        try:
            return _open_current()
        finally:
            _checked(_libc.setns(home, CLONE_NEWNET), "setns back")
    finally:
        os.close(home)


def _make_namespace_of(first_user: int) -> int:
    """Return the descriptor of a new network namespace that belongs to a new user namespace."""
    with subprocess.Popen(
        ["unshare", "--user", "--net", "sh", "-c", "echo made; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        for ids in ("uid_map", "gid_map"):
            with open(f"/proc/{owner.pid}/{ids}", "w", encoding="ascii") as mapping:
                mapping.write(f"0 {first_user} {USERS_OF_A_NAMESPACE}")
        return os.open(f"/proc/{owner.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


USERS_OF_A_NAMESPACE = 65536
"""How many ids a pod gets from kubelet with ``hostUsers: false``."""


class Namespace:
    """A network namespace with ``lo`` up, and what a test started in it.

    With ``first_user`` it belongs to a user namespace of its own, whose 0 is that user here.
    """

    def __init__(self, name: str = "netns", *, first_user: int = 0) -> None:
        self.name = name
        self._open: list[Process | Listener] = []
        self._descriptor = _make_namespace_of(first_user) if first_user else _make_namespace()
        # No duplicate address detection: an address is usable at once.
        self.sysctl("net.ipv6.conf.default.accept_dad", "0")
        self.ip("link set lo up")

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
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _kill_the_rest(self) -> None:
        """Kill what background processes left behind: it would keep the namespace."""
        name = f"net:[{self.inode}]"
        for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdecimal()):
            # It has ended meanwhile; or it has capabilities that we lack, and so is none of ours.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if pid != os.getpid() and os.readlink(f"/proc/{pid}/ns/net") == name:
                    os.kill(pid, signal.SIGKILL)

    @property
    def path(self) -> str:
        """A path that names the namespace, as ``nsenter --net=`` and ``CNI_NETNS`` take one."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    @property
    def inode(self) -> int:
        """The number that identifies the namespace, as in ``net:[4026531840]``."""
        return os.fstat(self._descriptor).st_ino

    # -- doing something in it

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Put the calling thread into the namespace for the length of a block."""
        with _in_namespace(self._descriptor):
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
        words = _command(command, uid, gid, reads_everything=reads_everything)
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
        words = _command(command, uid, gid, reads_everything=reads_everything)
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

        The label tells listeners apart in ``Outcome.label`` (by default, the namespace's name).
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
        self.ip(f"address add {address} dev {interface}{' nodad' if ':' in address else ''}")

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
        """Return when somebody listens on the port (in the family, if one is given).

        Looks into /proc/net and connects to nothing, so that no proxy sees a stray connection.
        ``alive`` is called while waiting and may raise. Raises TimeoutError.
        """
        give_up = time.monotonic() + timeout
        while not self._is_open(port, protocol, family):
            alive()
            if time.monotonic() > give_up:
                raise TimeoutError(f"nobody listens on {protocol} port {port} in {self.name} after {timeout} s")
            time.sleep(0.005)

    def _is_open(self, port: int, protocol: str, family: int | None) -> bool:
        tables = [
            protocol + suffix
            for suffix, of_family in (("", socket.AF_INET), ("6", socket.AF_INET6))
            if family in (None, of_family)
        ]
        state = TCP_LISTEN if protocol == "tcp" else UDP_BOUND
        with self.entered():
            for table in tables:
                with open(f"/proc/thread-self/net/{table}", encoding="ascii") as sockets:
                    rows = [line.split() for line in sockets.readlines()[1:]]
                if any(row[3] == state and int(row[1].rpartition(":")[2], 16) == port for row in rows):
                    return True
        return False


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

    def route_through(self, gateway: Pod) -> None:
        """Make the other pod the default route of every family both have."""
        if self.ipv4 and gateway.ipv4:
            self.ip(f"route add default via {gateway.ipv4}")
        if self.ipv6 and gateway.ipv6:
            self.ip(f"route add default via {gateway.ipv6}")


@dataclasses.dataclass(frozen=True, slots=True)
class PodPair:
    """Two pods, ``eth0`` to ``eth0``, each the other's default route."""

    pod: Pod
    peer: Pod

    def __iter__(self) -> Iterator[Pod]:
        return iter((self.pod, self.peer))


def make_veth(left: Namespace, right: Namespace, left_name: str = "eth0", right_name: str = "eth0") -> None:
    """Join two namespaces by a veth pair and set both ends up."""
    left.ip(
        f"link add {left_name} type veth peer name {right_name} netns {right.path}",
        f"link set {left_name} up",
    )
    right.ip(f"link set {right_name} up")


def _neighbour(address: str | None) -> str | None:
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

    def pod(
        self,
        name: str = "pod",
        *,
        ipv4: str | None = "10.77.0.2/24",
        ipv6: str | None = "fd77::2/64",
    ) -> Pod:
        """Return a pod whose ``eth0`` leads to a gateway of its own; ``None`` leaves a family out."""
        return self.pod_pair(name, ipv4=(ipv4, _neighbour(ipv4)), ipv6=(ipv6, _neighbour(ipv6))).pod

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
        return PodPair(pod, peer)

    def close(self) -> None:
        """End every namespace made here, last first."""
        self._made.close()


# ---------------------------------------------------------------------------------------------
# Fixtures
# ---------------------------------------------------------------------------------------------


def _factory() -> Iterator[NamespaceFactory]:
    require(sys.platform == "linux" and os.geteuid() == 0, "network namespaces need Linux and root")
    for program in ("ip", "setpriv"):
        require(shutil.which(program), f"the program {program} is missing")
    with NamespaceFactory() as factory:
        try:
            factory("probe").close()
        except PermissionError as error:
            require(False, f"network namespaces cannot be made here: {error}")
        yield factory


@pytest.fixture
def netns() -> Iterator[NamespaceFactory]:
    """A factory of namespaces that end with the test: ``netns("a")``."""
    yield from _factory()


@pytest.fixture(scope="module")
def module_netns() -> Iterator[NamespaceFactory]:
    """A factory of namespaces that end with the module."""
    yield from _factory()


@pytest.fixture
def veth(netns: NamespaceFactory) -> Callable[..., None]:
    """``make_veth``: joins two namespaces, ``veth(left, right, "eth0", "eth0")``."""
    return make_veth


@pytest.fixture(scope="module")
def module_veth(module_netns: NamespaceFactory) -> Callable[..., None]:
    """``make_veth``, for the namespaces of a module."""
    return make_veth


@pytest.fixture
def pod(netns: NamespaceFactory) -> Callable[..., Pod]:
    """Makes pods that end with the test: ``pod("web", ipv6=None)``."""
    return netns.pod


@pytest.fixture(scope="module")
def module_pod(module_netns: NamespaceFactory) -> Callable[..., Pod]:
    """Makes pods that end with the module."""
    return module_netns.pod


@pytest.fixture
def pod_pair(netns: NamespaceFactory) -> PodPair:
    """Two pods joined by a veth pair, both families, ready to use: ``pod, peer = pod_pair``."""
    return netns.pod_pair()


@pytest.fixture(scope="module")
def module_pod_pair(module_netns: NamespaceFactory) -> PodPair:
    """Two pods joined by a veth pair, for a whole module."""
    return module_netns.pod_pair()
