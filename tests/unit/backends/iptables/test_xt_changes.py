"""From edits to messages: in which order, named by which handles, and what is tidied up in the end."""

from typing import Any

import pytest

from capture.backends.iptables.netlink import live_table, ruleset_of
from capture.backends.iptables.plan import TableEdit
from capture.backends.iptables.xt_changes import LiveTable, changes, own_built_in, removals, state_of
from capture.backends.iptables.xt_decode import FoundRule
from capture.backends.nf_tables.listing import FoundChain, FoundTable
from capture.backends.nf_tables.names import HOOKS, Hook
from capture.errors import CaptureError
from capture.model.addresses import FAMILY_NUMBERS, IPV4, IPV6
from capture.model.ruleset import FORWARD, INPUT, NAT, OUTPUT, POSTROUTING, PREROUTING, RAW, Accept, Jump, Return, Rule
from capture.netlink.attributes import decode_fields, decode_number
from capture.netlink.messages import NLM_F_NONREC

NFTA_RULE_POSITION = 6  # linux/netfilter/nf_tables.h
JUMP, OTHER = Rule(Jump("ISTIO_OUTPUT"), (), IPV4), Rule(Accept(), (), IPV4)


def chain(name: str, handle: int, *, hook: Hook | None = None, policy: str | None = "ACCEPT") -> FoundChain:
    """Return a chain of the table nat, with the hook it should have unless another one is given."""
    hook = hook or HOOKS.get((NAT, name))
    if hook is None:
        return unhooked(name, handle)
    return FoundChain(FAMILY_NUMBERS[IPV4], "nat", name, hook, policy, handle=handle)


def unhooked(name: str, handle: int) -> FoundChain:
    """Return a chain of the table nat that rules jump to."""
    return FoundChain(FAMILY_NUMBERS[IPV4], "nat", name, handle=handle)


def edited(**changes: Any) -> TableEdit:
    """Return an edit of the table nat of IPv4."""
    return TableEdit(IPV4, NAT, **changes)


def table(*chains: tuple[FoundChain, tuple[int, ...]], others: int = 0) -> LiveTable:
    """Return the table nat with chains, the handles of their rules, and so many things that are no chains."""
    rules = [FoundRule(found.name, handle, OTHER) for found, handles in chains for handle in handles]
    found = tuple(found for found, _ in chains)
    return live_table(FoundTable(FAMILY_NUMBERS[IPV4], NAT, len(chains) + others, chains=found), rules)


def words(existing: LiveTable | None, edit: TableEdit) -> list[str]:
    """Return what the messages do, rules that are inserted with the handle of the one they go before."""
    state = {} if existing is None else {(IPV4, NAT): existing}
    lines = []
    for change in changes([edit], state):
        position = decode_fields(change.attributes).get(NFTA_RULE_POSITION)
        before = "" if position is None else f" before {decode_number(position)}"
        lines.append(change.task.removesuffix(" to table ip nat").removesuffix(" of table ip nat") + before)
    return lines


class TestMessages:
    def test_an_empty_namespace_gets_tables_chains_and_rules(self) -> None:
        put = {"ISTIO_OUTPUT": (OTHER,), "ISTIO_REDIRECT": ()}
        assert words(None, edited(rewritten_chains=put, insertions=((OUTPUT, None, JUMP), (OUTPUT, None, OTHER)))) == [
            "add table ip nat",
            "add chain ISTIO_OUTPUT",
            "add chain ISTIO_REDIRECT",
            "add a rule to chain ISTIO_OUTPUT",
            "add chain OUTPUT",
            "add a rule to chain OUTPUT",
            "add a rule to chain OUTPUT",
        ]

    def test_our_chains_are_emptied_and_filled(self) -> None:
        existing = table((chain("ISTIO_OUTPUT", 1), (2, 3)), (chain(OUTPUT, 4), (5,)))
        assert words(existing, edited(rewritten_chains={"ISTIO_OUTPUT": (OTHER,)})) == [
            "flush chain ISTIO_OUTPUT",
            "add a rule to chain ISTIO_OUTPUT",
        ]

    def test_rules_go_before_what_stays(self) -> None:
        existing = table((chain(OUTPUT, 1), (11, 12, 13, 14)))
        placed = ((OUTPUT, 1, JUMP), (OUTPUT, 2, OTHER), (OUTPUT, 0, OTHER))
        assert words(existing, edited(removals=((OUTPUT, 2), (OUTPUT, 0)), insertions=placed)) == [
            "delete the rule with handle 13 of chain OUTPUT",
            "delete the rule with handle 11 of chain OUTPUT",
            "add a rule to chain OUTPUT before 14",
            "add a rule to chain OUTPUT before 14",
            "add a rule to chain OUTPUT before 12",
        ]

    def test_a_rule_at_the_end_names_no_other(self) -> None:
        existing = table((chain(OUTPUT, 1), (11,)))
        assert words(existing, edited(insertions=((OUTPUT, 1, JUMP),))) == ["add a rule to chain OUTPUT"]

    def test_a_chain_that_another_family_has_is_not_dropped_here(self) -> None:
        existing = table((chain("ISTIO_OUTPUT", 1), (2,)), (chain(INPUT, 3), ()))
        assert words(existing, edited(dropped_chains=("ISTIO_OUTPUT", "ISTIO-OUTPUT"))) == [
            "flush chain ISTIO_OUTPUT",
            "delete chain ISTIO_OUTPUT",
        ]
        assert words(None, edited(dropped_chains=("ISTIO_OUTPUT",))) == []

    def test_a_chain_in_the_way_is_named(self) -> None:
        existing = table((chain(OUTPUT, 1, hook=Hook("nat", "output", -5)), ()))
        with pytest.raises(CaptureError, match=r"OUTPUT\(nat output -5\)"):
            words(existing, edited(insertions=((OUTPUT, None, JUMP),)))

    def test_our_rules_leave_a_chain_of_any_name(self) -> None:
        existing = table((unhooked(OUTPUT, 1), (7,)))
        assert words(existing, edited(removals=(("OUTPUT(not hooked)", 0),))) == [
            "delete the rule with handle 7 of chain OUTPUT"
        ]


