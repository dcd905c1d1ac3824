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

from capture.backends.iptables.driver import IptablesDriver, by_family
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.programs import COMMANDS, Finished
from capture.backends.iptables.refusals import refusal
from capture.backends.iptables.restore_text import restore_text
from capture.backends.iptables.tables import legacy_tables
from capture.model.ruleset import TABLES, Ruleset
from capture.state.user_namespace import fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from capture.backends.iptables.plan import TableEdit
    from capture.model.addresses import Family


class IptcDriver(IptablesDriver):
    """Writes and reads legacy tables with python-iptables."""

    name = "iptc"
    variant = "legacy"

    def title(self, family: Family) -> str:
        return f"python-iptables, in the words of {COMMANDS[family]}-legacy-restore --noflush"

    def read_family(self, family: Family) -> Ruleset:
        tables = [table for table in TABLES if table in legacy_tables(family)]  # asking for another would make it
        if not tables:
            return Ruleset((family,), ())

        def save() -> str:
            from capture.backends.iptables import iptc_child

            return iptc_child.save(family, tables)

        return parse_save(_in_child("read the tables", save, family), family)

    def execute(self, edits: Sequence[TableEdit]) -> None:
        for family, of_family in by_family(edits):

            def write(mine: Sequence[TableEdit] = of_family) -> str:
                from capture.backends.iptables import iptc_child

                iptc_child.execute(mine)
                return ""

            _in_child("change the tables", write, family, restore_text(of_family))


def _in_child(doing: str, work: Callable[[], str], family: Family, text: str = "") -> str:
    """Return what ``work`` returns in a forked child. Raises UnsupportedError, PrivilegeError or ToolError."""
    answer, noise, complaint = (os.memfd_create(name) for name in ("answer", "noise", "complaint"))
    try:
        child = fork()
        if child == 0:
            _be_child(work, answer, noise, complaint)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return _content(answer)
        words = _content(complaint).strip()
        if status < 0:
            words = f"python-iptables crashed with signal {-status}. {words}"
        raise refusal([f"python-iptables: {doing}"], Finished(status, "", words), text, family)
    finally:
        for file in (answer, noise, complaint):
            os.close(file)


def _be_child(work: Callable[[], str], answer: int, noise: int, complaint: int) -> None:
    """Do the work and end the process; ``complaint`` gets what goes wrong."""
    status = 1
    try:
        os.dup2(noise, 1)
        os.dup2(complaint, 2)
        os.write(answer, work().encode("utf-8", "surrogateescape"))
        status = 0
    except BaseException as error:  # noqa: BLE001  # this process ends here; the parent raises what is written
        os.write(complaint, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
    finally:
        os._exit(status)


def _content(file: int) -> str:
    return os.pread(file, os.fstat(file).st_size, 0).decode("utf-8", "surrogateescape")
