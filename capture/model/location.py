"""Where a rule is, in the one form in which every program prints it; and a fault, with what to do about it."""

from __future__ import annotations

from capture.model.addresses import FAMILY_NAMES, Family
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Location(Value):
    """A rule's table, chain and position there, which counts from 1; without a position, a whole chain.

    ``table`` is one of our own, or what listings call a foreign one ("ip filter", "filter of iptables"). ``family`` is
    None where that name has it. ``hook`` is, in words, that of a foreign base chain of nf_tables, with its priority.
    """

    table: str
    chain: str
    position: int = 0
    family: Family | None = None
    hook: str = ""

    def __str__(self) -> str:
        family = f"{FAMILY_NAMES[self.family]} " if self.family else ""
        rule = f"rule {self.position}" if self.position else ""
        return ", ".join(filter(None, (f"{family}{self.table} {self.chain}", self.hook, rule)))

    @property
    def short(self) -> str:
        """Return it for a listing of one family: "nat OUTPUT 1"."""
        return f"{self.table} {self.chain} {self.position or ''}".rstrip()

    @property
    def chain_location(self) -> Location:
        return self.replace(position=0)


class Cause(Value):
    """One reason: its kind, the fault in words, what to do about it, and where it is.

    ``where`` is the location of a rule, which the message lacks, or the name of what it is about: an interface, a port.
    """

    not_compared = ("case", "words")

    kind: str
    message: str
    remedy: str
    where: Location | str = ""
    case: str = ""
    words: Mapping[str, object] = {}  # never changed
    """What fills the braces of the text that ``kind`` and ``case`` name."""
