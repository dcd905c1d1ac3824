"""Tests of a connection's direction and of nat, for packets in each state."""

import pytest

from capture.analysis.meaning import holds_in_state
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
        (TcpFlags(2, 2), [True, True, None, None, None], [True, True, None, None, None]),
    ],
)
def test_a_test_of_a_connection_holds_where_that_is_certain(
    test: Match, unmapped: list[bool | None], mapped: list[bool | None]
) -> None:
    """A later packet may be an answer, or of a connection that nat has mapped before: unless it is this one's."""
    assert [holds_in_state(test, state, is_translated=False) for state in STATES] == unmapped
    assert [holds_in_state(test, state, is_translated=True) for state in STATES] == mapped
