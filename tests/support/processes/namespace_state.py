"""Everything in a network namespace that a capture may touch, as its own tools print it: to be compared."""

import re

from capture.backends.iptables.tables import legacy_tables
from pytest_netns import Namespace

COUNTERS = re.compile(r"\[\d+:\d+\]")
COMES_LATE = re.compile(r"\bfe80:|\bff00:|valid_lft")
"""Addresses that the kernel adds by itself, some time after an interface has come up."""


def namespace_state(namespace: Namespace) -> dict[str, str]:
    """Return the rules of every kind, policy rules, routes and addresses; without counters and dates.

    Looking changes nothing: legacy programs run only where there are legacy tables.
    """
    seen = {"nft": namespace.run(["nft", "--stateless", "list", "ruleset"]).stdout}
    for family, command in (("ipv4", "iptables"), ("ipv6", "ip6tables")):
        variants = ["nft"]
        with namespace.entered():
            if legacy_tables("ipv4" if family == "ipv4" else "ipv6"):
                variants.append("legacy")
        for variant in variants:
            program = f"{command}-{variant}-save"
            seen[program] = _without_noise(namespace.run([program]).stdout)
        looks = "rule show\nroute show table all\naddress show\n"
        lines = namespace.run(["ip", f"-{family[-1]}", "-batch", "-"], stdin=looks).stdout.splitlines(keepends=True)
        seen[f"ip -{family[-1]}"] = "".join(line for line in lines if not COMES_LATE.search(line))
    return seen


def _without_noise(saved: str) -> str:
    """Return what iptables-save printed, without dates and counters."""
    lines = [line for line in saved.splitlines() if not line.startswith("# ") or "incompatible" in line]
    return "\n".join(COUNTERS.sub("[0:0]", line) for line in lines)
