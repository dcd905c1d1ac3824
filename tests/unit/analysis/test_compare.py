"""Differences by example; the laws are in ``tests/property``, the packets that notice in ``tests/kernel``."""

from collections.abc import Callable

import pytest

from capture.analysis.compare import Difference, differences, is_applied
from capture.model.ruleset import (
    Accept,
    Chain,
    Continue,
    DestinationPort,
    InInterface,
    Jump,
    Log,
    Protocol,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    SetMark,
    Table,
    TableName,
    Verdict,
    only,
)
from capture.settings import options as option
from support.captures.fake_pod import IPV4_ALONE, POD, ruleset_of
from support.rules.foreign import foreign_verdict
from support.rules.notation import lines, rule_line


def nat(change: Callable[[str, tuple[Rule, ...]], tuple[Rule, ...]], ruleset: Ruleset | None = None) -> Ruleset:
    """Return the rule set with the rules of each chain of the nat table changed."""
    ruleset = ruleset or DESIRED
    table = ruleset.table("nat")
    assert table is not None
    chains = tuple(chain.replace(rules=change(chain.name, chain.rules)) for chain in table.chains)
    return ruleset.replace(tables=tuple(t.replace(chains=chains) if t is table else t for t in ruleset.tables))


DESIRED = nat(lambda _, there: tuple(rule for rule in there if rule.family != "ipv6"), ruleset_of(IPV4_ALONE))
"""What an IPv4 pod gets, without the rules that are for IPv6."""


def inserted(chain: str, place: int, *rules: Rule) -> Ruleset:
    return nat(lambda name, there: (*there[:place], *rules, *there[place:]) if name == chain else there)


def without(chain: str, place: int) -> Ruleset:
    return nat(lambda name, there: there[:place] + there[place + 1 :] if name == chain else there)


def with_table(ruleset: Ruleset, name: TableName, *chains: Chain) -> Ruleset:
    return ruleset.replace(tables=(*ruleset.tables, Table(name, chains)))


def words_of(found: list[Difference]) -> list[str]:
    """Return differences as lines: kind, place, rule."""
    return [
        f"{each.kind} {each.table} {each.chain} {each.position}: "
        + (rule_line(each.rule) if each.rule else each.policy)
        for each in found
    ]


PORT_80 = (Protocol("tcp"), DestinationPort((only(80),)))
TAKES_ALL = Rule(Accept())

TAMPERED = {
    "an own rule deleted": (without("ISTIO-INBOUND", 1), "missing nat ISTIO-INBOUND 2: tcp & port 22 -> return"),
    "our jump deleted": (without("OUTPUT", 0), "missing nat OUTPUT 1: tcp -> ISTIO-OUTPUT"),
    "a rule put into our chain": (
        inserted("ISTIO-OUTPUT", 0, Rule(Return(), PORT_80)),
        "unexpected nat ISTIO-OUTPUT 1: tcp & port 80 -> return",
    ),
    "also one that decides nothing": (
        inserted("ISTIO-OUTPUT", 9, Rule(Continue())),
        "unexpected nat ISTIO-OUTPUT 10: any -> go on",
    ),
    "a rule altered": (
        nat(lambda name, there: (Rule(Accept(), there[0].matches), *there[1:]) if name == "ISTIO-INBOUND" else there),
        """
        missing nat ISTIO-INBOUND 1: tcp & port 15008 -> return
        unexpected nat ISTIO-INBOUND 1: tcp & port 15008 -> accept
        """,
    ),
    "two rules changed places": (
        nat(lambda name, there: (there[1], there[0], *there[2:]) if name == "ISTIO-OUTPUT" else there),
        """
        missing nat ISTIO-OUTPUT 1: from 127.0.0.6 & out lo -> return
        unexpected nat ISTIO-OUTPUT 2: from 127.0.0.6 & out lo -> return
        """,
    ),
    "our jump twice": (
        inserted("OUTPUT", 1, Rule(Jump("ISTIO-OUTPUT"), (Protocol("tcp"),))),
        "unexpected nat OUTPUT 2: tcp -> ISTIO-OUTPUT",
    ),
    "a jump to the other spelling": (
        inserted("OUTPUT", 1, Rule(Jump("ISTIO_OUTPUT"))),
        "unexpected nat OUTPUT 2: any -> ISTIO_OUTPUT",
    ),
    "and from a chain of others": (
        nat(lambda _, there: there).replace(
            tables=(Table("nat", (*DESIRED.tables[0].chains, Chain("DOCKER", (Rule(Jump("ISTIO_INBOUND")),)))),)
        ),
        "unexpected nat DOCKER 1: any -> ISTIO_INBOUND",
    ),
    "marks of an earlier TPROXY run": (
        with_table(
            DESIRED, "mangle", *(ruleset_of({option.INTERCEPTION_MODE: "TPROXY", **IPV4_ALONE}).tables[0].chains[1:2])
        ),
        """
        unexpected mangle OUTPUT 2: not to 127.0.0.1 & out lo & tcp & uid 1337 -> set mark 0x53a
        unexpected mangle OUTPUT 3: not to 127.0.0.1 & out lo & tcp & gid 1337 -> set mark 0x53a
        """,
    ),
    "an own chain in a table that needs none": (
        with_table(DESIRED, "mangle", Chain("ISTIO_DIVERT", (Rule(Accept()),))),
        "unexpected mangle ISTIO_DIVERT 1: any -> accept",
    ),
    "a foreign rule before our rules": (inserted("OUTPUT", 0, TAKES_ALL), "foreign nat OUTPUT 1: any -> accept"),
    "a foreign target that we do not know": (
        inserted("PREROUTING", 0, Rule(foreign_verdict("DNAT --to-destination 10.0.0.1"))),
        "foreign nat PREROUTING 1: any -> unknownverdict 'DNAT --to-destination 10.0.0.1'",
    ),
    "a foreign jump": (inserted("OUTPUT", 0, Rule(Jump("DOCKER"))), "foreign nat OUTPUT 1: any -> DOCKER"),
    "a policy": (
        DESIRED.replace(tables=(Table("nat", (Chain("INPUT", (), "DROP"), *DESIRED.tables[0].chains)),)),
        "policy nat INPUT 0: DROP",
    ),
}


