from __future__ import annotations

from pathlib import Path

from capture.report.option_texts import as_markdown, by_topic, flags_text, help_text
from capture.settings.keywords import OPTIONS_BY_NAME
from capture.settings.options import (
    DRY_RUN,
    OPTIONS,
    OWNER_GROUPS,
    PROXY_PORT,
    REDIRECT_DNS,
)

PAGE = Path(__file__).parents[3] / "docs" / "options.md"


def test_the_page_of_documentation_is_what_the_table_says() -> None:
    written = PAGE.read_text(encoding="utf-8")

    assert written == as_markdown({option: name for name, option in OPTIONS_BY_NAME.items()}), (
        "run: .venv/bin/python scripts/docs_pages.py"
    )


def test_flags_and_their_help() -> None:
    assert flags_text(PROXY_PORT) == "-p, --envoy-port PORT"
    assert help_text(PROXY_PORT) == "Port to which outbound TCP is sent.  [default: 15001]  [env: ENVOY_PORT]"
    assert flags_text(DRY_RUN) == "-n, --dry-run"
    assert flags_text(OWNER_GROUPS) == "ISTIO_OUTBOUND_OWNER_GROUPS=GROUPS"
    assert help_text(REDIRECT_DNS).endswith("[env: REDIRECT_DNS, ISTIO_META_DNS_CAPTURE]")


def test_every_option_has_a_topic_and_those_without_a_flag_come_last() -> None:
    topics = by_topic(OPTIONS)

    assert sorted(option.name for options in topics.values() for option in options) == sorted(
        option.name for option in OPTIONS
    )
    assert list(topics)[-1] == "in the environment only"
    assert all(not option.flag for option in topics["in the environment only"])
