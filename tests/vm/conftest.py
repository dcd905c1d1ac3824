"""One guest for each pytest process; with pytest-xdist, one for each worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vm.guest import Guest, kernel


@pytest.fixture(scope="session")
def guest() -> Iterator[Guest]:
    """A running guest. Tests leave it as they like; ``hide_modules`` starts anew."""
    with Guest(kernel()) as running:
        yield running
