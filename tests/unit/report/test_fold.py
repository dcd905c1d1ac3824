"""Lines and tables fit a terminal, and lose nothing."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capture.report.fold import MIN_COLUMN, folded, folded_table, width_of

WIDTHS = st.integers(40, 200)
LINES = st.text(st.sampled_from("ab,`/-  日"), max_size=400).map(str.strip)
CELLS = st.text(st.sampled_from("ab, 日"), max_size=60)


@given(LINES, WIDTHS, st.sampled_from((None, 0, 10)))
@example("`" * 41, 40, None)
def test_no_line_is_wider_and_nothing_is_lost(line: str, width: int, hang: int | None) -> None:
    lines = folded(line, width, hang)

    assert max(map(width_of, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(line.split())


@given(st.lists(st.lists(CELLS, min_size=5, max_size=5), min_size=1, max_size=5), WIDTHS)
def test_no_table_is_wider_and_no_cell_is_lost(rows: list[list[str]], width: int) -> None:
    lines = list(folded_table(rows, width))

    assert max(map(width_of, lines)) <= max(width, 5 * MIN_COLUMN + 8)
    assert sorted("".join(lines).replace(" ", "")) == sorted("".join(map("".join, rows)).replace(" ", ""))


def test_a_line_that_fits_stays_as_it_is() -> None:
    assert folded("  a line  of its own", 20) == ["  a line  of its own"]


def test_a_fold_hangs_below_the_text_behind_its_mark() -> None:
    assert folded("  => nat OUTPUT 1: -p tcp -j ISTIO-OUTPUT   # outbound connections", 40) == [
        "  => nat OUTPUT 1: -p tcp -j",
        "       ISTIO-OUTPUT   # outbound",
        "       connections",
    ]


def test_a_command_that_has_room_stays_whole() -> None:
    line = "Add what is missing: `ip rule add fwmark 1337 lookup 133`, and look again."

    assert folded(line, 45)[1] == "  `ip rule add fwmark 1337 lookup 133`, and"


def test_a_list_without_blanks_is_cut_after_a_comma() -> None:
    assert folded("--dports 1000,2000,3000,4000", 16, 0) == ["--dports", "1000,2000,3000,", "4000"]


@pytest.mark.parametrize(("text", "width"), [("plain", 5), ("日本", 4), ("e\u0301", 1)])
def test_how_wide_a_text_is(text: str, width: int) -> None:
    assert width_of(text) == width


def test_words_are_cut_only_where_columns_leave_no_room() -> None:
    rows = [["ISTIO-IN-REDIRECT", "owner UID match 1337"]]

    assert list(folded_table(rows, 32)) == ["ISTIO-IN-REDIRECT  owner UID", "                   match 1337"]
