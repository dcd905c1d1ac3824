"""The edits that make the desired rules of the live ones, and their text for iptables-restore."""

import pytest

from capture.backends.iptables.families import merge_families
from capture.backends.iptables.parse import parse_save
from capture.backends.iptables.plan import TableEdit, plan
from capture.backends.iptables.render import restore_text, rule_text, save_text
from capture.model.addresses import FAMILIES, IPV4, IPV6
from capture.model.ruleset import (
    MANGLE,
    NAT,
    OUTPUT,
    PREROUTING,
    RAW,
    Chain,
    ConnectionMark,
    Jump,
    Mark,
    Match,
    OutInterface,
    Redirect,
    Return,
    Rule,
    Ruleset,
    SetZone,
    Table,
    TransparentProxy,
    UnknownVerdict,
)
from support.rules.iptables_cases import TCP, UDP
from support.rules.iptables_simulation import Tables

NOTHING = Ruleset(FAMILIES, ())


def ruleset(*rules: Rule, output: str = "ISTIO_OUTPUT", families: tuple = FAMILIES) -> Ruleset:  # type: ignore[type-arg]  # of Family
    """Return a small capture whose chain for output has the rules."""
    chains = (
        Chain(OUTPUT, (Rule(Return(), (OutInterface("eth1"),)), Rule(Jump(output), (TCP,)))),
        Chain(output, rules or (Rule(Redirect(15001), (TCP,), why="to the proxy"),)),
    )
    return Ruleset(families, (Table(NAT, chains),))


def present(*lines: str, chain: str = OUTPUT) -> Ruleset:
    """Return an IPv4 nat table with these rules in a built-in chain."""
    declared = [":OUTPUT ACCEPT [0:0]", ":PREROUTING ACCEPT [0:0]", ":ISTIO_OUTPUT - [0:0]", ":DOCKER - [0:0]"]
    rules = [*(f"-A {chain} {line}" for line in lines), "-A ISTIO_OUTPUT -p tcp -j REDIRECT --to-ports 15001"]
    return parse_save("\n".join(["*nat", *declared, *rules, "COMMIT", ""]), IPV4)


def output_after(live: Ruleset, desired: Ruleset | None, recorded: Ruleset | None = None) -> list[str]:
    """Return the rules of nat OUTPUT in IPv4, after the plan."""
    tables = Tables(live)
    tables.execute(plan(live, desired, recorded))
    table = tables.read().table(NAT)
    assert table is not None
    chain = table.chain(OUTPUT)
    assert chain is not None
    return [rule_text(rule) for rule in chain.rules_for(IPV4)]


OWN = ["-o eth1 -j RETURN", "-p tcp -j ISTIO_OUTPUT"]


class TestIntoNothing:
    def test_chains_are_put_and_rules_appended_in_each_family(self) -> None:
        edits = plan(NOTHING, ruleset())

        assert [(edit.family, edit.table) for edit in edits] == [(IPV4, NAT), (IPV6, NAT)]
        assert list(edits[0].rewritten_chains) == ["ISTIO_OUTPUT"]
        assert [(chain, position) for chain, position, _ in edits[0].insertions] == [(OUTPUT, None), (OUTPUT, None)]

    def test_reasons_are_written_on_request(self) -> None:
        ((silent,),) = plan(NOTHING, ruleset())[0].rewritten_chains.values()
        ((telling,),) = plan(NOTHING, ruleset().replace(has_comments=True))[0].rewritten_chains.values()

        assert silent.why == ""
        assert telling.why == "to the proxy"

    def test_a_chain_that_a_family_has_no_use_for_is_not_made_there(self) -> None:
        desired = ruleset(Rule(Redirect(1), (TCP,), IPV4)).tables[0]
        only_ipv4 = desired.replace(
            chains=(Chain(OUTPUT, (Rule(Jump("ISTIO_OUTPUT"), (TCP,), IPV4),)), desired.chains[1])
        )

        assert {edit.family for edit in plan(NOTHING, Ruleset(FAMILIES, (only_ipv4,)))} == {IPV4}

    def test_a_chain_without_rules_that_something_jumps_to_is_made(self) -> None:
        desired = ruleset(Rule(Redirect(1), (TCP,), IPV4))

        assert plan(NOTHING, desired)[1].rewritten_chains == {"ISTIO_OUTPUT": ()}

    def test_foreign_rules_are_not_written(self) -> None:
        with pytest.raises(ValueError, match="kept, but not written"):
            plan(NOTHING, ruleset(Rule(UnknownVerdict("MASQUERADE"))))


