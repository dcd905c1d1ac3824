"""docs/tested.md names a test for each thing that a node's agent has to do."""

from __future__ import annotations

import re
from pathlib import Path

from cluster_report import REQUIREMENTS

TESTS = Path(__file__).resolve().parents[2]


def test_every_test_that_it_names_exists() -> None:
    heads = re.compile(r"^def (test_\w+)", re.MULTILINE)
    defined = {name for path in TESTS.rglob("test_*.py") for name in heads.findall(path.read_text())}
    assert [name for names in REQUIREMENTS.values() for name in names if name not in defined] == []
