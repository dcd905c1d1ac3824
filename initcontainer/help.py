"""The help text of ``istio-init``."""

from __future__ import annotations

import textwrap

from capture.errors import EXIT_DRIFT, EXIT_UNKNOWN, exit_codes_text
from capture.report.option_text import by_topic, flags_text, help_text
from capture.settings.options import BACKEND_OPTIONS, OPTIONS, REDIRECT_DNS, RULE_OPTIONS

USAGE = """\
Usage: istio-init [istio-iptables] [FLAGS]

Capture the traffic of this pod for Istio's sidecar proxy. Without flags, all of
it is captured, in and out. A flag beats the environment, and the environment
beats the default. A switch takes a value after = only.

Examples:
  istio-init -p 15001 -z 15006 -u 1337
  istio-init istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*'
  istio-init --dry-run --backend nftables
  istio-init --cleanup-only
  istio-init --version
"""

MOST_USED = tuple(option for option in RULE_OPTIONS if option.short in [*"pzugmbdixo"] or option is REDIRECT_DNS)
"""The capture options of which most people need some."""

WIDTH = 80
INDENT = 8


def usage(*, everything: bool = True) -> str:
    """Return how it is called, and every option by topic, or the usual ones and those of `istio-init` itself."""
    exit_codes = textwrap.fill(exit_codes_text(but=(EXIT_DRIFT, EXIT_UNKNOWN)), WIDTH)
    lines = [f"{USAGE}\n{exit_codes}\n\n"]
    usual = [option for option in OPTIONS if option in MOST_USED or option not in (*RULE_OPTIONS, *BACKEND_OPTIONS)]
    for topic, options in by_topic(OPTIONS if everything else usual).items():
        lines.append(f"{topic}:\n")
        for option in options:
            lines.append(f"  {flags_text(option)}\n")
            lines.append(textwrap.indent(textwrap.fill(help_text(option), WIDTH - INDENT), " " * INDENT) + "\n")
        lines.append("\n")
    if not everything:
        lines.append(f"{len(OPTIONS) - len(usual)} more capture options: istio-init --help-all\n")
    return "".join(lines).rstrip() + "\n"