@pytest.mark.parametrize(("live", "expected"), TAMPERED.values(), ids=TAMPERED)
def test_each_difference_is_named(live: Ruleset, expected: str) -> None:
    assert words_of(differences(DESIRED, live)) == lines(expected)
    assert is_applied(DESIRED, live) is expected.startswith("policy")


def test_a_foreign_interface_left_alone_is_no_difference() -> None:
    live = with_table(DESIRED, "mangle", Chain("PREROUTING", (Rule(Return(), (InInterface("eth7"),)),), "ACCEPT"))
    assert differences(DESIRED, live) == []
    assert is_applied(DESIRED, live)


class TestFamilies:
    def test_a_family_that_is_not_desired_is_named_by_its_jumps(self) -> None:
        found = differences(DESIRED, ruleset_of({}, POD))
        assert {each.family for each in found} == {"ipv6"}
        assert words_of(found) == lines("""
            family nat PREROUTING 1: tcp -> ISTIO-INBOUND
            family nat OUTPUT 1: tcp -> ISTIO-OUTPUT
        """)

    def test_rules_of_others_in_a_family_that_is_not_captured(self) -> None:
        live = inserted("OUTPUT", 0, Rule(Accept(), family="ipv6")).replace(families=("ipv4", "ipv6"))
        ours_in_ipv4 = nat(lambda _, there: tuple(r.replace(family=r.family or "ipv4") for r in there), live)
        assert differences(DESIRED, ours_in_ipv4) == []


class TestMarks:
    """Transparent rules tell packets apart by marks, which another program may have changed before."""

    DESIRED = ruleset_of({option.INTERCEPTION_MODE: "TPROXY", **IPV4_ALONE})

    @pytest.mark.parametrize(
        ("chain", "verdict", "counts"),
        [
            ("PREROUTING", SetMark(5), True),
            ("PREROUTING", RestoreMark(), True),
            ("PREROUTING", SaveMark(), False),  # on this leg our rules match the packet's own mark alone
            ("PREROUTING", Log("seen "), False),
            ("OUTPUT", SetMark(5), True),
            ("OUTPUT", SaveMark(), True),
        ],
    )
    def test_a_mark_changed_before_our_rules_match_it(self, chain: str, verdict: Verdict, *, counts: bool) -> None:
        live = in_mangle(self.DESIRED, chain, lambda own: (Rule(verdict), *own))
        assert [(each.chain, each.position) for each in differences(self.DESIRED, live)] == [(chain, 1)] * counts
        assert is_applied(self.DESIRED, live) is not counts

    def test_a_mark_that_is_changed_after_our_rules_is_no_drift(self) -> None:
        live = in_mangle(self.DESIRED, "OUTPUT", lambda own: (*own, Rule(SetMark(5))))
        assert differences(self.DESIRED, live) == []


def in_mangle(ruleset: Ruleset, name: str, change: Callable[[tuple[Rule, ...]], tuple[Rule, ...]]) -> Ruleset:
    """Return the rule set with the rules of one chain of the mangle table changed."""
    table = ruleset.table("mangle")
    assert table is not None
    chains = tuple(c.replace(rules=change(c.rules)) if c.name == name else c for c in table.chains)
    return ruleset.replace(tables=tuple(t.replace(chains=chains) if t is table else t for t in ruleset.tables))


def test_an_empty_namespace_lacks_everything() -> None:
    empty = Ruleset(("ipv4", "ipv6"), ())
    found = differences(DESIRED, empty)
    assert [each.kind for each in found] == ["missing"] * 19
    assert not is_applied(DESIRED, empty)


def test_comments_do_not_count_but_are_written_when_they_are_wanted() -> None:
    commented = DESIRED.replace(has_comments=True)
    assert differences(commented, DESIRED) == []
    assert not is_applied(commented, DESIRED)
    assert not is_applied(DESIRED, commented)


@pytest.mark.parametrize(("policy", "state", "is_drift"), [(None, "", False), ("ACCEPT", "nat output -5", True)])
def test_a_chain_counts_by_its_state_and_not_by_its_name(policy: str | None, state: str, *, is_drift: bool) -> None:
    table = DESIRED.tables[-1]
    foreign = Chain("KUBE(x)", (Rule(Accept(), (Protocol("tcp"),)),), policy).in_state(state)
    live = DESIRED.replace(tables=(*DESIRED.tables[:-1], table.replace(chains=(*table.chains, foreign))))

    assert bool(differences(DESIRED, live)) == is_drift
