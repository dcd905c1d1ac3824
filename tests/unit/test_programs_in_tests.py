"""Programs that tests run in another Python are texts: what they import from the project is there."""

import ast
import importlib
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
IMPORT = re.compile(r"\bfrom ((?:capture|cni|initcontainer|injection|sidecar)\b[\w.]*) import ((?:\w+, )*\w+)")


def is_there(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


def texts_in(source: str) -> str:
    nodes = ast.walk(ast.parse(source))
    return "\n".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [("capture.errors", "KernelError", True), ("capture.errors", "NoError", False), ("capture.none.at", "all", False)],
)
def test_a_name_is_looked_up(module: str, name: str, *, expected: bool) -> None:
    assert is_there(module, name) == expected


def test_every_import_in_a_text_of_the_tests_is_there() -> None:
    sources = [(path, path.read_text()) for path in TESTS.rglob("*.py") if path != Path(__file__)]
    imports = {
        (module, name): path.name
        for path, source in sources
        if "sys.executable" in source or "python" in source.lower()
        for module, names in IMPORT.findall(texts_in(source))
        for name in names.split(", ")
    }
    assert len(imports) > 10
    assert {each: where for each, where in imports.items() if not is_there(*each)} == {}
