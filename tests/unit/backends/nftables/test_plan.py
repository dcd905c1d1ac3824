"""What goes from live tables, in which order."""

from __future__ import annotations

from capture.backends.nf_tables.names import Hook
from capture.backends.nf_tables.native import NativeChain, NativeRule, NativeTable
from capture.backends.nftables import netlink
from capture.model.ruleset import Return

HOOK = Hook("nat", "output", -100)
RULE = NativeRule((), (Return(),))
OUTPUT = NativeChain("output", (RULE,), HOOK, "ACCEPT")
OWN = NativeChain("istio-output", (RULE, RULE))
NAT = NativeTable("nat", (OUTPUT, OWN))


def removed(live: netlink.LiveHooks) -> list[str]:
    return [" ".join(filter(None, each)) for each in netlink.removals((NAT,), live)]


def test_nothing_goes_in_an_empty_namespace() -> None:
    assert removed({}) == []


def test_live_base_chains_are_kept() -> None:
    assert removed({"nat": {"output": HOOK, "istio-output": None}}) == ["flush nat"]


def test_a_table_that_must_go_as_a_whole_is_deleted() -> None:
    assert removed({"nat": None}) == ["delete nat"]


def test_chains_that_are_no_more_are_deleted() -> None:
    live = {"nat": {"output": HOOK, "istio-old": None, "prerouting": HOOK}}

    assert removed(live) == ["flush nat", "delete nat istio-old", "delete nat prerouting"]


def test_chains_that_are_hooked_elsewhere_are_made_anew() -> None:
    live = {"nat": {"output": Hook("nat", "output", 5), "istio-output": HOOK}}

    assert removed(live)[1:] == ["delete nat output", "delete nat istio-output"]


def test_tables_that_are_no_more_are_deleted() -> None:
    assert removed({"raw": {}, "mangle": {}}) == ["delete raw", "delete mangle"]
