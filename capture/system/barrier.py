"""Waiting for packets in flight: a packet that passes after this meets all rules that were written before it.

A packet goes through all hooks of one place (raw, mangle and nat at PREROUTING) in one go, and it is unknown where
it is. But the kernel does it in a read-side critical section of RCU (``nf_hook`` in linux/netfilter.h), and
membarrier(2) waits until every such section that had begun is over (``synchronize_rcu`` in kernel/sched/membarrier.c),
also where the processor of a virtual machine was taken away in the middle of it.
"""

from __future__ import annotations

import os
import time

GRACE_SECONDS = 0.02
"""Seconds; by far longer than a packet takes from one hook of netfilter to the next, if nothing holds it up."""

MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
"""Numbers of the system call, for which the C library has no function (asm/unistd.h)."""
MEMBARRIER_CMD_GLOBAL = 1  # linux/membarrier.h


def wait_for_packets_in_flight() -> None:
    """Return when all packets have left the hook at which they are now."""
    time.sleep(GRACE_SECONDS)
    number = MEMBARRIER.get(os.uname().machine)
    if number is not None:
        _call(number, MEMBARRIER_CMD_GLOBAL)


def _call(number: int, command: int) -> int:
    """Make the system call; if the kernel refuses it (``nohz_full``, seccomp), the sleep was all."""
    try:
        import ctypes  # costs milliseconds; only a change from REDIRECT to TPROXY waits
    except ImportError:
        return -1
    return int(ctypes.CDLL(None).syscall(number, command, 0, 0))
