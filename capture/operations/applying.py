"""``apply`` and ``clean``, the verbs that change a namespace.

``apply`` may be killed anywhere. Its steps, in order::

    wait      until no other run changes the namespace (the lock); after 10 s go on without, with a warning
    read      the live rules: if they equal the desired ones, no rule is written
    record    what is about to be applied, and which routes of an earlier set may be left over
    add       address, policy rules and routes; turn off sysctls in the way of a transparent proxy
    replace   the rules; read them again, and compare
    remove    our sets elsewhere, now that the new one captures
    reject    the family that is not captured, with --other-family reject
    remove    stale routes
"""

from __future__ import annotations

from capture.backends import detect, load_driver
from capture.errors import CaptureError, KernelError, ToolError, UnsupportedError, argument_error
from capture.model.addresses import IPV6
from capture.model.ruleset import Ruleset
from capture.model.values import Value
from capture.operations.arguments import host_of, host_or_default, recorded_request, request_of, require_seconds
from capture.rules import build_ruleset, build_tracking, build_transition, redirects_inbound, tracks_connections
from capture.settings.config import CaptureConfig, Host, resolve
from capture.settings.families import link_local_note
from capture.settings.options import ALLOW_HOST, PROFILE
from capture.settings.settings import Settings, require_settings
from capture.state import record, routes
from capture.state.directory import forget_ended_namespaces
from capture.state.host_answers import RecordingHost
from capture.state.lock import LOCK_TIMEOUT, NamespaceLock
from capture.state.record import Journal, Record
from capture.system.netns import InNamespace, has_tcp_sockets, is_own_user_namespace, refuse_host
from capture.system.node import refuse_node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from capture.backends import Driver
    from capture.backends.detect import BackendChoice, Detected, SetLocation
    from capture.operations.arguments import Namespace
    from capture.state.sysctls import Sysctl


