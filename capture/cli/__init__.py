"""The command ``capture``: one module per command, imported when it is called."""

from __future__ import annotations


def main() -> int:
    """Run the command line in ``sys.argv`` and return its exit code."""
    # click costs 30 ms, and other programs take the layout of listings from this package.
    from capture.cli.group import run

    return run()