class TestPlace:
    def test_rules_are_placed_at_the_end_where_no_rule_decides(self) -> None:
        live = present("-p icmp -j LOG", "-j MARK --set-xmark 0x1/0x1")

        assert output_after(live, ruleset())[2:] == OWN

    @pytest.mark.parametrize(
        "diverting",
        ["-j ACCEPT", "-p udp -j RETURN", "-j DOCKER", "-p tcp -j DNAT --to-destination 1.2.3.4", "-g DOCKER", "-j CT"],
    )
    def test_rules_are_placed_before_what_may_divert(self, diverting: str) -> None:
        live = present("-p icmp", diverting, "-p icmp -j LOG")

        assert output_after(live, ruleset()) == ["-p icmp", *OWN, diverting, "-p icmp -j LOG"]

    @pytest.mark.parametrize(("tests", "before"), [((Mark(7),), True), ((ConnectionMark(7),), False), ((), False)])
    def test_rules_are_placed_before_a_change_of_their_mark(self, tests: tuple[Match, ...], *, before: bool) -> None:
        mark = "-j MARK --set-xmark 0x1/0xffffffff"

        after = output_after(present(mark), ruleset(Rule(Redirect(1), (TCP, *tests))))

        assert after == ([*OWN, mark] if before else [mark, *OWN])

    @pytest.mark.parametrize(
        ("live", "after"),
        [
            (["-p icmp -j LOG", OWN[1], "-p icmp -j LOG"], ["-p icmp -j LOG", *OWN, "-p icmp -j LOG"]),
            (["-p icmp -j ACCEPT", *OWN], [*OWN, "-p icmp -j ACCEPT"]),
            ([OWN[0], "-p icmp -j ACCEPT", OWN[1]], [*OWN, "-p icmp -j ACCEPT"]),
        ],
    )
    def test_rules_are_placed_where_they_were_but_before_what_may_divert(
        self, live: list[str], after: list[str]
    ) -> None:
        assert output_after(present(*live), ruleset(), ruleset()) == after

    @pytest.mark.parametrize(
        "live", [("-p icmp -j LOG", *OWN, "-j ACCEPT"), (OWN[0], "-p icmp -j LOG", OWN[1], "-j ACCEPT")]
    )
    def test_rules_that_are_right_are_not_touched(self, live: tuple[str, ...]) -> None:
        assert [edit.family for edit in plan(present(*live), ruleset(), ruleset())] == [IPV6]


class TestReplacing:
    def test_only_what_differs_is_written(self) -> None:
        live = present(*OWN)
        desired = ruleset(Rule(Redirect(15002), (TCP,)), families=(IPV4,))

        (edit,) = plan(live, desired)

        assert edit == TableEdit(IPV4, NAT, rewritten_chains=edit.rewritten_chains)

    def test_the_other_spelling_goes_in_the_same_transaction(self) -> None:
        live = present(*OWN)

        edit, _ = plan(live, ruleset(output="ISTIO-OUTPUT"))

        assert edit.dropped_chains == ("ISTIO_OUTPUT",)
        assert output_after(live, ruleset(output="ISTIO-OUTPUT")) == [OWN[0], "-p tcp -j ISTIO-OUTPUT"]

    def test_a_family_that_is_captured_no_more_loses_our_rules(self) -> None:
        both = merge_families([present(*OWN, "-j ACCEPT"), NOTHING.replace(families=(IPV6,))])
        only_ipv6 = ruleset(families=(IPV6,))

        assert output_after(both, only_ipv6) == ["-j ACCEPT"]

    def test_comments_come_and_go(self) -> None:
        tables = Tables()
        commented = ruleset().replace(has_comments=True)
        tables.execute(plan(NOTHING, commented))
        live = parse_save(save_text(commented, IPV4, comments=True), IPV4)

        assert live.has_comments
        assert not plan(live, commented.replace(families=(IPV4,)))
        assert plan(live, ruleset(families=(IPV4,)))

    def test_several_in_a_chain_are_removed_from_the_end(self) -> None:
        live = present("-p icmp -j LOG", *OWN, "-p icmp -j LOG", "-p udp -j ISTIO_OUTPUT")

        (edit,) = plan(live, None)

        assert edit.removals == ((OUTPUT, 4), (OUTPUT, 2), (OUTPUT, 1))
        assert output_after(live, None) == ["-p icmp -j LOG", "-p icmp -j LOG"]


