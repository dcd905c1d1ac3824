"""Tests of a connection's direction and of nat, in the words of both backends, for packets in each state."""

import pytest

from capture.analysis.connection_tests import MAPPED, holds_for_connection

STATES = ("NEW", "RELATED", "ESTABLISHED", "INVALID", "UNTRACKED")
BIT = f"ct status & 0x{MAPPED} ^ 0x00000000"


@pytest.mark.parametrize(
    ("spellings", "unmapped", "mapped"),
    [
        (
            ("-m conntrack --ctdir ORIGINAL", "ct direction == 0x00", "ct direction != 0x01"),
            [True, True, None, False, False],
            [True, True, True, False, False],
        ),
        (
            ("-m conntrack --ctdir REPLY", "ct direction == 0x01", "ct direction != 0x00"),
            [False, False, None, False, False],
            [False] * 5,
        ),
        ((f"{BIT} != 0x00000000",), [False, False, None, False, False], [True, True, True, False, False]),
        ((f"{BIT} == 0x00000000",), [True, True, None, False, False], [False] * 5),
        (("-m conntrack --ctstate NEW,DNAT",), [True, False, None, False, False], [True, True, True, False, False]),
        (("-m conntrack ! --ctstate DNAT",), [True, True, None, True, True], [False, False, False, True, True]),
        (("-m conntrack --ctstate SNAT",), [None, None, None, False, False], [None, None, None, False, False]),
        (("-m conntrack ! --ctstate NEW,SNAT",), [False, None, None, True, True], [False, None, None, True, True]),
        (("ct status & 0x00000001 ^ 0x00000000 != 0x00000000", "-m time"), [None] * 5, [None] * 5),
    ],
)
def test_a_test_of_a_connection_holds_where_that_is_certain(
    spellings: tuple[str, ...], unmapped: list[bool | None], mapped: list[bool | None]
) -> None:
    """A later packet may be an answer, or of a connection that nat has mapped before: unless it is this one's."""
    for words in spellings:
        assert [holds_for_connection(words, state, is_translated=False) for state in STATES] == unmapped
        assert [holds_for_connection(words, state, is_translated=True) for state in STATES] == mapped


def test_the_bit_of_nat_is_that_of_the_kernel() -> None:
    """IPS_DST_NAT in linux/netfilter/nf_conntrack_common.h, as this machine keeps numbers."""
    assert bytes.fromhex(MAPPED) in ((32).to_bytes(4, "little"), (32).to_bytes(4, "big"))
