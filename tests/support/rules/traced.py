"""The way of a packet through a rule set alone, or with foreign chains around it."""

from capture.analysis.base_chains import BaseChain, Situation
from capture.analysis.trace import Trace, trace_whole_path
from capture.model.packet import Packet
from capture.model.ruleset import Ruleset


def trace(
    ruleset: Ruleset, packet: Packet, foreign_chains: tuple[BaseChain, ...] = (), *, is_native: bool = False
) -> Trace:
    """Return what the rules do to the packet, and foreign ones on its way."""
    return trace_whole_path(packet, Situation(ruleset, foreign_chains, is_native))
