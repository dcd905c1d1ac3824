"""Write docs/options.md from the option table."""

from __future__ import annotations

from pathlib import Path

from capture.report.option_texts import as_markdown
from capture.settings.keywords import OPTIONS_BY_NAME

PAGE = Path(__file__).parents[1] / "docs" / "options.md"


def main() -> None:
    """Write the page."""
    PAGE.write_text(as_markdown({option: name for name, option in OPTIONS_BY_NAME.items()}), encoding="utf-8")


if __name__ == "__main__":
    main()
