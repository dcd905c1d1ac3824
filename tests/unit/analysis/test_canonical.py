"""The canonical form by example; its laws are in ``tests/property``."""

import pytest

from capture.analysis.canonical import CanonicalChain, canonical, canonical_rules
from capture.model.addresses import parse_network
from capture.model.ruleset import (
    Chain,
    ConnectionState,
    Destination,
    DestinationPort,
    Jump,
    Match,
    OwnerGid,
    OwnerUid,
    Protocol,
    Redirect,
    Return,
    Rule,
    Ruleset,
    Source,
    Span,
    Table,
    only,
)
from support.rules.foreign import foreign_match
from support.rules.notation import lines, rule_line

TCP = Protocol("tcp")


def to(*texts: str, negated: bool = False) -> Destination:
    return Destination(tuple(parse_network(text) for text in texts), negated)


def port(*spans: int | Span, negated: bool = False) -> DestinationPort:
    return DestinationPort(tuple(only(span) if isinstance(span, int) else span for span in spans), negated)


def returning(*matches: Match) -> Rule:
    return Rule(Return(), matches)


def form(*several: Rule) -> list[str]:
    return [rule_line(rule) for rule in canonical_rules(several)]


EQUIVALENT = {
    "matches in one order": (
        [returning(OwnerUid((only(7),)), port(80), TCP, to("10.0.0.0/8"))],
        "to 10.0.0.0/8 & tcp & port 80 & uid 7 -> return",
    ),
    "what always holds is left out": ([returning(to("0.0.0.0/0"), TCP)], "tcp -> return"),
    "also in a list": ([returning(to("10.0.0.0/8", "0.0.0.0/0"))], "any -> return"),
    "also if the list adds up to it": ([returning(to("0.0.0.0/1", "128.0.0.0/1"))], "any -> return"),
    "what never holds stays": ([returning(to("0.0.0.0/0", negated=True))], "not to 0.0.0.0/0 -> return"),
    "neither a nor b": (
        [returning(OwnerGid((only(9),), negated=True), OwnerGid((only(7), only(8)), negated=True))],
        "not gid 7-9 -> return",
    ),
    "neither port": (
        [returning(TCP, port(80, negated=True), port(53, negated=True))],
        "tcp & not port 53,80 -> return",
    ),
    "neither network": (
        [returning(to("10.0.0.0/9", negated=True), to("10.128.0.0/9", negated=True))],
        "not to 10.0.0.0/8 -> return",
    ),
    "ids in order": ([returning(OwnerUid((only(9), only(7))))], "uid 7 -> return\nuid 9 -> return"),
    "few entries in their order": (
        [returning(to("10.2.0.0/16")), returning(to("10.1.0.0/16"))],
        "to 10.2.0.0/16 -> return\nto 10.1.0.0/16 -> return",
    ),
    "a short list is one rule an entry": (
        [returning(TCP, port(443, 80))],
        "tcp & port 80 -> return\ntcp & port 443 -> return",
    ),
    "of several lists each entry with each": (
        [returning(to("10.0.0.0/8", "12.0.0.0/8"), TCP, port(80, 443), ConnectionState(("NEW",)))],
        "\n".join(
            f"to {first}.0.0.0/8 & tcp & port {number} & state NEW -> return"
            for number in (80, 443)
            for first in (10, 12)
        ),
    ),
    "a list joined as far as it goes": (
        [returning(TCP, port(80, 81, Span(82, 90), 7))],
        "tcp & port 7 -> return\ntcp & port 80-90 -> return",
    ),
    "a long list is one rule": (
        [returning(TCP, port(*range(2, 40, 2)))],
        f"tcp & port {','.join(map(str, range(2, 40, 2)))} -> return",
    ),
    "as many rules as that are one, too": (
        [returning(TCP, port(number)) for number in range(38, 1, -2)],
        f"tcp & port {','.join(map(str, range(2, 40, 2)))} -> return",
    ),
    "few rules stay apart though they could be one": (
        [returning(TCP, port(number)) for number in range(80, 96)],
        "\n".join(f"tcp & port {number} -> return" for number in range(80, 96)),
    ),
    "many rules that jump are one where no packet fulfils two": (
        [Rule(Jump("A"), (TCP, port(number))) for number in range(0, 40, 2)],
        f"tcp & port {','.join(map(str, range(0, 40, 2)))} -> A",
    ),
    "not two lists with an entry in common": (
        [Rule(Jump("A"), (TCP, port(*ports))) for ports in (range(2, 22, 2), range(20, 40, 2))],
        "\n".join(f"tcp & port {number} -> A" for number in (*range(2, 22, 2), *range(20, 40, 2))),
    ),
    "a long list that joins to a short one": ([returning(TCP, port(*range(1, 40)))], "tcp & port 1-39 -> return"),
    "not where a packet comes through a chain twice": (
        [Rule(Jump("A"), (TCP, port(number))) for number in (*range(2, 40, 2), 8)],
        "\n".join(f"tcp & port {number} -> A" for number in (*range(2, 40, 2), 8)),
    ),
    "nor where something unknown may count": (
        [returning(TCP, port(7, 9), foreign_match("-m quota")), returning(foreign_match("-m limit"), to("10.0.0.0/8"))],
        "tcp & port 7,9 & ?-m quota -> return\nto 10.0.0.0/8 & ?-m limit -> return",
    ),
    "a list that joins to every address meets the list after it": (
        [
            *[returning(to(f"{first}.0.0.0/4")) for first in range(0, 256, 16)],
            returning(to("10.0.0.0/8")),
            Rule(Redirect(1), (TCP,)),
        ],
        "any -> return\ntcp -> redirect 1",
    ),
}


