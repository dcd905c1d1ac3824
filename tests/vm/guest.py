"""A small virtual machine with a kernel of Debian's, where netfilter is made of modules; booted in a few seconds.

qemu emulates the processor (no KVM needed), the kernel comes from a Debian package that is unpacked and
not installed, and the root file system is an initramfs of this machine's own files (``image``). A guest is
talked to through its second serial port, one command after the other::

    with Guest(kernel()) as guest:
        guest.hide_modules("xt_owner")
        done = guest.run(["capture", "doctor", "--all"])

The first serial port is the kernel's console; what it printed is in every error.
"""

import dataclasses
import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pytest_netns import require
from vm.image import CHECKOUT, manifest_of, write_archive

PACKAGE = os.environ.get("CAPTURE_VM_KERNEL", "linux-image-cloud-amd64")
"""A Debian package of a kernel, or one that depends on it; or a directory with boot/ and lib/modules/ in it."""

CACHE = CHECKOUT / "build" / "vm"
"""Where kernels are unpacked; git does not see it, and `make clean` removes it."""

QEMU = "qemu-system-x86_64"
PROCESSOR = "max,-avx,-avx2,-erms,-fsrm"
"""Emulated, wide instructions are slower than the narrow ones that programs take in their place."""
COMMAND_LINE = "console=ttyS0 quiet panic=-1 mitigations=off"
MEMORY = "1024"  # MiB; the root file system lives in it
BOOT = 120.0
"""Seconds that a guest may take to start; it takes four, but perhaps not on a busy machine."""
GRACE = 30.0
"""Seconds that a guest may take to answer after a command's own time is up."""


class GuestError(Exception):
    """The guest does not answer any more; the message has what its kernel printed last."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel and its modules."""

    image: Path
    modules: Path

    @property
    def release(self) -> str:
        """What ``uname -r`` prints in the guest."""
        return self.modules.name


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """How a command in the guest ended. A status of None: it was killed, because its time was up."""

    command: tuple[str, ...]
    status: int | None
    stdout: str
    stderr: str
    seconds: float

    def __str__(self) -> str:
        ended = "was killed" if self.status is None else f"ended with status {self.status}"
        return f"{' '.join(self.command)}: {ended} after {self.seconds:.1f} s\n{self.stdout}{self.stderr}"


def kernel() -> Kernel:
    """Return the kernel that guests boot; its package is fetched with apt once."""
    given = Path(PACKAGE)
    folder = given if given.is_dir() else _unpacked(PACKAGE)
    images = sorted(folder.glob("boot/vmlinuz-*"))
    modules = sorted(folder.glob("lib/modules/*"))
    require(images and modules, f"{folder} has no boot/vmlinuz-* or no lib/modules/*")
    return Kernel(images[-1], modules[-1])


class AptError(Exception):
    """A package cannot be downloaded; the message has apt's words."""


def _unpacked(package: str) -> Path:
    """Return the directory in which the package is unpacked, after downloading it if need be."""
    require(shutil.which("apt-get"), "kernels for guests come from Debian's packages, and there is no apt here")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:  # workers of pytest-xdist take turns
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return _fetched(package)
        except AptError:  # perhaps the lists of packages are missing, or older than what there is
            _apt(["apt-get", "update"], CACHE)
        try:
            return _fetched(package)
        except AptError as error:
            require(condition=False, reason=f"{error}; name a kernel with CAPTURE_VM_KERNEL")
            raise


def _fetched(package: str) -> Path:
    """Return where the package is unpacked. Raises AptError if it has to be downloaded, and cannot be."""
    real = _package_of_image(package)
    folder = CACHE / real
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            _apt(["apt-get", "download", real], Path(scratch))
            (archive,) = Path(scratch).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, f"{scratch}/unpacked"], check=True, timeout=600)
            os.rename(f"{scratch}/unpacked", folder)
    return folder


def _package_of_image(package: str) -> str:
    """Return the package that has the kernel itself: ``linux-image-cloud-amd64`` only depends on it."""
    printed = _apt(["apt-cache", "depends", package], CACHE)
    return next(iter(re.findall(r"Depends: (linux-image-\S+)", printed)), package)


