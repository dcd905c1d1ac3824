"""Reads what decides on packets apart from the capture itself, in the namespace we are in."""

from __future__ import annotations

from capture.analysis.base_chains import Situation, base_chains_of_iptables
from capture.backends import load_driver
from capture.backends.detect import BackendChoice
from capture.backends.iptables.tables import legacy_tables
from capture.errors import CaptureError
from capture.model.addresses import FAMILIES
from capture.model.values import Value
from capture.state import routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.base_chains import BaseChain
    from capture.analysis.captured_pod import Capture, PodFacts
    from capture.model.ruleset import Ruleset
    from capture.operations.comparison import Reference

LEGACY = ("iptables", "legacy")


class ExaminedPod(Value):
    """A pod as it was read once, to find what is wrong with it; without a reference, live rules are ``desired``."""

    situation: Situation
    reference: Reference | None
    desired: Ruleset
    facts: PodFacts
    capture: Capture


def read_other_chains(place: tuple[str, str]) -> tuple[tuple[BaseChain, ...], tuple[str, ...]]:
    """Return the base chains outside of our set in a place, foreign ones first; and in words what cannot be read.

    A place is a backend, and its variant.
    """
    from capture.backends.foreign_chains import read_foreign_chains  # not when milliseconds count

    chains = list(read_foreign_chains((place,)))
    doubts: list[str] = []
    tables = {table for family in FAMILIES for table in legacy_tables(family)}
    if tables and place != LEGACY:
        legacy = _read_legacy()
        if legacy is None:
            doubts.append("there are tables of iptables-legacy, and no program or python-iptables to read them")
        else:
            chains += legacy
    if tables & {"filter", "security"}:
        from capture.backends.iptables.restore import read_legacy_filters

        filters = read_legacy_filters()
        chains += filters or ()
        if filters is None:
            doubts.append("there are filters of iptables-legacy, and no iptables-legacy-save reads them")
    return tuple(sorted(chains, key=lambda chain: chain.is_of_capture)), tuple(doubts)


def _read_legacy() -> list[BaseChain] | None:
    for driver in ("restore", "iptc"):
        try:
            ruleset = load_driver(BackendChoice("iptables", driver, "legacy")).read()
        except CaptureError:
            continue
        base_chains = base_chains_of_iptables(ruleset, is_older=lambda _: False)
        in_use = (chain for chain in base_chains if chain.chain.rules or "DROP" in chain.policies)
        return [
            chain.replace(table=f"{chain.contents.name} of iptables-legacy", is_age_unknown=True, place=LEGACY)
            for chain in in_use
        ]
    return None


def read_situation(ruleset: Ruleset, place: tuple[str, str], needs: Ruleset) -> Situation:
    """Return all that decides on packets, for a rule set that is in a place; ``needs`` are the routes it depends on."""
    from capture.system.pod_network import read_pod_network

    return Situation(
        ruleset.replace(policy_routes=ruleset.policy_routes or needs.policy_routes),
        read_other_chains(place)[0],
        place[0] == "nftables",
        read_pod_network(),
        routes.missing_routes(needs),
    )
