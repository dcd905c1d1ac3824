"""What a guest boots: an initramfs made of files of this machine, at the paths that they have here.

No packages are installed in the guest and nothing is copied first: a *manifest* lists which file of the
guest is which file of the host, and ``write_archive`` streams them into a cpio archive (format "newc",
Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's tree), which the kernel
unpacks into its root file system. So the checkout, its virtual environment and the programs are found
where every test expects them, and what a test writes is gone with the guest.
"""

import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

CHECKOUT = Path(__file__).resolve().parents[2]

IPTABLES = tuple(
    f"{command}{variant}{purpose}"
    for command in ("iptables", "ip6tables")
    for variant in ("", "-nft", "-legacy")
    for purpose in ("", "-save", "-restore")
)
MODULE_TOOLS = ("kmod", "modprobe", "rmmod", "lsmod", "depmod")
PROGRAMS = (*IPTABLES, *MODULE_TOOLS, "nft", "ip", "ss", "sysctl", "setpriv", "nsenter", "unshare", "ldconfig")
"""What the guest has apart from busybox, as far as it is installed here."""

LIBRARIES = ("libnftables.so.1",)
"""Shared libraries that are opened by name, and so named by no program."""

DISTRIBUTIONS = ("istio-capture", "click", "python-iptables", "setuptools", "pip-nftables")
TEST_DISTRIBUTIONS = (
    "pyroute2",
    "pytest",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
    "pytest-timeout",
    "hypothesis",
    "sortedcontainers",
)
"""Python packages that the guest gets from .venv, as far as they are installed there."""

STDLIB_WITHOUT = (
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
    "site-packages",
    "dist-packages",
)

PROJECT = ("capture", "cni", "initcontainer", "sidecar", "tests", "pyproject.toml")

DIRECTORIES = ("/bin", "/sbin", "/lib", "/lib64", "/proc", "/sys", "/dev", "/run", "/root", tempfile.gettempdir())

SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/protocols",
    "/etc/services",
)


class Manifest:
    """The files of a guest: where they are there, and what they are here."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes | Path]] = {}

    def __iter__(self) -> Iterator[tuple[str, int, bytes | Path]]:
        """Yield (path, mode, content), every directory before what is in it."""
        for path, (mode, content) in self._entries.items():
            yield path, mode, content

    def directory(self, path: str) -> None:
        """Have a directory, and those above it; where the host has a link in their place, that link."""
        if path in ("", "/") or path in self._entries:
            return
        self.directory(os.path.dirname(path))
        if os.path.islink(path):
            self.symlink(path, os.readlink(path))
            self.directory(os.path.realpath(path))
        else:
            self._entries[path] = (stat.S_IFDIR | 0o755, b"")

    def symlink(self, path: str, target: str) -> None:
        """Have a symbolic link."""
        self._entries[path] = (stat.S_IFLNK | 0o777, target.encode())

    def text(self, path: str, content: str, mode: int = 0o644) -> None:
        """Have a file of this content."""
        self.directory(os.path.dirname(path))
        self._entries[path] = (stat.S_IFREG | mode, content.encode())

    def file(self, path: str | Path, source: Path | None = None) -> None:
        """Have a file of the host, by default where it is; links on the way come along."""
        path = str(path)
        parent = os.path.dirname(path)
        self.directory(parent)
        place = os.path.join(os.path.realpath(parent), os.path.basename(path)) if source is None else path
        if place in self._entries:
            return
        if source is None and os.path.islink(place):
            target = os.readlink(place)
            self.symlink(place, target)
            self.file(os.path.join(os.path.dirname(place), target))
            return
        source = source or Path(place)
        self.directory(os.path.dirname(place))
        self._entries[place] = (stat.S_IFREG | stat.S_IMODE(source.stat().st_mode), source)

    def tree(self, path: Path, without: Iterable[str] = ()) -> None:
        """Have a directory with all that is in it, except names that are left out at its top."""
        left_out = set(without)
        self.directory(str(path))
        for folder, folders, files in os.walk(path):
            if Path(folder) == path:
                folders[:] = [name for name in folders if name not in left_out]
            for name in files:
                self.file(os.path.join(folder, name))

    def with_libraries(self) -> None:
        """Have the shared libraries that the programs and extension modules need."""
        binaries = [str(source) for _, _, source in self if isinstance(source, Path) and _is_elf(source)]
        for library in _libraries_of(binaries):
            self.file(library)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries_of(binaries: Sequence[str]) -> set[str]:
    """Return the paths that ldd(1) resolves, the dynamic loader's included."""
    printed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    return set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", printed, re.MULTILINE))


