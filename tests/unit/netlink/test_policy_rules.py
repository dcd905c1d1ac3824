"""Policy rules in the words of ip-rule(8), and which packets they may mean."""

import pytest

from capture.netlink.policy_rules import FR_ACT_NOP, FR_ACT_TO_TBL, PolicyRule

ALL = 0xFFFFFFFF
PLAIN = PolicyRule(32766, FR_ACT_TO_TBL, 254, 0, 0, is_inverted=False)
OWN = PLAIN.replace(preference=0, table=133, mark=1337, mask=ALL)
VPN = PLAIN.replace(preference=32765, table=51820, mark=51820, mask=ALL, is_inverted=True)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (PLAIN, "32766: from all lookup main"),
        (OWN, "0: from all fwmark 0x539 lookup 133"),
        (VPN, "32765: not from all fwmark 0xca6c lookup 51820"),
        (PLAIN.replace(suppress_prefixlength=0), "32766: from all lookup main suppress_prefixlength 0"),
        (PLAIN.replace(incoming="eth0", mark=4, mask=4), "32766: from all fwmark 0x4/0x4 iif eth0 lookup main"),
        (PLAIN.replace(action=FR_ACT_NOP), "32766: from all nop"),
    ],
)  # fmt: skip
def test_policy_rules_read_as_ip_rule_prints_them(rule: PolicyRule, words: str) -> None:
    assert str(rule) == words


@pytest.mark.parametrize(
    ("rule", "may"),
    [
        (PLAIN, True),
        (OWN, True),
        (OWN.replace(mark=1338), False),
        (OWN.replace(mark=1, mask=1), True),
        (VPN, False),
        (VPN.replace(mark=1337), True),
    ],
)
def test_a_rule_tells_which_marks_it_may_match(rule: PolicyRule, may: bool) -> None:  # noqa: FBT001  # a column of the table
    assert rule.may_match_mark(1337) is may
