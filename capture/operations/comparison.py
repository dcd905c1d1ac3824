"""``verify`` and ``dump``: the live rules, and how they compare with the desired ones."""

from __future__ import annotations

from capture.backends import detect, load, other_family
from capture.backends.request import Request
from capture.model.addresses import IPV6
from capture.model.ruleset import FAMILIES, Ruleset
from capture.operations.results import Dumped, LiveSet, Other, Verified
from capture.operations.target import host_of, place, request_of
from capture.rules import (
    build_ruleset,
)
from capture.settings.config import resolve
from capture.settings.families import global_addresses, judge_families
from capture.settings.host import PodFromOutside
from capture.settings.options import (
    OTHER_FAMILY,
)
from capture.settings.settings import Settings
from capture.state import record, routes
from capture.state.netns import Entered

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.analysis.compare import Difference
    from capture.analysis.stations import PodNetwork
    from capture.backends.detect import Decision, Leftover
    from capture.operations.situation import Elsewhere
    from capture.operations.target import Namespace
    from capture.settings.config import Host
    from capture.state.record import Record


def verify(
    settings: Settings | None = None,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    prefer_recorded: bool = False,
) -> Verified:
    """Compare the namespace with what the settings ask for.

    Without settings, or where it is preferred: with what was applied there, if that is known.
    """
    with Entered(namespace):
        recorded = record.read() if settings is None or prefer_recorded else None
        if recorded is not None:
            return _verify_recorded(recorded)
        explicit = settings or Settings({})
        if settings is None or (prefer_recorded and not explicit.explicit):
            return verify_without_reference()
        config, _ = resolve(explicit, host or host_of(namespace))
        return _with_families(verify_here(build_ruleset(config), request_of(explicit)), explicit)


def _verify_recorded(recorded: Record) -> Verified:
    request = Request(recorded.backend, recorded.driver, recorded.variant)
    desired = routes.with_loopback_address(recorded.ruleset(), global_addresses(PodFromOutside().pod_addresses()))
    return _with_families(verify_here(desired, request), recorded.settings).replace(from_record=True)


def _with_families(verified: Verified, settings: Settings) -> Verified:
    """Return the comparison with what there is to say about addresses of families without rules."""
    families = verified.desired.families
    uncaptured, remarks = judge_families(families, settings, PodFromOutside().pod_addresses())
    is_wanted = IPV6 not in families and settings[OTHER_FAMILY] == "reject"
    if is_wanted != other_family.is_present():
        state = "is missing, or not as it was written" if is_wanted else "rejects IPv6, and no setting asks for that"
        uncaptured = (*uncaptured, f"table inet {other_family.TABLE} {state}")
    return verified.replace(uncaptured=uncaptured, remarks=remarks)


def verify_without_reference() -> Verified:
    """Judge what is foreign in the namespace we are in, where nothing says what our own rules should be."""
    from capture.analysis.ownership import ours_only

    decision, standing = detect.look(Request())
    if not standing:
        empty = Ruleset(FAMILIES, ())
        return Verified(decision, empty, empty, has_reference=False)
    from capture.operations.situation import read_elsewhere

    live = load(standing[0]).read()
    own = ours_only(live)
    elsewhere = read_elsewhere(place(standing[0]))
    return _judged(own, live, (), elsewhere, standing[0], standing).replace(has_reference=False)


def verify_here(desired: Ruleset, request: Request) -> Verified:
    """Compare the namespace we are in with a rule set: there where ours stand, unless the request says where."""
    decision, standing = detect.look(request)
    if request == Request() and standing and place(decision) not in map(place, standing):
        decision = standing[0]
    driver = load(decision)
    live = desired if driver.holds(desired) else driver.read()
    from capture.operations.situation import read_elsewhere  # not when pods are made
    from capture.state.impediments import impediments

    elsewhere = read_elsewhere(place(decision))
    if live is desired and not elsewhere.chains:
        missing = tuple(routes.missing(desired))
        return Verified(
            decision, desired, live, missing=missing, doubts=elsewhere.doubts, impediments=impediments(desired)
        )
    found = differences_between(desired, live) if live is not desired else ()
    return _judged(desired, live, found, elsewhere, decision, standing)


def _judged(
    desired: Ruleset,
    live: Ruleset,
    found: tuple[Difference, ...],
    elsewhere: Elsewhere,
    decision: Decision,
    standing: Iterable[Leftover],
) -> Verified:
    """Return what differs, judged by what it does to packets."""
    from capture.analysis.judgement import judge
    from capture.analysis.pod_network import read_pod_network
    from capture.state.impediments import impediments

    network = read_pod_network()
    judged = judge(desired, live, found, elsewhere.foreign, network, is_native=decision.backend == "nftables")
    return Verified(
        decision,
        desired,
        live,
        judged.differences,
        tuple(routes.missing(desired)),
        judged.notes,
        tuple(_others(decision, standing, desired, elsewhere, network)),
        judged.obstacles,
        judged.harmless,
        judged.unjudged,
        (*elsewhere.doubts, *judged.doubts),
        impediments(desired),
    )


def _others(
    decision: Decision, standing: Iterable[Leftover], desired: Ruleset, elsewhere: Elsewhere, network: PodNetwork
) -> Iterator[Other]:
    """Yield the sets that stand elsewhere than the decision's, each with a packet that it sends elsewhere."""
    from capture.analysis.judgement import second_set_effect

    for found in standing:
        if place(found) != place(decision):
            yield Other(found, second_set_effect(desired, elsewhere.of(place(found)), network))


def can_stay(decision: Decision, desired: Ruleset, live: Ruleset) -> bool:
    """Return whether there is nothing to write; the tables of nftables are ours with their policies."""
    if live is desired or not live.tables:
        return live is desired
    from capture.analysis.compare import (
        can_stay,  # not needed in a namespace that is new, nor where nothing has changed
    )

    return can_stay(desired, live, writes_policies=decision.backend == "nftables")


def differences_between(desired: Ruleset, live: Ruleset) -> tuple[Difference, ...]:
    """Return how the rules differ in structure."""
    from capture.analysis.compare import differences

    return tuple(differences(desired, live))


def dump(namespace: Namespace = None) -> Dumped:
    """Return all sets of ours that stand in the namespace, with counters."""
    with Entered(namespace):
        standing = tuple(
            LiveSet(found.backend, found.driver, found.variant, load(found).read()) for found in detect.leftovers()
        )
        recorded = record.read()
        return Dumped(standing, _verify_recorded(recorded) if recorded else None)
