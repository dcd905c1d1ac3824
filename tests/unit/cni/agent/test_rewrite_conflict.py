from __future__ import annotations

from cni.agent.rewrite_conflict import RestoreBackoff


def test_five_losses_in_a_minute_are_answered_at_once() -> None:
    fight = RestoreBackoff()
    assert [fight.lost(12.0 * n) for n in range(5)] == [0.0] * 5
    assert not fight.is_on


def test_more_losses_are_answered_later_and_later_up_to_a_minute() -> None:
    fight = RestoreBackoff()
    pauses = [fight.lost(0.1 * n) for n in range(13)]
    assert pauses == [0.0] * 5 + [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert fight.is_on


def test_five_a_minute_for_an_hour_are_no_fight() -> None:
    fight = RestoreBackoff()
    assert {fight.lost(12.5 * n) for n in range(300)} == {0.0}


def test_a_fight_ends_by_a_minute_without_a_loss() -> None:
    fight = RestoreBackoff()
    for n in range(6):
        fight.lost(float(n))
    assert not fight.rest(60.0)
    assert fight.rest(5.0 + 61.0)
    assert not fight.is_on
    assert fight.lost(70.0) == 0.0
