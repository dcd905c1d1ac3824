"""docs/tested.md names a test for each thing that a node's agent has to do, and keeps what a run leaves out."""

import re
from pathlib import Path

import pytest

from support.cluster import report as tested
from support.cluster.report import REQUIREMENTS

TESTS = Path(__file__).resolve().parents[2]


def test_every_test_that_it_names_exists() -> None:
    heads = re.compile(r"^def (test_\w+)", re.MULTILINE)
    defined = {name for path in TESTS.rglob("test_*.py") for name in heads.findall(path.read_text())}
    assert [name for names in REQUIREMENTS.values() for name in names if name not in defined] == []


def test_a_run_of_some_rows_keeps_what_is_known_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ["dual-stack, containerd 1", "IPv4, containerd 1"]
    rows = {
        "tests/cluster/test_node.py::test_an_overwritten_entry_is_back_at_once": "A rival",
        "tests/cluster/test_node.py::test_new": "A new row",
        "tests/cluster/test_crowd.py::test_quiet_pods_cost_little": "Ten minutes",
    }
    ids = [kind.replace(" ", "-").replace(",", "") for kind in kinds]

    def page(revision: str, before: str, *results: tuple[str, str, str]) -> list[str]:
        monkeypatch.setattr(tested, "RESULTS", {})
        for result in results:
            tested.note(*result)
        text = tested.document(rows, kinds, revision, tested.earlier(before))
        pages.append(text)
        return [line for line in text.splitlines() if line.startswith(tuple(f"| {row} |" for row in rows.values()))]

    pages: list[str] = []
    rival, new, quiet = rows
    assert page("aaaaaaa", "") == [
        "| A rival | not run | not run |", "| A new row | not run | not run |", "| Ten minutes | not run |",
    ]  # fmt: skip
    first = ((f"{rival}[{ids[0]}]", "passed", "3 ms"), (f"{rival}[{ids[1]}]", "skipped", ""), (quiet, "failed", "2 %"))
    assert page("aaaaaaa", pages[-1], *first) == [
        "| A rival | ok: 3 ms | n/a |", "| A new row | not run | not run |", "| Ten minutes | **FAILED**: 2 % |",
    ]  # fmt: skip
    assert page("bbbbbbb", pages[-1], (f"{new}[{ids[1]}]", "passed", "")) == [
        "| A rival | ok: 3 ms (aaaaaaa) | n/a |",
        "| A new row | not run | ok |",
        "| Ten minutes | **FAILED**: 2 % (aaaaaaa) |",
    ]
    assert page("ccccccc", pages[-1]) == [
        "| A rival | ok: 3 ms (aaaaaaa) | n/a |",
        "| A new row | not run | ok (bbbbbbb) |",
        "| Ten minutes | **FAILED**: 2 % (aaaaaaa) |",
    ]
