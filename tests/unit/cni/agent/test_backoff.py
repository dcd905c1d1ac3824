from cni.agent.backoff import Backoff


def test_each_pause_is_twice_the_one_before_up_to_the_longest_until_an_attempt_succeeds() -> None:
    pauses = Backoff(0.5, 3.0)
    assert [pauses.pause() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    pauses.reset()
    assert [pauses.pause() for _ in range(2)] == [0.5, 1.0]
