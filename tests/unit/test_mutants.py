"""The list of mutants that change nothing keeps up with the code."""

import mutants


def test_every_line_is_about_a_mutant_that_there_is() -> None:
    assert mutants.stale_lines() == []
