"""``verify`` and ``dump``: the live rules, and how they compare with the desired ones."""

from __future__ import annotations

from capture.backends import detect, load_driver
from capture.backends.nf_tables.names import REJECT_TABLE
from capture.backends.request import BackendRequest
from capture.model.addresses import FAMILIES, IPV4, IPV6, Network
from capture.model.conventions import NO_IPV4
from capture.model.routing import MissingRoute
from capture.model.ruleset import Chain, Ruleset, TableName
from capture.model.values import Value
from capture.operations.arguments import host_of, host_or_default, request_of
from capture.operations.results import Dumped, LiveSet, SecondSet, Verified
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig, Host, resolve
from capture.settings.families import global_addresses, judge_families
from capture.settings.options import OTHER_FAMILY, PROFILE
from capture.settings.settings import Settings, require_settings
from capture.state import record, routes
from capture.system.netns import InNamespace
from capture.system.pod_host import PodFromInside, PodFromOutside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from capture.backends.detect import BackendChoice, Detected, SetLocation
    from capture.model.addresses import Family
    from capture.operations.arguments import Namespace
    from capture.state.record import Record


def verify(
    settings: Settings | None = None,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    prefer_recorded: bool = False,
) -> Verified:
    """Compare the namespace with the desired rules of the settings.

    Without settings, or where it is preferred: with what was applied there, if that is known. Raises CaptureError and
    its kinds; what differs is in the result.
    """
    explicit = Settings({}) if settings is None else require_settings(settings, "verify")
    with InNamespace(namespace):
        if settings is None or prefer_recorded:
            verified = verify_recorded()
            if verified is not None:
                return verified
            if not explicit.explicit:
                return _verify_without_reference()
        config, _ = resolve(explicit, host_or_default(host, host_of(namespace), "verify"))
        request = request_of(explicit)
        addresses = PodFromOutside().pod_addresses()
        recorded = record.read()
        own = recorded.ruleset if recorded else None
        verified = _verify(build_ruleset(config), request, detect.detect(request), explicit, addresses, own)
        applied = recorded.settings[PROFILE] if recorded else config.profile
        if applied == config.profile:
            return verified
        note = (
            f"the applied profile is {applied}, and that of these options {config.profile}: add `--profile {applied}`"
        )
        return verified.replace(notes=(*verified.notes, note))


def verify_recorded() -> Verified | None:
    """Compare the namespace we are in with what was applied there; None if that is not recorded."""
    recorded = record.read()
    return None if recorded is None else _verify_recorded(recorded, detect.detect(_request_of(recorded)))


def _request_of(recorded: Record) -> BackendRequest:
    return BackendRequest(recorded.backend, recorded.driver, recorded.variant)


def _verify_recorded(recorded: Record, detected: Detected) -> Verified:
    addresses = PodFromOutside().pod_addresses()
    desired = routes.with_loopback_address(recorded.ruleset, global_addresses(addresses))
    verified = _verify(desired, _request_of(recorded), detected, recorded.settings, addresses)
    return verified.replace(from_record=True)


def _verify(
    desired: Ruleset,
    request: BackendRequest,
    detected: Detected,
    settings: Settings,
    addresses: tuple[Network, ...],
    recorded: Ruleset | None = None,
) -> Verified:
    """Compare with the desired rules, and judge families that have addresses and no rules."""
    choice, live_sets = detected.choice, detected.live_sets
    uncaptured, notes = judge_families(desired.families, settings, addresses)
    table_fault = reject_fault(desired.families, settings, has_table=detected.has_reject_table)
    if table_fault:
        uncaptured, notes = (*uncaptured, table_fault), ()
    if request == BackendRequest() and live_sets and choice.place not in [each.choice.place for each in live_sets]:
        choice = live_sets[0].choice  # without settings, the place that has our rules
    driver = load_driver(choice)
    live = desired if driver.has_exactly(desired) else driver.read()
    judged = _verified_by_effects(desired, live, choice, live_sets, recorded=recorded)
    return judged.replace(uncaptured=uncaptured, notes=notes)


def reject_fault(captured: tuple[Family, ...], settings: Settings, *, has_table: bool = True) -> str:
    """Return what is wrong with the table of --other-family reject, in words; "" if nothing is."""
    is_desired = IPV6 not in captured and settings[OTHER_FAMILY] == "reject" and PodFromInside().has_ipv6()
    if not is_desired and not has_table:
        return ""
    from capture.backends.other_family import read_reject_table  # few captures reject anything

    table = read_reject_table()
    undesired = "rejects IPv6, and no setting requests that" if table.exists else ""
    words = table.fault if is_desired else undesired
    return f"table inet {REJECT_TABLE} {words}" if words else ""


