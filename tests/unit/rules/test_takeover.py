"""Facts about a rule set that takes over from another: what it tracks, and how it captures."""

import pytest

from capture.model.addresses import IPV4, IPV6, Family
from capture.model.ruleset import (
    Chain,
    ConnectionMark,
    ConnectionState,
    Drop,
    Jump,
    Redirect,
    RestoreMark,
    Return,
    Rule,
    Ruleset,
    SaveMark,
    Table,
)
from capture.rules import build_tracking, redirects_inbound, tracks_connections
from capture.settings import options as option
from support.captures.fake_pod import POD, config_of, ruleset_of
from support.rules.notation import chain_lines


def of_one(rule: Rule) -> Ruleset:
    return Ruleset((IPV4, IPV6), (Table("nat", (Chain("OUTPUT", ()), Chain("ISTIO-OUTPUT", (Rule(Return()), rule)))),))


@pytest.mark.parametrize(
    ("rule", "tracks"),
    [
        (Rule(Redirect(15001)), True),
        (Rule(SaveMark()), True),
        (Rule(RestoreMark()), True),
        (Rule(Drop(), (ConnectionState(("INVALID",)),)), True),
        (Rule(Return(), (ConnectionMark(1337),)), True),
        (Rule(Return()), False),
        (Rule(Jump("ISTIO-REDIRECT")), False),
    ],
    ids=str,
)
def test_rules_that_make_the_kernel_track_connections(rule: Rule, tracks: bool) -> None:  # noqa: FBT001 - a column
    assert tracks_connections([Ruleset((), ()), of_one(rule)], IPV4) is tracks


@pytest.mark.parametrize(("family", "tracks"), [(IPV4, True), (IPV6, False)])
def test_a_rule_of_one_family_tracks_that_one(family: Family, tracks: bool) -> None:  # noqa: FBT001 - a column
    assert tracks_connections([of_one(Rule(Redirect(15001), family=IPV4))], family) is tracks


def test_the_rules_that_only_track() -> None:
    tracking = build_tracking(config_of({}, POD))
    assert chain_lines(tracking, "nat", "OUTPUT") == ["any -> ISTIO-OUTPUT"]
    assert chain_lines(tracking, "nat", "ISTIO-OUTPUT") == ["state INVALID -> return"]
    assert [table.name for table in tracking.tables] == ["nat"]
    assert tracks_connections([tracking], IPV6)
    assert not redirects_inbound(tracking)


def test_how_inbound_is_captured() -> None:
    redirect = ruleset_of({option.CHAIN_NAMES: "underscore"}, POD)
    transparent = ruleset_of({option.INTERCEPTION_MODE: "TPROXY"}, POD)
    assert (redirects_inbound(redirect), bool(redirect.transparent_verdicts)) == (True, False)
    assert (redirects_inbound(transparent), bool(transparent.transparent_verdicts)) == (False, True)
    assert not redirects_inbound(Ruleset((), ()))
