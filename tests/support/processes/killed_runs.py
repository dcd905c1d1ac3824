"""Kills a run at each moment that differs for others from the one before, and repairs with one successful run.

    python killed_runs.py JSON        in a captured pod; prints what went wrong, as JSON

The JSON has ``before`` and ``killed``, each a driver and a variant of ``settings``, and ``expected``, the states after
a run of each in an empty pod. Before each change that the killed run would make to the kernel or to a file it is
killed, and at its end; the next run is of the same settings, or of those from before.
"""

import json
import os
import signal
import sys
from functools import cache, partial

from capture import operations
from capture.analysis.canonical import canonical
from capture.model.addresses import FAMILIES
from capture.netlink.interfaces import read_addresses
from capture.netlink.policy_rules import read_policy_rules
from capture.netlink.routing import has_local_route
from capture.netlink.rtnetlink import AF_INET, AF_INET6, open_rtnetlink
from support.captures.settings import DRIVERS, VARIANTS, settings
from support.processes.system_calls import current_call, run_stepped

Choice = tuple[str, str]
"""A driver and a variant."""
canonical_once = cache(canonical)
"""Nearly every repaired pod has the rules of one before."""

# asm/unistd_64.h; our programs use no others to change anything. A program that is started changes nothing yet: its
# rules are written to it. A process that is forked has them already.
SENDTO, SENDMSG, WRITE, RENAME, UNLINK, FORK, CLONE = 44, 46, 1, 82, 87, 57, 56
CHANGING_CALLS = {WRITE, RENAME, UNLINK, FORK, CLONE}
CLONE_VFORK = 0x4000  # linux/sched.h: how posix_spawn(3) starts a program
# linux/rtnetlink.h: new and deleted addresses, routes, rules; linux/netfilter/nfnetlink.h: the beginning of a batch
CHANGING_MESSAGES = {20, 21, 24, 25, 32, 33, 0x10}


def apply_with(choice: Choice) -> None:
    """Make the pod's rules those of a driver and a variant."""
    driver, variant = choice
    operations.apply(settings(VARIANTS[variant], DRIVERS[driver]))


def live_state() -> str:
    """Return everything of the capture in the namespace, in words that do not depend on how it came to be."""
    seen: list[object] = []
    for found in operations.dump().live_sets:
        # Built-in chains may be there and be empty: iptables-nft makes them, and a run that is killed leaves them.
        chains = [(table.name, c.name) for table in found.live.tables for c in table.chains if c.rules or not c.policy]
        rules = [
            sorted(((place, c) for place, c in canonical_once(found.live, family).items() if c.rules), key=repr)
            for family in FAMILIES
        ]
        seen.append((*found.choice.place, sorted(chains), rules))
    with open_rtnetlink() as rtnetlink:
        marks = sorted((rule.family, rule.mark, rule.table) for rule in read_policy_rules(rtnetlink) if rule.is_plain)
        tables = [t for t in (133, 88) for family in (AF_INET, AF_INET6) if has_local_route(rtnetlink, family, t)]
        addresses = [each.address for each in read_addresses(rtnetlink) if not each.address.is_link_local]
        seen += [marks, tables, sorted(map(str, addresses))]
    return repr(seen)


def is_change(pid: int) -> bool:
    """Return whether a process is about to change something that others can see."""
    call, *arguments = current_call(pid)
    if call not in (SENDTO, SENDMSG):
        return call in CHANGING_CALLS and not (call == CLONE and arguments[0] & CLONE_VFORK)
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:

        def word_at(address: int, size: int) -> int:
            memory.seek(address)
            return int.from_bytes(memory.read(size), sys.byteorder)

        message = arguments[1]
        if call == SENDMSG:  # struct msghdr, whose third word is a struct iovec, whose first word is the message
            message = word_at(word_at(message + 16, 8), 8)
        return word_at(message + 4, 2) in CHANGING_MESSAGES


class Killer:
    """Kills a process before its change with this number."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.reached = 0

    def __call__(self, pid: int, _call: int) -> None:
        """Look at the system call before which the process is stopped."""
        if self.reached < self.number and is_change(pid):
            self.reached += 1
            if self.reached == self.number:
                os.kill(pid, signal.SIGKILL)


def kill_everywhere(before: Choice, killed: Choice, expected: dict[str, str]) -> dict[str, object]:
    """Return at how many moments a run was killed, and after which of them the next run did not repair it."""
    wrong: list[str] = []
    number, unharmed = 0, 0
    while unharmed < len(ROUND):
        number += 1
        unharmed = 0
        for which, then in ROUND:
            choices = {"there": killed, "back": before}
            unharmed += run_stepped(partial(apply_with, choices[which]), Killer(number)) == 0
            apply_with(choices[then])
            if live_state() != expected[choices[then][1]]:
                wrong.append(f"{which}, killed before change {number}, then {then}: {live_state()}")
    return {"moments": number - 1, "wrong": wrong}


ROUND = (("there", "there"), ("back", "there"), ("back", "back"))
"""Which run is killed, and which one follows: the same, or the other."""


if __name__ == "__main__":
    explicit = json.loads(sys.argv[1])
    print(json.dumps(kill_everywhere(tuple(explicit["before"]), tuple(explicit["killed"]), explicit["expected"])))  # noqa: T201  # for the test
