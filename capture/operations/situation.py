"""Reads what decides on packets apart from the capture itself, in the namespace we are in."""

from __future__ import annotations

from capture.analysis.base_chains import BaseChain, Situation, base_chains_of_iptables
from capture.backends import load_driver
from capture.backends.detect import BackendChoice
from capture.backends.iptables.tables import legacy_tables
from capture.errors import CaptureError
from capture.model.addresses import FAMILIES
from capture.model.chain_names import is_own_chain
from capture.model.values import Value
from capture.state import routes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.analysis.captured_pod import Capture, PodFacts
    from capture.model.ruleset import Ruleset
    from capture.operations.comparison import Reference

LEGACY = ("iptables", "legacy")


class OtherChains(Value):
    """Base chains outside of the set in question. ``second`` are those of our other sets, and of the rejecting table;
    ``doubts`` are what is there and cannot be read, in words.
    """

    foreign: tuple[BaseChain, ...] = ()
    second: tuple[BaseChain, ...] = ()
    doubts: tuple[str, ...] = ()

    @property
    def chains(self) -> tuple[BaseChain, ...]:
        return (*self.foreign, *self.second)

    def chains_in_place(self, place: tuple[str, str]) -> tuple[BaseChain, ...]:
        """Return the chains of our set in a place."""
        return tuple(chain for chain in self.second if chain.place == place)


class ExaminedPod(Value):
    """A pod as it was read once, to find what is wrong with it; without a reference, live rules are ``desired``."""

    situation: Situation
    reference: Reference | None
    desired: Ruleset
    facts: PodFacts
    capture: Capture


def read_other_chains(place: tuple[str, str]) -> OtherChains:
    """Return the base chains outside of our set in a place: a backend, and its variant."""
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
    second = tuple(chain for chain in chains if _is_own(chain))
    return OtherChains(tuple(chain for chain in chains if not _is_own(chain)), second, tuple(doubts))


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


def _is_own(chain: BaseChain) -> bool:
    """Return whether a chain is in a table of our own, or in one of iptables that has chains of ours."""
    if chain.is_own:
        return True
    has_own = any(is_own_chain(each.name) for each in chain.contents.chains)
    return chain.place is not None and (has_own or chain.place[0] == "nftables")


def read_situation(ruleset: Ruleset, place: tuple[str, str], needs: Ruleset) -> Situation:
    """Return all that decides on packets, for a rule set that is in a place; ``needs`` are the routes it depends on."""
    from capture.system.pod_network import read_pod_network

    return Situation(
        ruleset.replace(policy_routes=ruleset.policy_routes or needs.policy_routes),
        read_other_chains(place).chains,
        place[0] == "nftables",
        read_pod_network(),
        routes.missing_routes(needs),
    )
