"""The rows of ``capture explain``."""

from __future__ import annotations

from capture.analysis.base_chains import Situation
from capture.analysis.explanation import statements_about
from capture.backends.iptables.render import shown_rule
from capture.cli.explain import table_rows
from capture.model.addresses import FAMILIES
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig


def test_what_differs_between_families_in_addresses_of_lo_alone_is_one_row() -> None:
    statements = statements_about(dict.fromkeys(FAMILIES, Situation(build_ruleset(CaptureConfig()))), shown_rule)

    rows = table_rows(statements)

    assert {families for *_, families in rows} == {"IPv4, IPv6"}
    assert len(rows) < len(statements)
    assert "tcp, from 127.0.0.6 or ::6, over lo" in [traffic for _, traffic, *_ in rows]
