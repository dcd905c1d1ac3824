"""A Kubernetes node within the machine: etcd, control plane, containerd, kubelet and kube-proxy of the real project.

::

    with KubernetesNode(directory, families=("ipv4", "ipv6")) as node:
        node.apply(pod)                        objects, as the API takes them
        node.kubectl("get", "pods")            what kubectl prints
        node.run(["ls", "/opt/cni/bin"])       on the node
        node.reboot()

It has its own network, mounts, processes and host name; of the machine it shares the kernel and files that it only
reads. Its disk is ``directory``, and stays for a reboot. Everything ends with its process 1.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from support.cluster import builds
from support.cluster.fake_kubernetes import Authority, Certificate
from support.runtimes.oci_image import write_image

NAME = "capture-node"
ADDRESSES = {"ipv4": "192.168.77.1", "ipv6": "fd00:77::1"}
SERVICES = {"ipv4": "10.96.0.0/16", "ipv6": "fd00:96::/112"}
FIRST_SERVICE = {"ipv4": "10.96.0.1", "ipv6": "fd00:96::1"}
PODS = {"ipv4": "10.244.0.0/23", "ipv6": "fd00:244::/64"}
ANY = {"ipv4": "0.0.0.0/0", "ipv6": "::/0"}
IMAGE = "capture.test/waiting:1"
CONTAINERD = "/run/containerd/containerd.sock"
SPDY = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"
"""By websockets `kubectl exec` now and then loses the output of a short command: "Unknown stream id 1"."""
LIST = "10-lab.conflist"
CGROUP = "capture-cluster-"
"""How the names of nodes' control groups begin: several nodes may run on a machine."""

FOLDERS = {
    "etc-cni": "/etc/cni", "opt-cni": "/opt/cni", "var-lib-cni": "/var/lib/cni", "kubelet": "/var/lib/kubelet",
    "pods-log": "/var/log/pods", "containers-log": "/var/log/containers", "capture-log": "/var/log/istio-capture",
}  # fmt: skip
"""Parts of the node's disk, and where they are on the node."""

SET_UP = """
set -eu
hostname {name}
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
{mounts}
mount --make-rshared /var/lib/kubelet
ip link set lo up
ip link add node0 type veth peer name node0-peer
ip link set node0 up
ip link set node0-peer up
{addresses}
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
exec catatonit -P
"""

