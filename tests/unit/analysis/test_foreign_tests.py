"""Tests of a connection's direction and of nat, for packets in each state."""

import pytest

from capture.analysis.foreign_tests import holds_for_connection
from capture.model.foreign import ConnectionDirection, States, TcpFlags, TranslatedConnection
from capture.model.ruleset import Match

STATES = ("NEW", "RELATED", "ESTABLISHED", "INVALID", "UNTRACKED")


@pytest.mark.parametrize(
    ("test", "unmapped", "mapped"),
    [
        (ConnectionDirection(is_reply=False), [True, True, None, False, False], [True, True, True, False, False]),
        (ConnectionDirection(is_reply=True), [False, False, None, False, False], [False] * 5),
        (TranslatedConnection(), [False, False, None, False, False], [True, True, True, False, False]),
        (TranslatedConnection(negated=True), [True, True, None, False, False], [False] * 5),
        (States(("NEW", "DNAT")), [True, False, None, False, False], [True, True, True, False, False]),
        (States(("DNAT",), negated=True), [True, True, None, True, True], [False, False, False, True, True]),
        (States(("SNAT",)), [None, None, None, False, False], [None, None, None, False, False]),
        (States(("NEW", "SNAT"), negated=True), [False, None, None, True, True], [False, None, None, True, True]),
        (TcpFlags(2, 2), [None] * 5, [None] * 5),
    ],
)
def test_a_test_of_a_connection_holds_where_that_is_certain(
    test: Match, unmapped: list[bool | None], mapped: list[bool | None]
) -> None:
    """A later packet may be an answer, or of a connection that nat has mapped before: unless it is this one's."""
    assert [holds_for_connection(test, state, is_translated=False) for state in STATES] == unmapped
    assert [holds_for_connection(test, state, is_translated=True) for state in STATES] == mapped
