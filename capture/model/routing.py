"""What a capture needs apart from rules: an address on ``lo``, and the routes of a transparent proxy."""

from __future__ import annotations

from capture.model.addresses import FAMILY_NAMES, IPV6, Family, Network
from capture.model.values import Value


class LoopbackAddress(Value):
    """An address on ``lo`` that the capture needs; prefix of full length."""

    network: Network

    @property
    def family(self) -> Family:
        return self.network.family

    @property
    def message(self) -> str:
        return f"the address {self.network} on lo is missing: `ip address add {self.network} dev lo` adds it"


class PolicyRoute(Value):
    """Packets with this mark are looked up in this routing table, where everything is local to ``lo``."""

    family: Family
    mark: int
    table: int


class MissingRoute(Value):
    """A policy route of which a half or both are missing: the rule that looks packets up, the route they find."""

    policy: PolicyRoute
    has_rule: bool
    has_route: bool
    is_taken: bool = False
    """Whether another default route is in the route's place."""

    consequence = "the app's answers leave the pod and miss the proxy"

    @property
    def family(self) -> Family:
        return self.policy.family

    @property
    def message(self) -> str:
        halves = (*(() if self.has_rule else ("the policy rule",)), *(() if self.has_route else ("the route",)))
        verb, add = ("are", "add them") if len(halves) > 1 else ("is", "adds it")
        missing = f"{' and '.join(halves)} for mark {self.policy.mark:#x} {verb} missing"
        return f"{FAMILY_NAMES[self.family]}: {missing}: {' and '.join(f'`{each}`' for each in self.commands)} {add}"

    @property
    def commands(self) -> tuple[str, ...]:
        """Return what would add it, as commands of ip(8); the last one replaces another default route."""
        option = "-6 " if self.family == IPV6 else ""
        rule = f"ip {option}rule add fwmark {self.policy.mark:#x} lookup {self.policy.table}"
        route = f"ip {option}route replace local default dev lo table {self.policy.table}"
        return (*(() if self.has_rule else (rule,)), *(() if self.has_route else (route,)))