class TestTidyingUp:
    OWN = (chain("ISTIO_OUTPUT", 1), (2, 3))
    CLEAN = edited(removals=((OUTPUT, 0),), dropped_chains=("ISTIO_OUTPUT",))

    def test_everything_goes_that_was_made_for_us(self) -> None:
        assert words(table(self.OWN, (chain(OUTPUT, 4), (5,))), self.CLEAN)[-2:] == [
            "delete chain OUTPUT",
            "delete table ip nat",
        ]

    def test_what_others_have_put_there_meanwhile_stays(self) -> None:
        """The kernel refuses to delete what is not empty, so that nothing is lost."""
        live = {(IPV4, NAT): table(self.OWN, (chain(OUTPUT, 4), (5,)))}
        deleted = [
            change for change in changes([self.CLEAN], live) if change.task.startswith(("delete chain", "delete table"))
        ]
        assert [change.flags & NLM_F_NONREC for change in deleted] == [NLM_F_NONREC] * 3

    def test_a_table_without_built_in_chains_goes(self) -> None:
        assert words(table(self.OWN), edited(dropped_chains=("ISTIO_OUTPUT",)))[-1] == "delete table ip nat"

    def test_a_table_with_anything_else_stays(self) -> None:
        assert words(table(self.OWN, (chain(OUTPUT, 4), (5,)), others=1), self.CLEAN)[-1] == "delete chain OUTPUT"
        with_input = table(self.OWN, (chain(OUTPUT, 4), (5,)), (chain(INPUT, 6), ()))
        assert words(with_input, self.CLEAN)[-1] == "delete chain OUTPUT"

    def test_a_chain_with_a_rule_of_others_stays(self) -> None:
        existing = table(self.OWN, (chain(OUTPUT, 4), (5, 6)))
        assert words(existing, self.CLEAN)[-1] == "delete chain ISTIO_OUTPUT"

    @pytest.mark.parametrize(
        ("edit", "last"),
        [
            (edited(removals=((OUTPUT, 0),)), ["delete chain OUTPUT", "delete table ip nat"]),
            (edited(dropped_chains=("ISTIO_OUTPUT",)), []),
            (edited(insertions=((OUTPUT, None, JUMP),)), []),
        ],
    )
    def test_chains_that_iptables_nft_has_emptied_go_too(self, edit: TableEdit, last: list[str]) -> None:
        emptied = {(IPV4, NAT): table((chain(OUTPUT, 4), ()))}
        tables = " to table ip nat", " of table ip nat"
        found = [each.task.removesuffix(tables[0]).removesuffix(tables[1]) for each in removals([edit], emptied)]
        assert found == last

    def test_where_there_is_no_table_nothing_goes(self) -> None:
        assert list(removals([edited(removals=((OUTPUT, 0),))], {})) == []

    def test_a_chain_with_a_policy_stays_when_it_is_empty(self) -> None:
        emptied = {(IPV4, NAT): table((chain(OUTPUT, 4, policy="DROP"), ()))}
        assert list(removals([edited(removals=((OUTPUT, 0),))], emptied)) == []

    def test_chains_of_others_stay(self) -> None:
        existing = table((chain(OUTPUT, 1), (4,)), (chain("ISTIO_OUTPUT", 2), (3,)))
        assert words(existing, self.CLEAN)[-1] == "delete chain ISTIO_OUTPUT"