def _apt(command: Sequence[str], folder: Path) -> str:
    """Return what one of apt's programs prints. Raises AptError if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise AptError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Guest:
    """A running virtual machine. ``boot_seconds`` is how long it took until it answered."""

    def __init__(self, booted: Kernel) -> None:
        require(shutil.which(QEMU), f"the program {QEMU} is missing")
        started = time.monotonic()
        self.kernel = booted
        self.is_waiting = False
        """A command was not answered: what comes is not the answer to the next one."""
        self._hidden: frozenset[str] = frozenset()
        self._heard = b""
        self._folder = tempfile.TemporaryDirectory(prefix="capture-vm-")
        self._console = Path(self._folder.name) / "console"
        archive = Path(self._folder.name) / "root"
        with archive.open("wb") as file:
            write_archive(manifest_of(booted.modules), file)
        self._qemu = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *self._command_line(archive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            release = json.loads(self._line(BOOT))["kernel"]
            assert release == booted.release, f"{release} answers, not {booted.release}"
        except BaseException:
            self.close()
            raise
        archive.unlink()  # it is in the guest's memory now
        self.boot_seconds = time.monotonic() - started

    def _command_line(self, archive: Path) -> list[str]:
        machine = [QEMU, "-nodefaults", "-no-reboot", "-display", "none", "-accel", "tcg", "-cpu", PROCESSOR]
        ports = ["-serial", f"file:{self._console}", "-serial", "stdio"]
        boot = ["-m", MEMORY, "-kernel", str(self.kernel.image), "-initrd", str(archive)]
        return [*machine, *ports, *boot, "-append", COMMAND_LINE]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Pull the plug."""
        self._qemu.kill()
        self._qemu.communicate()
        self._folder.cleanup()

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        directory: str = "/",
        timeout: float = 60.0,
        check: bool = False,
        entry: str = "",
    ) -> Finished:
        """Run a command as root and return how it ended; ``check`` demands status 0.

        ``entry`` names the entry point of one of our programs; it saves a second, see ``agent``.
        """
        request = {
            "command": command,
            "stdin": stdin,
            "environment": dict(environment or {}),
            "directory": directory,
            "timeout": timeout,
            "entry": entry,
        }
        assert self._qemu.stdin is not None
        self.is_waiting = True
        self._qemu.stdin.write(json.dumps(request).encode() + b"\n")
        self._qemu.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(timeout + GRACE))
        self.is_waiting = False
        done = Finished(tuple(command), **answer)
        if check and done.status != 0:
            raise AssertionError(str(done))
        return done

    def hide_modules(self, *names: str) -> None:
        """Start anew: no namespaces, no module loaded, and a kernel that has all of its modules except these."""
        hide = frozenset(names)
        self.run(["/bin/busybox", "sh", "-euc", UNLOAD], check=True, timeout=60.0)
        if hide != self._hidden:
            self.run(["/bin/busybox", "sh", "-euc", HIDE, "hide", *sorted(hide)], check=True)
            self._hidden = hide

    def loaded_modules(self) -> frozenset[str]:
        """Return the modules that are loaded now."""
        return frozenset(line.split()[0] for line in self.run(["cat", "/proc/modules"], check=True).stdout.splitlines())

    def _line(self, timeout: float) -> bytes:
        """Return the next line from the guest's agent. Raises GuestError after ``timeout`` seconds."""
        assert self._qemu.stdout is not None
        descriptor = self._qemu.stdout.fileno()
        give_up = time.monotonic() + timeout
        while b"\n" not in self._heard:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, give_up - time.monotonic()))
            piece = os.read(descriptor, 65536) if ready else b""
            if not piece:
                what = "ended" if ready else f"has not answered for {timeout:.0f} s"
                raise GuestError(f"the guest {what}; {self._last_words()}")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _last_words(self) -> str:
        console = self._console.read_text(errors="replace") if self._console.exists() else ""
        return f"it printed {self._heard.decode(errors='replace')!r}, and its console:\n{console[-4000:]}"


UNLOAD = """
/usr/sbin/ip -all netns delete
for attempt in $(seq 100); do
    for module in $(awk '$3 == 0 { print $1 }' /proc/modules); do
        rmmod "$module" 2>/dev/null || true # namespaces end in the background, and hold modules until then
    done
    grep -q . /proc/modules || exit 0
    sleep 0.1
done
echo "these modules stay: $(cut -d ' ' -f 1-4 /proc/modules)" >&2
exit 1
"""

HIDE = """
modules="/lib/modules/$(uname -r)"
mkdir -p /hidden
( cd /hidden && find . -name '*.ko' ) | while read -r module; do mv "/hidden/$module" "$modules/$module"; done
for name in "$@"; do
    path=$(cd "$modules" && find . -name "$name.ko")
    [ -n "$path" ] || { echo "this kernel has no module $name to hide" >&2; exit 1; }
    mkdir -p "/hidden/${path%/*}"
    mv "$modules/$path" "/hidden/$path"
done
/usr/sbin/depmod
"""
