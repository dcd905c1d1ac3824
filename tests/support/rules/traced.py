"""The way of a packet through a rule set alone, or with foreign chains around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capture.analysis.stations import Situation
from capture.analysis.trace import whole_way

if TYPE_CHECKING:
    from capture.analysis.stations import ForeignChain
    from capture.analysis.trace import Trace
    from capture.model.packet import Packet
    from capture.model.ruleset import Ruleset


def trace(
    ruleset: Ruleset, packet: Packet, foreign_chains: tuple[ForeignChain, ...] = (), *, is_native: bool = False
) -> Trace:
    """Return what the rules do to the packet, and foreign ones on its way."""
    return whole_way(packet, Situation(ruleset, foreign_chains, is_native))
