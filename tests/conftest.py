"""What every test shares: the namespace fixtures, how hypothesis runs, and that nothing is left under /run."""

from __future__ import annotations

import hypothesis

from support.processes import private_mounts

pytest_plugins = ["pytest_netns.fixtures"]

# Examples that program a kernel take as long as the kernel takes; pytest-timeout bounds each test.
hypothesis.settings.register_profile("kernel", deadline=None, print_blob=True)
hypothesis.settings.load_profile("kernel")


def pytest_configure() -> None:
    """Before anything runs: in each process of a parallel run, too."""
    private_mounts.make_private()