class Applied(Value):
    """The result of ``apply``: whether anything was written, how, for which configuration, and its warnings."""

    changed: bool
    choice: BackendChoice
    config: CaptureConfig
    ruleset: Ruleset
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Facts that are no fault, and good to know."""
    settings: Settings = Settings({})
    """The settings that were applied."""
    replaced: Record | None = None
    """What was recorded before."""


class ExistingState(Value):
    """The state of a namespace before a change."""

    driver: Driver
    """The one that will write; it knows what it has read."""
    current: Ruleset
    """The live rules where the desired ones go."""
    other_sets: tuple[tuple[Driver, Ruleset], ...]
    """Our sets in other places, each with the driver that removes it."""
    recorded: Record | None
    recorded_rules: Ruleset | None
    stale_routes: Ruleset
    """Routes and addresses of an earlier set that the desired one has no use for."""

    @property
    def rulesets(self) -> tuple[Ruleset, ...]:
        """Return all our rule sets."""
        return (self.current, *(ruleset for _, ruleset in self.other_sets))


def apply(
    settings: Settings | None = None,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    recorded: bool = False,
    force: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
) -> Applied:
    """Make the rules of the namespace those of the settings; equal rules are left as they are.

    With ``recorded``: those that were applied there last, with the given ones changed, with the same backend and
    driver and the facts of that time. ``settings`` may be left out with ``recorded`` only.

    ``lock_timeout`` is in seconds: how long to wait for another of our programs that changes the namespace, before
    going on without the lock.

    Raises CaptureError and its kinds; then the old rules or the new ones are in place. What was written of a change
    that is refused is taken back; if that fails, too, some tables may have either until the next call.
    """
    if settings is None and not recorded:
        raise argument_error("apply", "settings", settings, "what make_settings() returns, unless recorded=True")
    settings = Settings({}) if settings is None else require_settings(settings, "apply")
    require_seconds(lock_timeout, "apply")
    host = host_or_default(host, host_of(namespace), "apply")
    with InNamespace(namespace):
        if recorded:
            settings, host = recorded_request(settings, host)
        refuse_node(allowed=settings[ALLOW_HOST])
        return apply_here(settings, host, force=force, lock_timeout=lock_timeout)


def apply_here(settings: Settings, host: Host, *, force: bool = False, lock_timeout: float = LOCK_TIMEOUT) -> Applied:
    """Do what ``apply`` does, in the namespace we are in."""
    refuse_host(allowed=settings[ALLOW_HOST])
    recording = RecordingHost(host)
    resolved = resolve(settings, recording)
    try:
        return _apply(settings, recording, resolved, force=force, lock_timeout=lock_timeout)
    except (UnsupportedError, KernelError, ToolError):
        # A pod that is not reached by IPv6 starts on a kernel without NAT for IPv6, too.
        if IPV6 not in resolved[0].families or resolved[0].is_reached_by_ipv6:
            raise
    recording.forget_ipv6()
    return _apply(settings, recording, resolve(settings, recording), force=force, lock_timeout=lock_timeout)


def _apply(
    settings: Settings,
    recording: RecordingHost,
    resolved: tuple[CaptureConfig, list[str]],
    *,
    force: bool,
    lock_timeout: float,
) -> Applied:
    config, warnings = resolved
    desired = build_ruleset(config)
    with NamespaceLock(lock_timeout) as lock:
        detected = detect.detect(request_of(settings), desired)
        choice = detected.choice
        if not detected.has_own_users:
            from capture.system.user_namespace import require_known_ids  # most pods share the node's users

            require_known_ids(settings, config)
        existing = _read_existing(detected, desired)
        settings = settings.with_option(PROFILE, config.profile, settings.origin(PROFILE))
        written_by = choice.backend, choice.driver, choice.variant
        sysctls = _sysctls_to_change(desired)
        journal = Journal(Record(settings, recording.answers(), desired, *written_by, sysctls=sysctls))
        journal.begin(existing.stale_routes, existing.recorded)
        try:
            changed = routes.add_missing(desired) | journal.turn_off_sysctls()
            replaced, losses = _replace_rules(choice, existing, config, desired, force=force)
            for driver, ruleset in existing.other_sets:  # now that the new one captures
                driver.clean(ruleset, existing.recorded_rules)
            changed |= replaced | bool(existing.other_sets)
            changed |= _reject_other_family(config, detected)  # last: what it rejected may be captured now
        except BaseException as error:  # an interrupt, too
            _roll_back(error, journal, existing, detected, desired)
            raise
        restored = not desired.policy_routes and journal.restore_sysctls()
        if routes.remove(existing.stale_routes, desired) or restored:
            changed = True
            journal.commit()
    notes = filter(None, (link_local_note(settings, config.families, recording.pod_addresses()),))
    warnings = [*warnings, *losses, *_impediment_warnings(desired), *journal.warnings, *lock.warnings]
    return Applied(changed, choice, config, desired, tuple(warnings), tuple(notes), settings, existing.recorded)


def _roll_back(
    error: BaseException, journal: Journal, existing: ExistingState, detected: Detected, desired: Ruleset
) -> None:
    """Keep the earlier record, and explain the error; without earlier rules nothing would name the new routes."""
    try:
        if not detected.live_sets:
            routes.remove(desired)
    except (CaptureError, OSError):
        pass  # the first error is the one to tell
    journal.roll_back(existing.recorded, desired)
    if isinstance(error, CaptureError):
        from capture.backends.missing_modules import with_missing_modules  # where something failed

        raise with_missing_modules(error, desired, detected.choice.variant or "nftables") from error


def _reject_other_family(config: CaptureConfig, detected: Detected) -> bool:
    """Reject the family that is not captured, or stop rejecting it; return whether that changed anything."""
    if not config.rejects_ipv6 and not detected.has_reject_table:
        return False
    from capture.backends.other_family import update_reject_table  # few captures reject anything

    return update_reject_table(is_desired=config.rejects_ipv6)


def _sysctls_to_change(desired: Ruleset) -> tuple[Sysctl, ...]:
    """Return the switches of the kernel that are on, and must be off for a transparent proxy."""
    if not desired.policy_routes:
        return ()
    from capture.state.impediments import sysctls_to_change  # TPROXY only

    return sysctls_to_change()


def _impediment_warnings(desired: Ruleset) -> list[str]:
    """Return warnings about what loses captured packets although the rules are in place."""
    is_without = bool(desired.loopback_addresses) and not routes.takes_ipv6_addresses()
    lost = [routes.NO_IPV6_ON_LO] if is_without else []
    if not desired.policy_routes and routes.is_lo_up():
        return lost
    from capture.state.impediments import impediments  # TPROXY, or something is wrong

    return [*lost, *(f"{impediment.message}. {impediment.remedy}" for impediment in impediments(desired))]


def _read_existing(detected: Detected, desired: Ruleset) -> ExistingState:
    place, has_own_users = detected.choice.place, detected.has_own_users
    driver = load_driver(detected.choice, has_own_users=has_own_users)
    if detected.is_empty:
        current = Ruleset(desired.families, ())
    else:
        current = desired if driver.has_exactly(desired) else driver.read()
    elsewhere = (live_set for live_set in detected.live_sets if live_set.choice.place != place)
    other_sets = _drivers_with_rules(elsewhere, has_own_users=has_own_users)
    recorded = record.read()
    rulesets = (current, *(ruleset for _, ruleset in other_sets))
    return ExistingState(
        driver,
        current,
        other_sets,
        recorded,
        recorded.ruleset if recorded else None,
        routes.stale_parts(desired, rulesets, recorded.routes if recorded else ()),
    )


def _replace_rules(
    choice: BackendChoice, existing: ExistingState, config: CaptureConfig, desired: Ruleset, *, force: bool
) -> tuple[bool, tuple[str, ...]]:
    """Make the live rules the desired ones; return whether anything was written, and warnings."""
    if not force and _is_up_to_date(choice, desired, existing.current):
        return False, ()
    try:
        losses = _write_without_escape(existing, config, desired)
    except BaseException:
        _write_back(existing, desired)
        raise
    ensure_written(existing.driver, desired)
    return True, losses


def _write_without_escape(existing: ExistingState, config: CaptureConfig, desired: Ruleset) -> tuple[str, ...]:
    """Write the desired rules; between two ways of inbound capture, both capture for a moment.

    That is until every packet in flight has met one of them.
    """
    driver, live = existing.driver, existing.current
    if desired.transparent_verdicts and any(map(redirects_inbound, existing.rulesets)):
        from capture.system.barrier import wait_for_packets_in_flight  # not in a new pod

        both = build_transition(config)
        driver.write(both, live, existing.recorded_rules)
        wait_for_packets_in_flight()
        live = driver.read()
        existing = existing.replace(recorded_rules=both)  # which has the rules in shared chains, too
    return _write_rules(existing, config, desired, live)


def _write_back(existing: ExistingState, desired: Ruleset) -> None:
    """Write the earlier rules again where a write that failed has left a family, or a first step, of the new ones."""
    driver, earlier = existing.driver, existing.current
    try:
        live = driver.read()
        if live != earlier and earlier.tables:
            driver.write(earlier, live, desired)
        elif live != earlier:
            driver.clean(live, desired)
    except (CaptureError, OSError):
        pass  # the error of the first write is the one to tell; the next run completes the change


def _is_up_to_date(choice: BackendChoice, desired: Ruleset, live: Ruleset) -> bool:
    """Return whether there is nothing to write; in nftables the policies of our tables are our own, too."""
    if live is desired or not live.tables:
        return live is desired
    from capture.analysis.compare import is_applied  # not in a new namespace, nor where nothing has changed

    return is_applied(desired, live, writes_policies=choice.backend == "nftables")


def _write_rules(existing: ExistingState, config: CaptureConfig, desired: Ruleset, live: Ruleset) -> tuple[str, ...]:
    """Write the desired rules, and keep open connections; return warnings about those that may be cut."""
    driver, recorded = existing.driver, existing.recorded_rules
    tracked = [tracks_connections(existing.rulesets, family) for family in desired.families]
    is_running = has_tcp_sockets() and not all(tracked)
    if is_running:
        from capture.state import connections  # not in a new pod

        connections.track_open_connections(None if any(tracked) else desired)
        if not any(tracked):
            driver.write(build_tracking(config), live, recorded)
            connections.track_open_connections()
            live = driver.read()
    driver.write(desired, live, recorded)
    if all(tracked) or not (is_running or has_tcp_sockets()):
        return ()
    from capture.state import connections

    return connections.track_open_connections()


def _drivers_with_rules(located: Iterable[SetLocation], *, has_own_users: bool) -> tuple[tuple[Driver, Ruleset], ...]:
    """Return our live rules in some places, each with the driver that removes them."""
    drivers = [load_driver(live_set.choice, has_own_users=has_own_users) for live_set in located]
    return tuple((driver, driver.read()) for driver in drivers)


def ensure_written(driver: Driver, desired: Ruleset) -> None:
    """Raise CaptureError unless the rules that were written are there."""
    if driver.has_exactly(desired):
        return
    from capture.analysis.compare import differences  # not where all is well
    from capture.backends.iptables.render import shown_rule
    from capture.model.text import plural

    differing = [difference for difference in differences(desired, driver.read()) if difference.is_own]
    if differing:
        first = differing[0]
        raise CaptureError(
            f"drift right after the rules were written: {plural(len(differing), 'difference')}, the first: "
            f"{first.location} ({first.kind}: {shown_rule(first.rule, first.family)})",
            "Another process changes this namespace at the same time, or the kernel did not store what was written.",
        )


def clean(
    namespace: Namespace = None,
    *,
    allow_host: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
    warn: Callable[[str], None] | None = None,
) -> bool:
    """Remove everything of the capture from the namespace, in every backend and spelling; return whether there was any.

    ``lock_timeout`` is that of ``apply``, in seconds. ``warn`` is called if the lock was not released in time.

    Raises CaptureError and its kinds; then some rules may be left, and the next call removes them.
    """
    require_seconds(lock_timeout, "clean")
    if warn is not None and not callable(warn):
        raise argument_error("clean", "warn", warn, "a function that takes a text")
    with InNamespace(namespace):
        from capture.backends.other_family import update_reject_table

        refuse_node(allowed=allow_host, verb="clean")
        with NamespaceLock(lock_timeout) as lock:
            for warning in lock.warnings:
                if warn is not None:
                    warn(warning)
            recorded = record.read()
            live_sets = _drivers_with_rules(detect.find_live_sets(), has_own_users=is_own_user_namespace())
            # Routes first: if we are killed before the rules are removed, the rules still name them.
            live = [ruleset for _, ruleset in live_sets]
            removed = routes.remove(routes.existing_parts(live, recorded.routes if recorded else ()))
            removed |= update_reject_table(is_desired=False)
            for driver, ruleset in live_sets:
                driver.clean(ruleset, recorded.ruleset if recorded else None)
            restored = record.restore_sysctls(recorded.sysctls) if recorded else False
            record.forget()
            forget_ended_namespaces()
        return removed or restored or bool(live_sets)


def captured_connections(namespace: Namespace = None) -> int:
    """Return how many connections pass the proxy now; ``clean`` cuts them. Raises CaptureError if that is unknown."""
    from capture.state import connections

    with InNamespace(namespace):
        return connections.count_captured([load_driver(live_set.choice).read() for live_set in detect.find_live_sets()])


def cut_by_cleaning(namespace: str | None) -> list[str]:
    """Return in at most one line what removing the rules does to connections."""
    from capture.errors import NamespaceError, PrivilegeError
    from capture.model.text import plural

    try:
        count = captured_connections(namespace)
    except (NamespaceError, PrivilegeError):
        return []  # the removal fails by it, too
    except CaptureError as error:
        return [f"connections that pass the proxy will be cut; their number is unknown: {error.message}"]
    return [f"{plural(count, 'connection')} through the proxy will be cut"] if count else []
