"""The driver ``iptc``: legacy tables through python-iptables, with no program of iptables installed.

python-iptables is libiptc and the extension libraries of iptables behind ctypes. It is powerful and fragile,
so it never runs in our own process: each family gets a forked child, in the namespace of the calling thread.

* REDIRECT and TPROXY work for the first family that a process uses, and for no other.
* A crash in C ends the child, and becomes an error here.
* What libraries print goes to the child's own stdout and stderr, which lead into memory (memfd_create(2)).
* Its import starts ldconfig and the compiler, and sets up caches that outlive a change of namespace.

``iptc_child`` is what happens in the child.
"""

from __future__ import annotations

import os
from operator import methodcaller

from capture.backends.iptables.driver import IptablesDriver, edits_by_family
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.programs import PROGRAM_NAMES, Finished
from capture.backends.iptables.refusals import program_refusal
from capture.backends.iptables.render import restore_text
from capture.backends.iptables.tables import legacy_tables
from capture.model.ruleset import TABLES, Ruleset
from capture.system.child import run_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from capture.backends.iptables.plan import TableEdit
    from capture.model.addresses import Family


class IptcDriver(IptablesDriver):
    """Writes and reads legacy tables with python-iptables."""

    name = "iptc"
    variant = "legacy"

    def title(self, family: Family) -> str:
        return f"python-iptables, in the words of {PROGRAM_NAMES[family]}-legacy-restore --noflush"

    def read_family(self, family: Family) -> Ruleset:
        tables = [table for table in TABLES if table in legacy_tables(family)]  # reading another would make it
        if not tables:
            return Ruleset((family,), ())
        return parse_save(_run_iptc("read the tables", methodcaller("save_tables", family, tables), family), family)

    def execute(self, edits: Sequence[TableEdit]) -> None:
        for family, of_family in edits_by_family(edits):
            _run_iptc("change the tables", methodcaller("apply_edits", of_family), family, restore_text(of_family))


def _run_iptc(task: str, work: Callable[[Any], str | None], family: Family, text: str = "") -> str:
    """Return what ``work`` returns for the module ``iptc_child``, in a child that alone imports it."""
    complaint = os.memfd_create("complaint")

    def work_quietly() -> str:
        os.dup2(os.memfd_create("noise"), 1)
        os.dup2(complaint, 2)
        from capture.backends.iptables import iptc_child

        return work(iptc_child) or ""

    try:
        status, answer = run_in_child(work_quietly, lambda error: f"{type(error).__name__}: {error}")
        if status == 0:
            return answer
        printed = os.pread(complaint, os.fstat(complaint).st_size, 0).decode("utf-8", "surrogateescape")
        words = f"{printed}{answer}".strip()
        if status < 0:
            words = f"python-iptables crashed with signal {-status}. {words}"
        raise program_refusal([f"python-iptables: {task}"], Finished(status, "", words), text, family)
    finally:
        os.close(complaint)
