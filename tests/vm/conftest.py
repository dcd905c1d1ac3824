"""One guest for each pytest process; with pytest-xdist, one for each worker."""

from collections.abc import Callable, Iterator

import pytest

from vm.guest import Guest, kernel


@pytest.fixture(scope="session")
def running() -> Iterator[Callable[[], Guest]]:
    """Return the guest, booted at the first call, and again if a test left it without an answer."""
    booted = kernel()
    guests: list[Guest] = []

    def guest() -> Guest:
        if guests and guests[-1].is_waiting:
            guests.pop().close()
        if not guests:
            guests.append(Guest(booted))
        return guests[-1]

    yield guest
    for each in guests:
        each.close()


@pytest.fixture
def guest(running: Callable[[], Guest]) -> Guest:
    """A running guest. Tests leave it as they like; ``hide_modules`` starts anew."""
    return running()