@pytest.mark.parametrize(("several", "expected"), EQUIVALENT.values(), ids=EQUIVALENT)
def test_equal_rules_have_one_form(several: list[Rule], expected: str) -> None:
    assert form(*several) == lines(expected)


DIFFERENT = {
    "verdict": (returning(TCP), Rule(Jump("A"), (TCP,))),
    "negation": (returning(to("10.0.0.0/8")), returning(to("10.0.0.0/8", negated=True))),
    "source for destination": (returning(to("10.0.0.0/8")), returning(Source(to("10.0.0.0/8").networks))),
    "prefix": (returning(to("10.0.0.0/8")), returning(to("10.0.0.0/9"))),
    "port": (returning(TCP, port(80)), returning(TCP, port(81))),
    "user for group": (returning(OwnerUid((only(7),))), returning(OwnerGid((only(7),)))),
    "all ports but 0 are not all": (returning(TCP, port(Span(1, 65535))), returning(TCP)),
    "states": (returning(ConnectionState(("NEW",))), returning(ConnectionState(("NEW", "RELATED")))),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_rules_of_different_meanings_have_different_forms(one: Rule, other: Rule) -> None:
    assert form(one) != form(other)


def test_rules_in_another_order_have_another_form() -> None:
    assert form(returning(TCP, port(80)), Rule(Jump("A"))) != form(Rule(Jump("A")), returning(TCP, port(80)))


def test_rules_of_another_kind_between_keep_lists_apart() -> None:
    some = [returning(TCP, port(number)) for number in range(2, 22, 2)]
    others = [returning(TCP, port(number)) for number in range(102, 122, 2)]
    assert len(form(*some, Rule(Jump("A")), *others)) == 21
    assert len(form(*some, *others)) == 1


def test_tables_as_a_family_sees_them() -> None:
    ruleset = Ruleset(
        families=("ipv4",),
        tables=(
            Table(
                "nat",
                (
                    Chain("PREROUTING", (), "ACCEPT"),
                    Chain("OUTPUT", (Rule(Return(), family="ipv6"), returning(TCP)), "ACCEPT"),
                    Chain("ISTIO_OUTPUT"),
                    Chain("ISTIO_INBOUND", (returning(TCP),)),
                    Chain("OUTPUT", (returning(TCP),), "ACCEPT").in_state("nat output -5"),
                ),
            ),
            Table("mangle", (Chain("FORWARD", (), "DROP"),)),
        ),
    )
    assert canonical(ruleset, "ipv4") == {
        ("nat", "OUTPUT"): CanonicalChain("ACCEPT", (returning(TCP),)),
        ("nat", "ISTIO_INBOUND"): CanonicalChain("ACCEPT", (returning(TCP),)),
        ("nat", "OUTPUT(nat output -5)"): CanonicalChain("ACCEPT", (returning(TCP),), True),
        ("mangle", "FORWARD"): CanonicalChain("DROP", ()),
    }
    assert canonical(ruleset, "ipv6") == {}
