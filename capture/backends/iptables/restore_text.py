"""From a plan to the text for iptables-restore; pure.

With ``--noflush``, a line ``:CHAIN - [0:0]`` creates one of our chains, or empties the one that is there
(iptables-restore(8)); built-in chains are not declared, so that their policies and counters stay. What
is between ``*table`` and ``COMMIT`` happens at once, or not at all.
"""

from __future__ import annotations

from capture.backends.iptables.plan import AppendRule, DropChain, InsertRule, PutChain, RemoveRule
from capture.backends.iptables.render import rule_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.backends.iptables.plan import TableEdit


def restore_text(edits: Iterable[TableEdit]) -> str:
    """Return what to feed to ``iptables-restore --noflush`` for table edits of one family."""
    return "".join(f"{line}\n" for edit in edits for line in _lines(edit))


def _lines(edit: TableEdit) -> Iterator[str]:
    yield f"*{edit.table}"
    for change in edit.edits:
        if isinstance(change, PutChain | DropChain):
            yield f":{change.chain} - [0:0]"
    for change in edit.edits:
        if isinstance(change, PutChain):
            for rule in change.rules:
                yield f"-A {change.chain} {rule_text(rule)}".rstrip()
        elif isinstance(change, AppendRule):
            yield f"-A {change.chain} {rule_text(change.rule)}".rstrip()
        elif isinstance(change, RemoveRule):
            yield f"-D {change.chain} {change.position + 1}"
        elif isinstance(change, InsertRule):
            yield f"-I {change.chain} {change.position + 1} {rule_text(change.rule)}".rstrip()
        else:
            yield f"-X {change.chain}"
    yield "COMMIT"
