"""Pauses between attempts grow up to a limit."""

from cni.agent.backoff import Backoff


def test_pauses_double_up_to_the_longest_until_a_success() -> None:
    pauses = Backoff(0.5, 3.0)
    assert [pauses.pause() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    pauses.reset()
    assert [pauses.pause() for _ in range(2)] == [0.5, 1.0]
