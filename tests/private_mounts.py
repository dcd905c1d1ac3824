"""What tests keep under /run belongs to their process: it goes when that ends, in whatever way.

The programs under test keep records under /run/istio-capture, and are not told another place: nobody could tell
them in a pod. So each pytest process, and with it all that it starts, has a mount namespace of its own with an
empty directory there, and one for the names of namespaces. Of a run that is killed nothing is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

CLONE_NEWNS = 0x00020000  # linux/sched.h
MS_REC, MS_PRIVATE = 1 << 14, 1 << 18  # linux/mount.h

PLACES = ("/run/istio-capture", "/run/netns")

OWN_MOUNTS = ("unshare", "--mount", "--propagation", "unchanged")
"""Runs a command with mounts of its own. Those of this process are private; to say so again fails in a chroot."""

_libc = ctypes.CDLL(None, use_errno=True)


def make_private() -> None:
    """Give this process its own directories, if it may have them; without root no test keeps anything there."""
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):  # root of a container, where tests that need more say so
            _check(_libc.unshare(CLONE_NEWNS))
            _stop_propagation()
            for place in PLACES:
                os.makedirs(place, mode=0o700, exist_ok=True)
                _check(_libc.mount(b"tests", place.encode(), b"tmpfs", 0, b"mode=700"))


def _stop_propagation() -> None:
    """Make every mount of the namespace private.

    That is said of mount points, and the root directory of a chroot is none. So go up to the root of the namespace
    for a moment: ``..`` ends at the root directory only if that is above the working directory (chroot(2)).
    """
    root, here = os.open("/", os.O_PATH), os.open(".", os.O_PATH)
    try:
        os.chroot("/run")
        os.fchdir(root)
        while not os.path.samestat(os.stat("."), os.stat("..")):
            os.chdir("..")
        _check(_libc.mount(b"none", b".", None, MS_REC | MS_PRIVATE, None))
    finally:
        os.fchdir(root)
        os.chroot(".")
        os.fchdir(here)
        os.close(root)
        os.close(here)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
