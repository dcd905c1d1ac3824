"""Losses of the entry are answered at once until they are a conflict, then more and more slowly."""

from cni.agent.rewrite_conflict import RestoreBackoff


def test_five_losses_in_a_minute_are_answered_at_once() -> None:
    conflict = RestoreBackoff()
    assert [conflict.note_loss(12.0 * n) for n in range(5)] == [0.0] * 5
    assert not conflict.is_lasting


def test_more_losses_are_answered_later_and_later_up_to_a_minute() -> None:
    conflict = RestoreBackoff()
    pauses = [conflict.note_loss(0.1 * n) for n in range(13)]
    assert pauses == [0.0] * 5 + [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert conflict.is_lasting


def test_five_a_minute_for_an_hour_are_no_conflict() -> None:
    conflict = RestoreBackoff()
    assert {conflict.note_loss(12.0 * n) for n in range(300)} == {0.0}


def test_a_conflict_ends_by_a_minute_without_a_loss() -> None:
    conflict = RestoreBackoff()
    for n in range(6):
        conflict.note_loss(float(n))
    assert not conflict.note_quiet(5.0 + 60.9)
    assert conflict.note_quiet(5.0 + 61.0)
    assert not conflict.is_lasting
    assert conflict.note_loss(70.0) == 0.0


def test_a_loss_long_after_a_conflict_is_answered_at_once() -> None:
    conflict = RestoreBackoff()
    assert [conflict.note_loss(float(n)) for n in range(6)][-1] == 1.0
    assert [conflict.note_loss(5.0 + 61.0 + n) for n in range(5)] == [0.0] * 5
