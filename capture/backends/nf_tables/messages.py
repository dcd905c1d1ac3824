"""The messages that change a table of nf_tables, which both backends send. Pure."""

from __future__ import annotations

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.expressions import nest
from capture.netlink.attributes import attribute, c_string, s32be, u32be, u64be
from capture.netlink.messages import NLM_F_APPEND, NLM_F_CREATE, NLM_F_NONREC
from capture.netlink.nfnetlink import Change

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.nf_tables.names import Hook


class TableMessages:
    """The messages that change one table of one family, which is an NFPROTO_... number."""

    def __init__(self, family: int, table: str) -> None:
        self._family = family
        self._shown = f"{nf.NFT_FAMILIES[family]} {table}"
        self._name = attribute(nf.NFTA_TABLE_NAME, c_string(table))  # NFTA_CHAIN_TABLE and _RULE_TABLE are the same

    def add_table(self) -> Change:
        """Return the message that makes the table; of one that is there already, it only ends the dormancy."""
        flags = attribute(nf.NFTA_TABLE_FLAGS, u32be(0))
        return self._change(nf.NFT_MSG_NEWTABLE, flags, f"add table {self._shown}", NLM_F_CREATE)

    def delete_table(self, *, only_empty: bool = False) -> Change:
        """Return the message that deletes the table with all that is in it, or only if nothing is."""
        flags = NLM_F_NONREC if only_empty else 0
        return self._change(nf.NFT_MSG_DELTABLE, b"", f"delete table {self._shown}", flags)

    def flush_table(self) -> Change:
        """Return the message that deletes all rules of the table, and with them their anonymous sets."""
        return self._change(nf.NFT_MSG_DELRULE, b"", f"flush table {self._shown}")

    def add_chain(self, chain: str, hook: Hook | None, policy: str | None = "ACCEPT") -> Change:
        """Return the message that makes a chain; of a base chain that is there already, it sets the policy."""
        parts = attribute(nf.NFTA_CHAIN_NAME, c_string(chain))
        if hook is not None and policy is not None:
            parts += encode_hook(hook)
            parts += attribute(nf.NFTA_CHAIN_TYPE, c_string(hook.kind))
            parts += attribute(nf.NFTA_CHAIN_POLICY, u32be(nf.POLICIES.index(policy)))
        return self._change(nf.NFT_MSG_NEWCHAIN, parts, f"add chain {chain} to table {self._shown}", NLM_F_CREATE)

    def delete_chain(self, chain: str) -> Change:
        """Return the message that deletes a chain without rules, to which nothing jumps."""
        name = attribute(nf.NFTA_CHAIN_NAME, c_string(chain))
        return self._change(nf.NFT_MSG_DELCHAIN, name, f"delete chain {chain} of table {self._shown}", NLM_F_NONREC)

    def flush_chain(self, chain: str) -> Change:
        return self._change(nf.NFT_MSG_DELRULE, _chain_attribute(chain), f"flush chain {chain} of table {self._shown}")

    def add_rule(self, chain: str, attributes: bytes, *, name: str = "a rule", before: int | None = None) -> Change:
        """Return the message that puts a rule at the end of a chain, or before the rule with a handle."""
        flags = NLM_F_CREATE
        if before is None:
            flags |= NLM_F_APPEND
        else:
            attributes += attribute(nf.NFTA_RULE_POSITION, u64be(before))
        task = f"add {name} to chain {chain} of table {self._shown}"
        return self._change(nf.NFT_MSG_NEWRULE, _chain_attribute(chain) + attributes, task, flags)

    def delete_rule(self, chain: str, handle: int) -> Change:
        task = f"delete the rule with handle {handle} of chain {chain} of table {self._shown}"
        parts = _chain_attribute(chain) + attribute(nf.NFTA_RULE_HANDLE, u64be(handle))
        return self._change(nf.NFT_MSG_DELRULE, parts, task)

    def _change(self, kind: int, attributes: bytes, task: str, flags: int = 0) -> Change:
        return Change(kind, self._family, self._name + attributes, task, flags)


def encode_hook(hook: Hook) -> bytes:
    """Return the attribute with the hook of a base chain."""
    return nest(
        nf.NFTA_CHAIN_HOOK,
        attribute(nf.NFTA_HOOK_HOOKNUM, u32be(nf.HOOK_NAMES.index(hook.name))),
        attribute(nf.NFTA_HOOK_PRIORITY, s32be(hook.priority)),
    )


def _chain_attribute(chain: str) -> bytes:
    return attribute(nf.NFTA_RULE_CHAIN, c_string(chain))