def _verify_without_reference() -> Verified:
    """Judge the foreign rules in the namespace we are in, without a reference for our own rules."""
    live_sets = detect.find_live_sets()
    if not live_sets:
        empty = Ruleset(FAMILIES, ())
        choice = detect.detect(BackendRequest()).choice
        return Verified(choice, empty, empty, has_reference=False, record_fault=record.why_unusable())
    choice = live_sets[0].choice
    live = load_driver(choice).read()
    own = own_ruleset(live)
    judged = _verified_by_effects(own, live, choice, live_sets, has_reference=False)
    is_ipv4_missing = len(live_sets) == 1 and IPV4 not in families_with_rules(own)
    return judged.replace(record_fault=record.why_unusable(), uncaptured=(NO_IPV4,) if is_ipv4_missing else ())


def families_with_rules(own: Ruleset) -> tuple[Family, ...]:
    """Return the families for which there are rules."""
    chains = [chain for table in own.tables for chain in table.chains]
    return tuple(family for family in own.families if any(any(chain.rules_for(family)) for chain in chains))


def own_ruleset(live: Ruleset) -> Ruleset:
    """Return our own of live rules, and the routes that they need: the reference where none is recorded."""
    from capture.analysis.ownership import without_foreign_rules

    def accepting(_: TableName, chain: Chain) -> Chain:  # a capture sets no policy: any but ACCEPT is foreign
        return chain if chain.policy is None else chain.replace(policy="ACCEPT", ipv6_policy=None)

    return without_foreign_rules(live).with_chains(accepting).replace(policy_routes=routes.routes_of_marks(live))


def _verified_by_effects(
    desired: Ruleset,
    live: Ruleset,
    choice: BackendChoice,
    live_sets: Iterable[SetLocation],
    *,
    has_reference: bool = True,
    recorded: Ruleset | None = None,
) -> Verified:
    """Return what differs, judged by what it does to packets."""
    from capture.operations.situation import read_other_chains  # not when pods are made
    from capture.state.impediments import LO_DOWN, impediments  # addresses of lo go with it

    other_chains, unread = read_other_chains(choice.place)
    found_impediments = impediments(desired)
    needs = routes.missing_parts(desired)
    verified = Verified(
        choice,
        desired,
        live,
        missing=tuple(each for each in needs if LO_DOWN not in found_impediments or isinstance(each, MissingRoute)),
        doubts=unread,
        impediments=found_impediments,
        has_reference=has_reference,
    )
    if live is desired and not other_chains:
        return verified
    from capture.analysis.base_chains import Situation
    from capture.analysis.judgement import judge, second_set_effect
    from capture.system.pod_network import read_pod_network

    foreign = tuple(chain for chain in other_chains if not chain.is_of_capture)
    around = Situation(desired, foreign, choice.backend == "nftables", read_pod_network())
    judged = judge(around, live, has_reference=has_reference, recorded=recorded)
    second_sets = []
    for other in (live_set.choice for live_set in live_sets if live_set.choice.place != choice.place):
        of_set = tuple(chain for chain in other_chains if chain.is_of_capture and chain.place == other.place)
        second_sets.append(SecondSet(other, second_set_effect(around.replace(other_chains=of_set))))
    judgement: dict[str, object] = {name: getattr(judged, name) for name in judged.__match_args__}
    return verified.replace(**judgement | {"doubts": (*unread, *judged.doubts), "second_sets": tuple(second_sets)})


def dump(namespace: Namespace = None) -> Dumped:
    """Return all our sets in the namespace, with counters."""
    with InNamespace(namespace):
        from capture.backends.other_family import read_reject_table  # few captures reject anything

        recorded, table = record.read(), read_reject_table()
        rejects, table_fault = not table.fault, table.fault if table.exists else ""
        if recorded is None:
            return Dumped(_live_sets(detect.find_live_sets()), None, rejects, table_fault, record.why_unusable())
        detected = detect.detect(_request_of(recorded))
        return Dumped(_live_sets(detected.live_sets), _verify_recorded(recorded, detected), rejects, table_fault)


def _live_sets(located: Iterable[SetLocation]) -> tuple[LiveSet, ...]:
    return tuple(LiveSet(each.choice, load_driver(each.choice).read()) for each in located)


class Reference(Value):
    """Settings, and what they mean in a namespace."""

    settings: Settings
    config: CaptureConfig
    warnings: tuple[str, ...] = ()
    """About the settings that a caller gave."""


def read_reference(
    settings: Settings | None = None,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    prefer_recorded: bool = False,
) -> Reference | None:
    """Return what ``verify`` compares with, with the same arguments; None without settings and record.

    Raises ConfigurationError for settings that mean nothing there.
    """
    with InNamespace(namespace):
        recorded = record.read() if settings is None or prefer_recorded else None
        if recorded is not None:
            return Reference(recorded.settings, resolve(recorded.settings, recorded.answers)[0])
        if settings is None or (prefer_recorded and not settings.explicit):
            return None
        config, warnings = resolve(settings, host_of(namespace) if host is None else host)
        return Reference(settings, config, tuple(warnings))
