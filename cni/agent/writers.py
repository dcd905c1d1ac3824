"""Names the program that rewrote the network configuration: the kernel sends it with each event (fanotify(7)).

That takes Linux 5.9 and CAP_SYS_ADMIN. A process outside of our process namespace has the number 0: in a pod that needs
``hostPID``. Else the type of the list's first plugin names the network that the list belongs to.
"""

from __future__ import annotations

import ctypes
import os
import struct

from capture.errors import CaptureError
from capture.system.files import content_of
from cni import install as installer

UNKNOWN_PROGRAM = "an unknown program"

# linux/fanotify.h
FAN_CLOEXEC, FAN_NONBLOCK, FAN_REPORT_FID = 0x1, 0x2, 0x200
FAN_MARK_ADD = 0x1
FAN_CLOSE_WRITE, FAN_MOVED_TO, FAN_CREATE, FAN_EVENT_ON_CHILD = 0x8, 0x80, 0x100, 0x0800_0000
EVENT_METADATA = struct.Struct("=IBBHQii")
"""struct fanotify_event_metadata: length, version, reserved, length of this, mask, descriptor, process."""
AT_FDCWD = -100  # linux/fcntl.h
BUFFER = 1 << 16


class ConfigurationWriters:
    """Listens until ``close``; without a capability or a kernel for it, it names no program."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._group = -1
        if hasattr(self._library, "fanotify_init"):
            flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_FID
            self._group = self._library.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC)

    def watch(self, directory: str) -> bool:
        """Listen for what is written in a directory, also if it was made anew; return whether that is possible."""
        mask = FAN_CLOSE_WRITE | FAN_MOVED_TO | FAN_CREATE | FAN_EVENT_ON_CHILD
        mark = self._library.fanotify_mark if self._group >= 0 else None
        path = os.fsencode(directory)
        return mark is not None and mark(self._group, FAN_MARK_ADD, ctypes.c_uint64(mask), AT_FDCWD, path) == 0

    def new_writers(self) -> list[int]:
        """Return the processes, other than this one, that have written since the last call, the latest last."""
        pids: list[int] = []
        while self._group >= 0:
            try:
                events = os.read(self._group, BUFFER)
            except OSError:
                break
            pids += _writing_processes(events)
        return [process for process in pids if process not in (0, os.getpid())]

    def close(self) -> None:
        if self._group >= 0:
            os.close(self._group)
            self._group = -1


def _writing_processes(events: bytes) -> list[int]:
    pids, position = [], 0
    while position + EVENT_METADATA.size <= len(events):
        length, _, _, _, _, descriptor, process = EVENT_METADATA.unpack_from(events, position)
        if descriptor >= 0:
            os.close(descriptor)
        pids.append(process)
        position += length
    return pids


def name_of_rival(conf_dir: str, writers: ConfigurationWriters) -> str:
    """Return the program's name, or how its list names it."""
    latest_first = reversed(writers.new_writers())
    named = (content_of(f"/proc/{process}/comm").decode(errors="replace").strip() for process in latest_first)
    return next(filter(None, named), "") or _owner_of_list(conf_dir) or UNKNOWN_PROGRAM


def _owner_of_list(conf_dir: str) -> str:
    try:
        network = installer.selected_network(conf_dir, but_own=True)
    except (CaptureError, OSError):
        return ""
    if network is None:
        return ""
    return f"the owner of {os.path.basename(network.path)} (plugin {network.plugins[0].get('type', '?')})"
