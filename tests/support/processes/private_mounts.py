"""A /run of the test process, which goes when that ends, in any way.

The programs under test keep records under /run/istio-capture, without an option for another place. So each pytest
process, and with it all that it starts, has a mount namespace of its own with an empty directory there, and one for the
names of namespaces. Of a run that is killed nothing is left.
"""

import contextlib
import ctypes
import os

CLONE_NEWNS = 0x00020000  # linux/sched.h
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18  # linux/mount.h
MNT_DETACH = 2  # linux/fs.h
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # no function of the C library

PLACES = ("/run/istio-capture", "/run/netns")

OWN_MOUNTS = ("unshare", "--mount", "--propagation", "unchanged")
"""Runs a command with mounts of its own. Those of this process are private already."""

_libc = ctypes.CDLL(None, use_errno=True)


def make_private() -> None:
    """Give this process its own directories, if it may have them; without root no test keeps anything there."""
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):  # root of a container, where tests that need more skip
            _check(_libc.unshare(CLONE_NEWNS))
            _stop_propagation()
            for place in PLACES:
                os.makedirs(place, mode=0o700, exist_ok=True)
                _check(_libc.mount(b"tests", place.encode(), b"tmpfs", 0, b"mode=700"))


def _stop_propagation() -> None:
    """Make every mount of the namespace private, and the root directory of a chroot the root of the namespace.

    Propagation belongs to mount points, which the root of a chroot is not; and in a chroot the kernel makes no user
    namespaces, and runc no containers. So leave it for a moment: ``..`` ends at the root directory only if that is
    above the working directory (chroot(2)). Then bind the directory to itself, and pivot into it (pivot_root(2)).
    """
    here, root = os.getcwd(), os.open("/", os.O_PATH)
    try:
        os.chroot("/run")
        os.fchdir(root)
        while not os.path.samestat(os.stat("."), os.stat("..")):
            os.chdir("..")
        is_chroot = not os.path.samestat(os.stat("."), os.stat(root))
        os.chroot(".")
        _check(_libc.mount(b"none", b".", None, MS_REC | MS_PRIVATE, None))
        if is_chroot:
            place = os.readlink(f"/proc/self/fd/{root}").encode()
            _check(_libc.mount(place, place, None, MS_BIND | MS_REC, None))
            os.chdir(place)
            _check(_libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."))
            _check(_libc.umount2(b".", MNT_DETACH))
    finally:
        os.close(root)
        os.chdir(here)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
