"""Whether what comes back from the kernel is what was sent: chains and rules, to the byte.

It has the same order of attributes, but for counters. So nothing has to be decoded to see that all is well, which
is how it nearly always is.
"""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import COUNTER
from capture.netlink.attributes import attribute

TYPE_CHECKING = False
if TYPE_CHECKING:
    Fields = dict[int, bytes]

COMPARED_OF_CHAIN = (nf.NFTA_CHAIN_HOOK, nf.NFTA_CHAIN_TYPE, nf.NFTA_CHAIN_POLICY)

COUNTER_HEAD = COUNTER[: COUNTER.index(b"counter\0") + len(b"counter\0")]
"""The counter expression up to its name; what follows are its values."""


def compared_of_chain(fields: Fields) -> Fields:
    """Return the attributes of a chain that are compared."""
    return {kind: fields[kind] for kind in COMPARED_OF_CHAIN if kind in fields}


def rule_is(found: Fields, before: bytes, after: bytes, userdata: bytes = b"") -> bool:
    """Return whether a rule came back as it was sent: these expressions, a counter of any value, those, a comment."""
    expressions = found[nf.NFTA_RULE_EXPRESSIONS]
    comment = attribute(nf.NFTA_RULE_USERDATA, found[nf.NFTA_RULE_USERDATA]) if nf.NFTA_RULE_USERDATA in found else b""
    return (
        len(expressions) == len(before) + len(COUNTER) + len(after)
        and expressions.startswith(before + COUNTER_HEAD)
        and expressions.endswith(after)
        and comment == userdata
    )
