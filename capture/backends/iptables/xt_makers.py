"""Who made the live built-in chains of a table: we, for a rule of ours, or another program. Pure.

It is written down nowhere, but handles tell: they count up in a table with everything that is made there, be it chain
or rule, and are never used again. We make a built-in chain when the first rule needs it, as iptables 1.8.9
does, so at first it is followed by that rule. Later the rule may be gone, and what follows then is whatever of that
time is still there.

    1 PREROUTING, 2 INPUT, 3 OUTPUT, 4 POSTROUTING, 5 ISTIO_INBOUND, ...    foreign: chains follow at once
    1 PREROUTING, 2 a rule of others, 3 OUTPUT, 4 our jump, ...             PREROUTING is foreign, OUTPUT ours
    1 ISTIO_INBOUND, 2 its rule, 3 PREROUTING, 4 our jump, 5 OUTPUT, ...    ours
    3 PREROUTING, 19 ISTIO-INBOUND, ...                                     ours, of an earlier rule set
"""

from __future__ import annotations

from capture.backends.nf_tables.hooks import HOOKS
from capture.model.chain_names import is_our_chain
from capture.model.ruleset import OUTPUT, PREROUTING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from capture.backends.iptables.xt_decode import FoundChain
    from capture.backends.iptables.xt_tables import LiveTable
    from capture.model.ruleset import TableName

CHAINS_WE_USE = (PREROUTING, OUTPUT)
"""The built-in chains that rule sets of ours and of upstream's have rules in."""


def made_by_us(name: TableName, table: LiveTable, our_rules: Collection[tuple[str, int]]) -> frozenset[str]:
    """Return the built-in chains that were made for rules of ours and accept what has no rule.

    ``our_rules`` are those in chains that are not ours, by chain and position.
    """
    undecided = {
        chain.found.handle: chain.found.name for chain in table.chains.values() if _may_be_own(name, chain.found)
    }
    chains = {chain.found.handle for chain in table.chains.values()}
    is_own: dict[int, bool] = {}
    for called, chain in table.chains.items():
        is_own[chain.found.handle] = is_our_chain(called)
        for position, rule in enumerate(chain.rules):
            is_own[rule.handle] = is_our_chain(called) or (called, position) in our_rules
    following = None
    for handle in sorted(is_own, reverse=True):
        if handle in undecided:
            at_once_a_chain = following == handle + 1 and following in chains
            is_own[handle] = following is not None and is_own[following] and not at_once_a_chain
        following = handle
    return frozenset(called for handle, called in undecided.items() if is_own[handle])


def _may_be_own(table: TableName, chain: FoundChain) -> bool:
    return chain.name in CHAINS_WE_USE and chain.policy == "ACCEPT" and chain.hook == HOOKS[table, chain.name]