def manifest_of(modules: Path) -> Manifest:
    """Return the files of a guest; ``modules`` is the directory that becomes /lib/modules/RELEASE."""
    manifest = Manifest()
    for directory in DIRECTORIES:
        manifest.directory(directory)
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing; scripts/setup vm installs it"
    manifest.file(busybox)
    here = Path(__file__).parent
    manifest.text("/init", (here / "init").read_text().replace("@PYTHON@", sys.executable), 0o755)
    manifest.file("/agent.py", here / "agent.py")
    for file in SYSTEM_FILES:
        if os.path.exists(file):
            manifest.file(file)
    _add_programs(manifest)
    _add_python(manifest)
    for name in PROJECT:
        path = CHECKOUT / name
        if path.is_dir():
            manifest.tree(path)
        else:
            manifest.file(path)
    _add_modules(manifest, modules)
    manifest.with_libraries()
    return manifest


def _add_programs(manifest: Manifest) -> None:
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program in PROGRAMS:
        found = shutil.which(program, path=search)
        if found:
            manifest.file(found)
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for library in LIBRARIES:
        if found_at := re.search(rf"{re.escape(library)} .*=> (/\S+)", listed):
            manifest.file(found_at[1])
    for extensions in Path("/usr/lib").glob("*/xtables"):
        manifest.tree(extensions)


def _add_python(manifest: Manifest) -> None:
    interpreter = Path(os.path.realpath(sys.executable))
    manifest.file(interpreter)
    stdlib = Path(sysconfig.get_path("stdlib"))
    configuration = [path.name for path in stdlib.glob("config-*")]
    manifest.tree(stdlib, (*STDLIB_WITHOUT, *configuration))
    environment = Path(sys.prefix)
    manifest.file(environment / "pyvenv.cfg")
    manifest.file(environment / "bin" / "python")
    manifest.file(Path(sys.executable))
    for name in (*DISTRIBUTIONS, *TEST_DISTRIBUTIONS):
        for path in _files_of(name):
            manifest.file(path)


def _files_of(distribution: str) -> Iterator[Path]:
    """Yield the files of an installed Python package; none if it is not installed."""
    try:
        files = importlib.metadata.distribution(distribution).files or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(os.path.normpath(str(file.locate())))
        if path.is_file():
            yield path
    if distribution == "python-iptables":  # installed from source, it does not list what was built
        yield from Path(sysconfig.get_path("platlib")).glob("libxtwrapper*.so")


def _add_modules(manifest: Manifest, modules: Path) -> None:
    to = f"/lib/modules/{modules.name}"
    for path in modules.rglob("*"):
        if path.is_file() and _is_needed(path.relative_to(modules)):
            manifest.file(os.path.realpath("/lib") + to.removeprefix("/lib") + f"/{path.relative_to(modules)}", path)


def _is_needed(path: Path) -> bool:
    """Return whether the guest has this file of /lib/modules: netfilter, links of namespaces, lists of sockets."""
    parts = path.parts
    return (
        parts[0] != "kernel"
        or "netfilter" in parts
        or path.name in ("veth.ko", "dummy.ko", "libcrc32c.ko", "crc32c_generic.ko")
        or path.name in ("inet_diag.ko", "tcp_diag.ko", "udp_diag.ko")
    )


def write_archive(manifest: Manifest, archive: BinaryIO) -> None:
    """Write the manifest as a cpio archive of the format "newc"."""
    for number, (path, mode, content) in enumerate(manifest, 1):
        data = content if isinstance(content, bytes) else content.read_bytes()
        _write_entry(archive, number, path.lstrip("/"), mode, data)
    _write_entry(archive, 0, "TRAILER!!!", 0, b"")


def _write_entry(archive: BinaryIO, number: int, name: str, mode: int, data: bytes) -> None:
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device and special device (two each), length of the name, checksum
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    archive.write(header + b"\0" * (-len(header) % 4))
    archive.write(data)
    archive.write(b"\0" * (-len(data) % 4))
