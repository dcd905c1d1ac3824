"""The library as docs/library.md shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import capture
from pytest_netns import NamespaceFactory

GUIDE = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.mark.kernel
def test_the_examples_of_the_guide(netns: NamespaceFactory) -> None:
    pod = netns.pod()

    pod.run([sys.executable, "-m", "doctest", "-o", "NORMALIZE_WHITESPACE", GUIDE])


def test_every_name_has_an_example() -> None:
    imported = re.findall(r"^>>> from capture import (.+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)

    assert sorted(name for line in imported for name in line.split(", ")) == sorted(capture.__all__)
    assert len(capture.__all__) <= 12


def test_every_name_is_there() -> None:
    assert dir(capture) == sorted(capture.__all__)
    for name in capture.__all__:
        assert getattr(capture, name).__module__.startswith("capture.")
    with pytest.raises(AttributeError, match="no attribute 'no_such'"):
        capture.no_such  # noqa: B018  # looking is the test


def test_importing_the_package_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import capture; print(sorted(set(sys.modules) - before))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "['__future__', 'capture']"
