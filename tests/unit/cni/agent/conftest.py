"""The agent's own packages come with the extra ``agent``; without them its tests cannot run."""

import importlib.util
import os

import pytest

from pytest_netns import require

PACKAGES = ("hpack", "inotify_simple", "lightkube", "prometheus_client")


@pytest.fixture(autouse=True)
def agent_packages() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    require(not missing, f"pip install '.[agent]': {', '.join(missing)} missing")


@pytest.fixture(scope="session")
def root() -> None:
    """For an agent that is to answer: the plugin and ``kubectl capture`` believe only one of root's."""
    require(os.geteuid() == 0, "only an agent of root's is believed")
