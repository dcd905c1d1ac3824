"""A node for container runtimes, within the machine: it has its own mounts, processes and network.

    node (mount, PID and network namespace; /run and the working directory are tmpfs)
     ├── process 1, which reaps; everything ends with it, and it ends with pytest, however that ends
     ├── containerd, conmon, shims, containers
     └── bridge, /run/netns/*, /run/istio-capture

From outside, files of the node are seen under /proc/PID/root; ``Node.outside`` gives such paths. Nothing of it
touches the machine's network, its mounts or its /run. Only control groups are shared, and are removed at the end.
"""

import contextlib
import glob
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pytest_netns import CommandError, Namespace, NamespaceFactory
from support.processes.private_mounts import OWN_MOUNTS

CGROUP = "capture-test-"

SET_UP = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
mount -t tmpfs -o mode=755 tmpfs "$0"
exec catatonit -P
"""


class Node:
    """See the module's description. ``directory`` is where the node has its working directory."""

    def __init__(self, namespaces: NamespaceFactory, directory: Path) -> None:
        self.directory = directory
        self.network = namespaces("node")
        self._started: list[subprocess.Popen[bytes]] = []
        self._joined: list[Namespace] = []
        self.cgroup = f"{CGROUP}{os.getpid()}-{self.network.inode}"
        _remove_cgroups_of_the_dead()
        unshare = [*OWN_MOUNTS, "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
        self._keeper = self.network.popen([*unshare, "sh", "-c", SET_UP, directory])
        self.pid = self._wait_for_first_process()

    def _wait_for_first_process(self) -> int:
        """Return the process id of the node's first process, when that has set everything up."""
        give_up = time.monotonic() + 10
        while time.monotonic() < give_up and self._keeper.returncode is None:
            with contextlib.suppress(OSError, IndexError):
                children = Path(f"/proc/{self._keeper.pid}/task/{self._keeper.pid}/children").read_text("ascii")
                pid = int(children.split()[0])
                if Path(f"/proc/{pid}/comm").read_text("ascii") == "catatonit\n":
                    return pid
            time.sleep(0.005)
        raise RuntimeError(f"the node does not start: {self._keeper.output()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything in the node and remove what it left in control groups."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._keeper.wait()
        for started in self._started:
            started.wait(10)
        for joined in self._joined:
            joined.close()
        self.network.close()
        _remove_cgroups(self.cgroup)

    def outside(self, path: str | Path) -> Path:
        """Return where a file of the node is for processes that are not in it."""
        # /var/run is a link to /run, which would be followed to the machine's own.
        inside = str(path).removeprefix("/var") if str(path).startswith("/var/run/") else path
        return Path(f"/proc/{self.pid}/root{inside}")

    def write(self, name: str, content: str, mode: int = 0o644) -> Path:
        """Write a file in the working directory, and return its path in the node."""
        file = self.outside(self.directory / name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)
        return self.directory / name

    def read(self, name: str) -> str:
        """Return the content of a file in the working directory; "" if it is not there."""
        try:
            return self.outside(self.directory / name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def command(self, command: Sequence[str | os.PathLike[str]]) -> list[str]:
        """Return a command line that runs a command in the node."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--"]
        return enter + [os.fspath(word) for word in command]

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        stdin: str = "",
        env: dict[str, str] | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the node, and return what it printed; ``CommandError`` if it fails."""
        environ = os.environ | (env or {})
        done = subprocess.run(
            self.command(command),
            input=stdin,
            capture_output=True,
            text=True,
            env=environ,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            raise CommandError(done.returncode, [os.fspath(word) for word in command], done.stdout, done.stderr)
        return done

    def start(self, command: Sequence[str | os.PathLike[str]], log: str, env: dict[str, str] | None = None) -> None:
        """Start a program in the node that runs until the node ends; it prints into a file there."""
        with self.outside(self.directory / log).open("ab") as file:
            started = subprocess.Popen(
                self.command(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | (env or {}),
                start_new_session=True,
            )
        self._started.append(started)

    def namespace(self, path: str) -> Namespace:
        """Return the network namespace at a path of the node, to connect and listen in. It ends with the node."""
        joined = Joined(str(self.outside(path)))
        self._joined.append(joined)
        return joined


class Joined(Namespace):
    """A namespace that another program has made."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._open = []
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _remove_cgroups_of_the_dead() -> None:
    """Remove what a pytest has left that was killed: all else ended with it."""
    for path in [*glob.glob(f"/sys/fs/cgroup/{CGROUP}*"), *glob.glob(f"/sys/fs/cgroup/*/{CGROUP}*")]:
        name = os.path.basename(path)
        pid = name.removeprefix(CGROUP).partition("-")[0]
        if not os.path.exists(f"/proc/{pid}"):
            _remove_cgroups(name)


def _remove_cgroups(name: str) -> None:
    """Remove the control groups under a name, in all hierarchies, once their processes have ended."""
    found = glob.glob(f"/sys/fs/cgroup/{name}") + glob.glob(f"/sys/fs/cgroup/*/{name}")
    for top in found:
        for directory, _, _ in os.walk(top, topdown=False):
            give_up = time.monotonic() + 2
            while time.monotonic() < give_up:
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    break
                except OSError:  # its last process is about to end
                    time.sleep(0.01)
                else:
                    break