CONTAINERD_TOML = """\
version = 2
root = "{disk}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{disk}/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "capture.test/waiting:1"
  # Without CAP_SYS_RESOURCE, a lower score than one's own cannot be given to a process.
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""
KUBELET: dict[str, object] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True}},
    "authorization": {"mode": "Webhook"},
    "containerRuntimeEndpoint": f"unix://{CONTAINERD}",
    "cgroupDriver": "cgroupfs",
    "enforceNodeAllocatable": [],
    "localStorageCapacityIsolation": False,
    "evictionHard": {
        "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%", "memory.available": "1Mi",
    },
    "imageGCHighThresholdPercent": 100,
    "failSwapOn": False,
    "oomScoreAdj": 0,
    "maxPods": 600,
    "serializeImagePulls": True,
    "syncFrequency": "10s",
    "shutdownGracePeriod": "0s",
}  # fmt: skip


class KubernetesNode:
    """See the module's description. ``runtime`` is a directory with containerd and runc; None takes the system's."""

    def __init__(
        self,
        directory: Path,
        families: Sequence[str] = ("ipv4", "ipv6"),
        runtime: Path | None = None,
        cni_version: str = "1.0.0",
    ) -> None:
        self.disk = directory.resolve()
        self.families = tuple(families)
        self.runtime = runtime
        self.cni_version = cni_version
        self.pid = 0
        self.cgroup = f"{CGROUP}{os.getpid()}"
        self.written = 0
        """When the main network configuration was written last, in nanoseconds since the epoch."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for folder in (*FOLDERS, "log", "pki", "manifests", "etc-cni/net.d", "opt-cni/bin", "etcd"):
            (self.disk / folder).mkdir(parents=True, exist_ok=True)
        (self.disk / "etcd").chmod(0o700)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Boot the node and wait until it is Ready."""
        self._prepare()
        for name in ("etcd", "containerd"):
            self.start_daemon(name)
        self._wait("containerd", lambda: self.ctr("version"))
        if not (self.disk / "image.tar").exists():
            write_image(self.disk / "image.tar", IMAGE, Path("/usr/bin/catatonit"))
            self.load_image(self.disk / "image.tar")
        self._start_api_server()
        for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
            self.start_daemon(name)
        self._wait("the node", lambda: self.kubectl("wait", "--for=condition=Ready", f"node/{NAME}", "--timeout=5s"))
        self._wait("the service account", lambda: self.kubectl("get", "serviceaccount", "default"))

    def start_without_kubelet(self) -> None:
        """Boot a machine that has an API server and nothing else of Kubernetes: no pod runs there."""
        self._prepare()
        self.start_daemon("etcd")
        self._start_api_server()

    def _prepare(self) -> None:
        self._make_namespaces()
        _make_cgroups(self.cgroup)
        if not (self.disk / "pki" / "admin.json").exists():
            self._write_credentials()
        self._write_configuration()

    def _start_api_server(self) -> None:
        self._wait("etcd", lambda: self.run(["curl", "-fs", "http://127.0.0.1:2379/health"]))
        self.start_daemon("kube-apiserver")
        self._wait("kube-apiserver", lambda: self.kubectl("get", "--raw", "/readyz"))

    def stop(self) -> None:
        """End everything on the node; its disk stays."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        for process in self._processes.values():
            process.wait(20)
        self._processes.clear()
        self.pid = 0
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (path := line.split()[1]).startswith(f"{self.disk}/"):
                subprocess.run(["umount", "-l", path], check=False)
        _remove_cgroups(self.cgroup)

    def reboot(self) -> None:
        """Kill everything and boot again from the disk; /run is empty then."""
        self.stop()
        self.start()

    def kill(self, name: str) -> None:
        """Kill a daemon, as a crash does."""
        self.run(["pkill", "-KILL", "-x", name[:15]], check=False)
        self._processes.pop(name).wait(20)

    # --- talking to it -----------------------------------------------------------------------------------------

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """Return a command line that runs a command on the node."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-n", "-p", "-u", "-i", "--"]
        return [*enter, *map(str, command)]

    def run(self, command: Sequence[str | Path], *, stdin: str = "", check: bool = True, timeout: float = 60) -> str:
        """Run a command on the node and return what it printed."""
        done = subprocess.run(
            self.command(command), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, command))}: {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True, timeout: float = 120) -> str:
        """Run kubectl as the cluster's administrator."""
        kubectl = builds.find("kubectl")
        assert kubectl
        config = f"--kubeconfig={self.disk}/pki/admin.json"
        return self.run(["env", SPDY, kubectl, config, *arguments], stdin=stdin, check=check, timeout=timeout)

    def get(self, *arguments: str) -> Any:
        """Return objects, decoded."""
        return json.loads(self.kubectl("get", "-o", "json", *arguments))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Make or change objects."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def ctr(self, *arguments: str) -> str:
        """Run containerd's own client."""
        return self.run(["ctr", "-a", CONTAINERD, "-n", "k8s.io", *arguments], timeout=300)

    def load_image(self, archive: Path) -> None:
        """Give an image to containerd."""
        self.ctr("images", "import", str(archive))

    @property
    def list_file(self) -> Path:
        """The main network configuration."""
        return self.disk / "etc-cni" / "net.d" / LIST

    def write_list(self) -> None:
        """Write the main network configuration, as its owner does: without anything of others."""
        ranges = [[{"subnet": PODS[family]}] for family in self.families]
        routes = [{"dst": ANY[family]} for family in self.families]
        bridge: dict[str, Any] = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
        }
        bridge["ipam"] = {"type": "host-local", "ranges": ranges, "routes": routes}
        plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
        new = self.list_file.with_name(".new")  # containerd overlooks a file that is renamed in from elsewhere
        new.write_text(json.dumps({"cniVersion": self.cni_version, "name": "lab", "plugins": plugins}))
        with new.open("rb") as file:
            new.rename(self.list_file)
            self.written = os.fstat(file.fileno()).st_ctime_ns

    # --- parts ------------------------------------------------------------------------------------------------

    def _make_namespaces(self) -> None:
        for place in FOLDERS.values():
            os.makedirs(place, exist_ok=True)
        mounts = "\n".join(f"mount --bind {self.disk}/{folder} {place}" for folder, place in FOLDERS.items())
        prefixes = {"ipv4": "24", "ipv6": "64 nodad"}
        gateways = {"ipv4": "192.168.77.254", "ipv6": "fd00:77::fe"}
        addresses = "\n".join(
            f"ip addr add {ADDRESSES[family]}/{prefixes[family]} dev node0\n"
            f"ip {'-6 ' * (family == 'ipv6')}route add default via {gateways[family]}"
            for family in self.families
        )
        script = SET_UP.format(name=NAME, mounts=mounts, addresses=addresses)
        unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with (self.disk / "log" / "node.log").open("ab") as log:
            keeper = subprocess.Popen(
                [*unshare, "--propagation", "private", "sh", "-c", script], stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self._processes["keeper"] = keeper
        self._wait("the node's namespaces", lambda: self._find_first_process(keeper.pid))

    def _find_first_process(self, keeper: int) -> None:
        children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        pid = int(children[0])
        assert Path(f"/proc/{pid}/comm").read_text() == "catatonit\n"
        self.pid = pid

    def _write_credentials(self) -> None:
        pki = self.disk / "pki"
        authority = Authority("cluster")
        (pki / "ca.crt").write_bytes(authority.pem)
        own = [ADDRESSES[family] for family in self.families]
        services = [FIRST_SERVICE[family] for family in self.families]
        names = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
        server = authority.issue("kube-apiserver", "127.0.0.1", "::1", *own, *services, names=names)
        _put(pki, "apiserver", server)
        _put(pki, "kubelet-server", authority.issue(NAME, "127.0.0.1", *own, names=(NAME,)))
        _put(pki, "kubelet-client", authority.issue("kube-apiserver", group="system:masters"))
        _put(pki, "sa", authority.issue("service accounts"))
        clients = {
            "kubelet": (f"system:node:{NAME}", "system:nodes"),
            "manager": ("system:kube-controller-manager", ""),
            "scheduler": ("system:kube-scheduler", ""),
            "proxy": ("system:kube-proxy", ""),
            "admin": ("admin", "system:masters"),
        }
        for client, (name, group) in clients.items():
            _put(pki, client, authority.issue(name, group=group))
            (pki / f"{client}.json").write_text(json.dumps(self._kubeconfig(client)))

    def _kubeconfig(self, client: str) -> dict[str, Any]:
        pki = self.disk / "pki"
        cluster = {"server": f"https://{self.api_address}:6443", "certificate-authority": f"{pki}/ca.crt"}
        user = {"client-certificate": f"{pki}/{client}.crt", "client-key": f"{pki}/{client}.key"}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }

    @property
    def api_address(self) -> str:
        """The API server's address, in brackets if need be."""
        address = ADDRESSES[self.families[0]]
        return f"[{address}]" if ":" in address else address

    def _write_configuration(self) -> None:
        disk = self.disk
        (disk / "containerd.toml").write_text(CONTAINERD_TOML.format(disk=disk))
        kubelet = KUBELET | {
            "cgroupRoot": f"/{self.cgroup}",
            "tlsCertFile": f"{disk}/pki/kubelet-server.crt",
            "tlsPrivateKeyFile": f"{disk}/pki/kubelet-server.key",
            "staticPodPath": f"{disk}/manifests",
            "volumePluginDir": f"{disk}/volume-plugins",
            "resolvConf": f"{disk}/resolv.conf",
        }
        kubelet["authentication"] = {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{disk}/pki/ca.crt"},
        }  # fmt: skip
        (disk / "kubelet.json").write_text(json.dumps(kubelet))
        (disk / "resolv.conf").write_text(f"nameserver {ADDRESSES[self.families[0]]}\n")
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{disk}/pki/proxy.json"},
            "mode": "iptables",
            "hostnameOverride": NAME,
            "clusterCIDR": ",".join(PODS[family] for family in self.families),
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        (disk / "proxy.json").write_text(json.dumps(proxy))
        plugins = self.runtime / "cni" if self.runtime else Path("/usr/lib/cni")
        for plugin in plugins.iterdir():
            if not (disk / "opt-cni" / "bin" / plugin.name).exists():
                shutil.copy2(plugin, disk / "opt-cni" / "bin" / plugin.name)
        if not self.list_file.exists():
            self.write_list()

    def start_daemon(self, name: str) -> None:
        """Start one of the node's daemons, as it is configured."""
        with (self.disk / "log" / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                self.command(self._daemon(name)), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    def _daemon(self, name: str) -> list[str]:
        disk, pki, own = self.disk, self.disk / "pki", [ADDRESSES[family] for family in self.families]
        program = str(builds.find(name) or name)
        match name:
            case "etcd":
                urls = [
                    "--listen-client-urls",
                    "http://127.0.0.1:2379",
                    "--advertise-client-urls",
                    "http://127.0.0.1:2379",
                ]
                return [program, "--data-dir", f"{disk}/etcd", *urls, "--listen-peer-urls", "http://127.0.0.1:2380",
                        "--unsafe-no-fsync", "--log-level", "warn"]  # fmt: skip
            case "containerd":
                path = f"{self.runtime}:" if self.runtime else ""
                runtime = f"{self.runtime}/containerd" if self.runtime else "containerd"
                return ["env", f"PATH={path}/usr/sbin:/usr/bin:/sbin:/bin", runtime, "-c", f"{disk}/containerd.toml"]
            case "kube-apiserver":
                return self._api_server(program)
            case "kube-controller-manager":
                return [program, "--kubeconfig", f"{pki}/manager.json", "--use-service-account-credentials",
                        "--service-account-private-key-file", f"{pki}/sa.key", "--root-ca-file", f"{pki}/ca.crt",
                        "--leader-elect=false", "--cert-dir", f"{pki}"]  # fmt: skip
            case "kube-scheduler":
                return [
                    program,
                    "--kubeconfig",
                    f"{pki}/scheduler.json",
                    "--leader-elect=false",
                    "--cert-dir",
                    f"{pki}",
                ]
            case "kubelet":
                return [program, "--kubeconfig", f"{pki}/kubelet.json", "--config", f"{disk}/kubelet.json",
                        "--hostname-override", NAME, "--node-ip", ",".join(own), "--cert-dir", f"{pki}"]  # fmt: skip
            case _:
                return [program, "--config", f"{disk}/proxy.json"]

    def _api_server(self, program: str) -> list[str]:
        pki, own = self.disk / "pki", [ADDRESSES[family] for family in self.families]
        services = ",".join(SERVICES[family] for family in self.families)
        return [
            program, "--etcd-servers", "http://127.0.0.1:2379", "--advertise-address", own[0],
            "--secure-port", "6443", "--service-cluster-ip-range", services,
            "--client-ca-file", f"{pki}/ca.crt",
            "--tls-cert-file", f"{pki}/apiserver.crt", "--tls-private-key-file", f"{pki}/apiserver.key",
            "--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file", f"{pki}/sa.crt",
            "--service-account-signing-key-file", f"{pki}/sa.key",
            "--kubelet-client-certificate", f"{pki}/kubelet-client.crt",
            "--kubelet-client-key", f"{pki}/kubelet-client.key",
            "--kubelet-certificate-authority", f"{pki}/ca.crt",
            "--kubelet-preferred-address-types", "InternalIP",
            "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
            "--allow-privileged", "--cert-dir", f"{pki}",
        ]  # fmt: skip

    def _wait(self, what: str, attempt: Callable[[], object], seconds: float = 120) -> None:
        give_up = time.monotonic() + seconds
        while True:
            try:
                attempt()
            except (AssertionError, OSError, IndexError, subprocess.TimeoutExpired) as problem:
                if time.monotonic() > give_up:
                    raise AssertionError(f"waited {seconds:g} s for {what} ({self.disk}/log): {problem}") from None
                time.sleep(0.2)
            else:
                return


def _put(directory: Path, name: str, issued: Certificate) -> None:
    (directory / f"{name}.crt").write_bytes(issued.certificate)
    (directory / f"{name}.key").write_bytes(issued.key)


def _make_cgroups(name: str) -> None:
    """Give the node control groups of its own in each hierarchy of version 1; version 2 needs none."""
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        if not (hierarchy / "cgroup.procs").exists() or hierarchy.name == "unified":
            continue
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / setting).exists():
                (group / setting).write_text((hierarchy / setting).read_text())


def _remove_cgroups(name: str) -> None:
    for group in Path("/sys/fs/cgroup").glob(f"*/{name}"):
        for directory, _, _ in os.walk(group, topdown=False):
            for _ in range(50):
                try:
                    os.rmdir(directory)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.02)
