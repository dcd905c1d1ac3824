"""What every test shares: the namespace fixtures and how hypothesis runs."""

from __future__ import annotations

import hypothesis

pytest_plugins = ["pytest_netns"]

# Examples that program a kernel take as long as the kernel takes; pytest-timeout bounds each test.
hypothesis.settings.register_profile("kernel", deadline=None, print_blob=True)
hypothesis.settings.load_profile("kernel")