class TestMakers:
    """Who made PREROUTING and OUTPUT; our rules are in position 0 of foreign chains."""

    @pytest.mark.parametrize(
        ("existing", "made"),
        [
            # made with their first rules, as by us and by iptables
            ([("ISTIO_INBOUND", 1, (2,)), (PREROUTING, 3, (4,)), (OUTPUT, 5, (6,))], {PREROUTING, OUTPUT}),
            # by a restored listing, all built-in chains at once
            (
                [(PREROUTING, 1, (6,)), (INPUT, 2, ()), (OUTPUT, 3, (7,)), (POSTROUTING, 4, ()), ("ISTIO_X", 5, ())],
                set(),
            ),
            ([(PREROUTING, 1, (4,)), (OUTPUT, 2, (5,)), ("ISTIO_OUTPUT", 3, ())], set()),
            # one by another program with its own rule, one by us
            ([(PREROUTING, 1, (4, 2)), ("ISTIO_OUTPUT", 3, ()), (OUTPUT, 5, (6,))], {OUTPUT}),
            ([("foreign", 1, (2,)), (PREROUTING, 3, ()), ("foreign too", 4, ())], set()),
            # our first rules are gone, later ones are there
            ([(PREROUTING, 3, (20,)), ("ISTIO_OUTPUT", 19, ())], {PREROUTING}),
            ([(PREROUTING, 3, (22,)), (OUTPUT, 6, (21,)), ("ISTIO_OUTPUT", 19, ())], {PREROUTING, OUTPUT}),
            # nothing that was made later is left
            ([("foreign", 1, ()), (OUTPUT, 2, ())], set()),
        ],
    )
    def test_are_named_by_handles(self, existing: list[tuple[str, int, tuple[int, ...]]], made: set[str]) -> None:
        of_table = table(*((chain(name, handle), rules) for name, handle, rules in existing))
        assert own_built_in(NAT, of_table, {(PREROUTING, 0), (OUTPUT, 0)}) == made

    @pytest.mark.parametrize(
        "found",
        [chain(OUTPUT, 2, policy="DROP"), chain(OUTPUT, 2, hook=Hook("nat", "output", -5)), chain(POSTROUTING, 2)],
    )
    def test_some_are_never_our_own(self, found: FoundChain) -> None:
        assert own_built_in(NAT, table((found, (3,)), (chain("ISTIO_OUTPUT", 4), ())), {(OUTPUT, 0)}) == set()


class TestTables:
    @pytest.mark.parametrize(
        ("found", "state"),
        [
            (chain(OUTPUT, 1), ""),
            (chain(OUTPUT, 1, hook=Hook("filter", "output", -100)), "filter output -100"),
            (unhooked(OUTPUT, 1), "not hooked"),
            (unhooked(FORWARD, 1), ""),
            (unhooked("DOCKER", 1), ""),
            (chain("prerouting", 1, hook=Hook("nat", "prerouting", -100)), ""),
        ],
    )
    def test_a_chain_that_is_no_built_in_one_is_not_called_so(self, found: FoundChain, state: str) -> None:
        assert state_of(NAT, found) == state

    def test_built_in_chains_are_listed_even_where_there_are_none(self) -> None:
        existing = {(IPV6, RAW): LiveTable(0, {}, {})}
        (of_raw,) = ruleset_of((IPV4, IPV6), existing).tables
        assert [each.name for each in of_raw.chains] == [PREROUTING, OUTPUT]
        assert {each.policy_for(IPV6) for each in of_raw.chains} == {"ACCEPT"}

    def test_rules_of_both_families_are_in_one_chain(self) -> None:
        rule4, rule6 = Rule(Return(), (), IPV4), Rule(Return(), (), IPV6)
        existing = {
            (family, NAT): live_table(
                FoundTable(FAMILY_NUMBERS[family], NAT, 1, chains=(chain(OUTPUT, 1),)), [FoundRule(OUTPUT, 2, rule)]
            )
            for family, rule in ((IPV4, rule4), (IPV6, rule6))
        }
        ruleset = ruleset_of((IPV4, IPV6), existing)
        output = ruleset.tables[0].chain(OUTPUT)
        assert output is not None
        assert output.rules == (rule4, rule6)
        assert ruleset.families == (IPV4, IPV6)
