"""The messages that change a table of iptables-nft. Pure."""

from __future__ import annotations

from capture.backends.iptables.xt_encode import compat, expressions
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.hooks import HOOKS, encode_hook
from capture.netlink.attributes import attribute, text, u32be, u64be
from capture.netlink.batch import Change
from capture.netlink.messages import NLM_F_APPEND, NLM_F_CREATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.addresses import Family
    from capture.model.ruleset import Rule, TableName

# linux/netfilter/nf_tables.h, beyond what the nftables backend needs
NFTA_RULE_HANDLE, NFTA_RULE_POSITION = 3, 6
NLM_F_NONREC = 0x100  # linux/netlink.h: delete only what is empty


class TableMessages:
    """The messages that change one table of one family."""

    def __init__(self, family: Family, table: TableName) -> None:
        self._family = family
        self._table = table
        self._nfproto = nf.FAMILY_NUMBERS[family]
        self._shown = f"{nf.TABLE_FAMILIES[family]} {table}"
        self._name = attribute(nf.NFTA_TABLE_NAME, text(table))  # NFTA_CHAIN_TABLE, NFTA_RULE_TABLE: the same number

    def add_table(self) -> Change:
        """Return the message that makes the table, or does nothing if there is one."""
        return Change(nf.NFT_MSG_NEWTABLE, self._nfproto, self._name, f"add table {self._shown}", NLM_F_CREATE)

    def delete_table(self) -> Change:
        """Return the message that deletes the table, if nothing is in it."""
        return Change(nf.NFT_MSG_DELTABLE, self._nfproto, self._name, f"delete table {self._shown}", NLM_F_NONREC)

    def add_chain(self, chain: str) -> Change:
        """Return the message that makes a chain: a built-in one with its hook, or one to jump to."""
        hook = HOOKS.get((self._table, chain))
        parts = self._name + attribute(nf.NFTA_CHAIN_NAME, text(chain))
        if hook is not None:
            parts += encode_hook(hook)
            parts += attribute(nf.NFTA_CHAIN_POLICY, u32be(nf.NF_ACCEPT))
            parts += attribute(nf.NFTA_CHAIN_TYPE, text(hook.kind))
        doing = f"add chain {chain} to table {self._shown}"
        return Change(nf.NFT_MSG_NEWCHAIN, self._nfproto, parts, doing, NLM_F_CREATE)

    def delete_chain(self, chain: str) -> Change:
        """Return the message that deletes a chain without rules, to which nothing jumps."""
        parts = self._name + attribute(nf.NFTA_CHAIN_NAME, text(chain))
        doing = f"delete chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_DELCHAIN, self._nfproto, parts, doing, NLM_F_NONREC)

    def flush_chain(self, chain: str) -> Change:
        """Return the message that deletes all rules of a chain."""
        doing = f"flush chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_DELRULE, self._nfproto, self._name + _of_chain(chain), doing)

    def delete_rule(self, chain: str, handle: int) -> Change:
        """Return the message that deletes one rule."""
        parts = self._name + _of_chain(chain) + attribute(NFTA_RULE_HANDLE, u64be(handle))
        doing = f"delete the rule with handle {handle} of chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_DELRULE, self._nfproto, parts, doing)

    def add_rule(self, chain: str, rule: Rule, before: int | None = None) -> Change:
        """Return the message that puts a rule at the end of a chain, or before the rule with a handle.

        Raises ValueError for a rule that iptables cannot express.
        """
        parts = self._name + _of_chain(chain)
        parts += attribute(nf.NFTA_RULE_EXPRESSIONS, expressions(rule, self._family))
        parts += compat(rule)
        flags = NLM_F_CREATE
        if before is None:
            flags |= NLM_F_APPEND
        else:
            parts += attribute(NFTA_RULE_POSITION, u64be(before))
        doing = f"add a rule to chain {chain} of table {self._shown}"
        return Change(nf.NFT_MSG_NEWRULE, self._nfproto, parts, doing, flags)


def _of_chain(chain: str) -> bytes:
    return attribute(nf.NFTA_RULE_CHAIN, text(chain))
