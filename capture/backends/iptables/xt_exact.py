"""Whether the tables of iptables-nft are exactly what we would write (``nf_tables.exact``)."""

from __future__ import annotations

from capture.backends.iptables.plan import TableView
from capture.backends.iptables.xt_encode import matches_of, verdict_of
from capture.backends.iptables.xt_messages import TableMessages
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.exact import chains_are, rules_are
from capture.model.ruleset import BUILT_IN_CHAINS, TABLES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.addresses import Family
    from capture.model.ruleset import Ruleset
    from capture.netlink.batch import Change
    from capture.netlink.sockets import NetlinkSocket


def holds_exactly(netfilter: NetlinkSocket, desired: Ruleset) -> bool:
    """Return whether the tables of iptables are the desired ones, to the byte; False does not mean that they differ."""
    views = [
        (family, TableView(desired, family, table.name)) for family in desired.families for table in desired.tables
    ]
    chains = (message for family, view in views for message in _chains(family, view))
    return chains_are(netfilter, nf.FAMILIES, TABLES, chains) and all(
        _rules_are(netfilter, family, view) for family, view in views
    )


def _chains(family: Family, view: TableView) -> Iterator[Change]:
    """Yield the messages for the chains of one table that ``write`` makes."""
    used = [chain for chain in BUILT_IN_CHAINS[view.table] if view.rules(chain)]
    return map(TableMessages(family, view.table).add_chain, (*used, *view.our_chains()))


def _rules_are(netfilter: NetlinkSocket, family: Family, view: TableView) -> bool:
    wanted = {
        chain.name: ((matches_of(rule, family), verdict_of(rule, family), b"") for rule in view.rules(chain.name))
        for chain in view.chains()
    }
    has_rules = any(view.rules(chain) for chain in wanted)
    return not has_rules or rules_are(netfilter, nf.FAMILY_NUMBERS[family], view.table, wanted)
