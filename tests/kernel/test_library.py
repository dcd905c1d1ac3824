"""The library as docs/library.md shows it."""

import doctest
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import capture
from pytest_netns import NamespaceFactory, require

GUIDE = Path(__file__).parents[2] / "docs" / "library.md"


@pytest.mark.kernel
def test_the_examples_of_the_guide(netns: NamespaceFactory) -> None:
    pod = netns.pod()

    pod.run([sys.executable, "-m", "doctest", "-o", "NORMALIZE_WHITESPACE", GUIDE])


def test_the_examples_of_the_guide_have_the_types_that_a_caller_sees(tmp_path: Path) -> None:
    require(importlib.util.find_spec("mypy"), "the package mypy is missing")
    examples = doctest.DocTestParser().get_examples(GUIDE.read_text(encoding="utf-8"))
    program = tmp_path / "guide.py"
    program.write_text("".join(example.source for example in examples), encoding="utf-8")

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", program],
        capture_output=True, text=True, check=False, cwd=GUIDE.parents[1],
    )  # fmt: skip

    assert checked.returncode == 0, checked.stdout


def test_every_function_has_an_example() -> None:
    imported = re.findall(r"^>>> from capture import (.+)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    functions = {name for name in capture.__all__ if name.islower()}

    assert functions <= {name for line in imported for name in line.split(", ")}


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