class TestClean:
    def test_no_rule_of_the_capture_stays_and_every_foreign_one(self) -> None:
        live = present("-p icmp -j ACCEPT", *OWN, "-j DOCKER")

        assert output_after(live, None) == ["-p icmp -j ACCEPT", "-j DOCKER"]

    def test_with_a_record_look_alikes_stay_too(self) -> None:
        live = present("-o eth7 -j RETURN", *OWN)

        assert output_after(live, None, ruleset()) == ["-o eth7 -j RETURN"]

    def test_jumps_to_our_chains_from_foreign_ones_go_too(self) -> None:
        live = present("-j DOCKER")
        docker = live.tables[0].chain("DOCKER")
        assert docker is not None
        jumping = docker.replace(rules=(Rule(Jump("ISTIO_OUTPUT"), (), IPV4), Rule(Return(), (), IPV4)))
        chains = tuple(jumping if chain is docker else chain for chain in live.tables[0].chains)
        live = live.replace(tables=(Table(NAT, chains),))

        (edit,) = plan(live, None)

        assert edit == TableEdit(IPV4, NAT, removals=(("DOCKER", 0),), dropped_chains=("ISTIO_OUTPUT",))

    def test_one_of_our_chains_that_is_empty_goes_from_both_families(self) -> None:
        live = Ruleset(FAMILIES, (Table(NAT, (Chain("ISTIO_OUTPUT"),)),))

        assert plan(live, None) == tuple(
            TableEdit(family, NAT, dropped_chains=("ISTIO_OUTPUT",)) for family in FAMILIES
        )

    def test_a_chain_of_one_family_goes_from_that_alone(self) -> None:
        live = Ruleset(FAMILIES, (Table(RAW, (Chain("ISTIO_OUTPUT_DNS", (Rule(SetZone(1), (UDP,), IPV4),)),)),))

        assert [edit.family for edit in plan(live, None)] == [IPV4]

    def test_a_namespace_without_a_capture_is_left_alone(self) -> None:
        live = parse_save("*nat\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -o eth1 -j RETURN\nCOMMIT\n", IPV4)

        assert plan(live, None) == ()


class TestOrderOfTables:
    raw = Table(RAW, (Chain(OUTPUT, (Rule(Jump("ISTIO_OUTPUT_DNS")),)), Chain("ISTIO_OUTPUT_DNS", (Rule(SetZone(1)),))))
    redirect = Table(
        NAT, (Chain(PREROUTING, (Rule(Jump("ISTIO_INBOUND")),)), Chain("ISTIO_INBOUND", (Rule(Return()),)))
    )
    transparent = Table(
        MANGLE,
        (
            Chain(PREROUTING, (Rule(Jump("ISTIO_INBOUND")),)),
            Chain("ISTIO_INBOUND", (Rule(TransparentProxy(1, 2), (TCP,)),)),
        ),
    )

    def test_the_table_that_captures_from_now_on_comes_first(self) -> None:
        for before, after in ((self.redirect, self.transparent), (self.transparent, self.redirect)):
            live = Tables(Ruleset((IPV4,), (before,))).read()
            edits = plan(live, Ruleset((IPV4,), (self.raw, after)))
            assert [edit.table for edit in edits if edit.family == IPV4] == [RAW, after.name, before.name]


def test_the_text_for_iptables_restore() -> None:
    live = present("-p icmp -j LOG", "-o eth0 -j RETURN", "-p tcp -j ISTIO_OUTPUT", "-j ACCEPT")
    (edit,) = plan(live, ruleset(output="ISTIO-OUTPUT", families=(IPV4,)))

    assert restore_text([edit, TableEdit(IPV4, RAW, insertions=((OUTPUT, None, Rule(Return(), (), IPV4)),))]) == (
        "*nat\n"
        ":ISTIO-OUTPUT - [0:0]\n"
        ":ISTIO_OUTPUT - [0:0]\n"
        "-A ISTIO-OUTPUT -p tcp -j REDIRECT --to-ports 15001\n"
        "-D OUTPUT 3\n"
        "-D OUTPUT 2\n"
        "-I OUTPUT 2 -o eth1 -j RETURN\n"
        "-I OUTPUT 3 -p tcp -j ISTIO-OUTPUT\n"
        "-X ISTIO_OUTPUT\n"
        "COMMIT\n"
        "*raw\n"
        "-A OUTPUT -j RETURN\n"
        "COMMIT\n"
    )


def test_edits_name_places_in_the_chain_as_it_is_at_that_moment() -> None:
    live = present("-j ACCEPT")
    (edit, _) = plan(live, ruleset())

    assert [position for _, position, _ in edit.insertions] == [0, 1]
