"""Network namespaces for tests: made in a millisecond, gone with the test, gone too when pytest is killed.

A namespace is held by an open file descriptor of the pytest process and by nothing else: no name
under /run/netns, no holder process. When the test ends, or pytest dies in any way, the
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
belongs for ever to the namespace and to the user of the thread that opened it, with any user
later. And that user, the one which ``-m owner`` and ``meta skuid`` compare, is the thread's
filesystem uid (``file->f_cred->fsuid`` in net/netfilter/xt_owner.c and nft_meta.c), which
setfsuid(2) sets for one thread. So sockets are opened with three system calls in this process,
and no helper process is needed. ``run(uid=...)`` and ``popen(uid=...)`` start real processes.

Two traps. A thread that is not the process's first sees the first one's namespace in /proc/net and
/proc/self/ns; ``call`` runs in the calling thread, which in pytest is the first. /sys/class/net
shows the namespace in which /sys was mounted.
"""

from pytest_netns.answers import Answer, Endpoint, Kind, Outcome
from pytest_netns.client import Client
from pytest_netns.fixtures import require
from pytest_netns.listener import Listener
from pytest_netns.namespace import Namespace, NamespaceFactory, Pod, PodPair, make_veth
from pytest_netns.process import CommandError, Process

__all__ = [
    "Answer",
    "Client",
    "CommandError",
    "Endpoint",
    "Kind",
    "Listener",
    "Namespace",
    "NamespaceFactory",
    "Outcome",
    "Pod",
    "PodPair",
    "Process",
    "make_veth",
    "require",
]
