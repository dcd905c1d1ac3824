"""Programs in a namespace, as a user, gone with pytest."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_netns.namespace import Namespace


class CommandError(subprocess.CalledProcessError):
    """A command in a namespace failed; the message has what it printed."""

    def __str__(self) -> str:
        return f"{super().__str__()}\nstdout: {self.stdout}\nstderr: {self.stderr}"


# PR_SET_PDEATHSIG fires when the *thread* that started the child ends. This one lives as long as the process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns-spawner")


def command_line(
    command: Sequence[str | os.PathLike[str]], uid: int | None, gid: int | None, *, reads_everything: bool
) -> list[str]:
    """Return the command as one that setpriv(1) runs as the user; raise FileNotFoundError for no such program."""
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
        # A program may open /dev/stdout anew, as its own user, and write next to what stderr writes.
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
