"""What changes in which order, in a language that a person reads."""

from __future__ import annotations

from capture.backends.nf_tables.hooks import Hook
from capture.backends.nf_tables.native import NativeChain, NativeRule, NativeTable
from capture.backends.nftables import plan
from capture.model.ruleset import Return

HOOK = Hook("nat", "output", -100)
RULE = NativeRule((), (Return(),))
OUTPUT = NativeChain("output", (RULE,), HOOK, "accept")
OWN = NativeChain("istio-output", (RULE, RULE))
NAT = NativeTable("nat", (OUTPUT, OWN))


class Words:
    """Changes of a table as words."""

    def __init__(self, table: str) -> None:
        self._table = table

    def add_table(self) -> str:
        return f"add table {self._table}"

    def delete_table(self) -> str:
        return f"delete table {self._table}"

    def flush_table(self) -> str:
        return f"flush table {self._table}"

    def add_chain(self, chain: str, hook: Hook | None, policy: str | None) -> str:
        return f"add chain {self._table} {chain} ({hook}, {policy})"

    def delete_chain(self, chain: str) -> str:
        return f"delete chain {self._table} {chain}"


def replaced(live: plan.LiveHooks) -> list[str]:
    return list(plan.table_changes((NAT,), live, Words))


MADE = ["add chain nat output (nat output -100, accept)", "add chain nat istio-output (None, None)"]


def test_tables_are_made_in_an_empty_namespace() -> None:
    assert replaced({}) == ["add table nat", *MADE]


def test_live_base_chains_are_kept() -> None:
    assert replaced({"nat": {"output": HOOK, "istio-output": None}}) == ["add table nat", "flush table nat", *MADE]


def test_a_table_that_must_go_as_a_whole_is_made_anew() -> None:
    assert replaced({"nat": None}) == ["delete table nat", "add table nat", *MADE]


def test_chains_that_are_no_more_are_deleted() -> None:
    live = {"nat": {"output": HOOK, "istio-old": None, "prerouting": HOOK}}

    assert replaced(live) == [
        "add table nat",
        "flush table nat",
        "delete chain nat istio-old",
        "delete chain nat prerouting",
        *MADE,
    ]


def test_chains_that_are_hooked_elsewhere_are_made_anew() -> None:
    live = {"nat": {"output": Hook("nat", "output", 5), "istio-output": HOOK}}

    assert replaced(live)[2:4] == ["delete chain nat output", "delete chain nat istio-output"]


def test_tables_that_are_no_more_are_deleted_last() -> None:
    assert replaced({"raw": {}, "mangle": {}}) == ["add table nat", *MADE, "delete table mangle", "delete table raw"]
