"""The verbs: apply, verify, dump, trace, clean, render. Init container, plugin and command line call these.

Each enters the namespace that it is given, and comes back. Between the settings and the kernel there is
nothing here but the order of steps::

    settings -> configuration -> desired rules (pure)
    live rules read -> equal: done
                    -> different: recorded, written, read again, compared
    sets of ours elsewhere (the other backend) removed, now that the new one captures; then stale routes
"""

from __future__ import annotations

from capture.backends import detect, load, other_family
from capture.errors import CaptureError, ConfigurationError, KernelError, ToolError, UnsupportedError
from capture.model.addresses import IPV6, parse_address
from capture.model.chain_names import is_our_chain
from capture.model.packet import Packet
from capture.model.ruleset import FAMILIES, LoopbackAddress, PolicyRoute, Ruleset
from capture.model.values import Value
from capture.rules import (
    build_handover,
    build_ruleset,
    build_tracking,
    captures_transparently,
    redirects_inbound,
    tracks_connections,
)
from capture.settings.config import CaptureConfig, resolve
from capture.settings.families import global_addresses, judge_families
from capture.settings.host import AnyPod, PodFromInside, PodFromOutside
from capture.settings.options import (
    ALLOW_HOST,
    BACKEND,
    DRIVER,
    FORCE_IPTABLES_BINARY,
    NATIVE_NFTABLES,
    OTHER_FAMILY,
    PROFILE,
)
from capture.settings.settings import Settings
from capture.state import record, routes
from capture.state.impediments import impediments, switches_to_change
from capture.state.lock import PATIENCE as LOCK_TIMEOUT
from capture.state.lock import NamespaceLock
from capture.state.netns import Entered, has_tcp_sockets, refuse_host
from capture.state.node import refuse_node
from capture.state.record import Journal, Record, RecordingHost
from capture.state.sysctls import restore, switch_off

MAX_PORT = 0xFFFF
MAX_ID = 0xFFFF_FFFE
"""Of users and groups; the highest number means "no change" (chown(2))."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from ipaddress import IPv4Address, IPv6Address

    from capture.analysis.compare import Difference
    from capture.analysis.effects import Effect
    from capture.analysis.judgement import Obstacle
    from capture.analysis.stations import PodNetwork, Situation
    from capture.analysis.trace import Trace
    from capture.backends import Driver
    from capture.backends.detect import Decision, Leftover, Request
    from capture.model.addresses import Family, Network
    from capture.model.ruleset import ProtocolName
    from capture.operations.situation import Beside
    from capture.settings.config import Host
    from capture.state.impediments import Impediment
    from capture.state.netns import Path

    IpAddress = IPv4Address | IPv6Address
    Namespace = Path | None
    """The path of a network namespace; None is the one of the calling thread."""


class Applied(Value):
    """What ``apply`` did: whether anything was written, how, what for, and what it wants to say."""

    changed: bool
    decision: Decision
    config: CaptureConfig
    ruleset: Ruleset
    warnings: tuple[str, ...] = ()


class Other(Value):
    """A second set of ours, or of upstream's, and what it does to captured packets, if that is known."""

    not_compared = ("effect",)

    where: Decision
    effect: Effect | None = None


class Verified(Value):
    """How the live rules compare with the desired ones.

    ``differences`` are drift in our own tables, ``obstacles`` foreign rules in others that divert captured traffic.
    ``notes`` and ``harmless`` are foreign rules without effect on it, ``unjudged`` those that may have one, and
    ``doubts`` say in words what else cannot be told.
    """

    decision: Decision
    desired: Ruleset
    live: Ruleset
    differences: tuple[Difference, ...] = ()
    missing: tuple[LoopbackAddress | PolicyRoute, ...] = ()
    notes: tuple[Difference, ...] = ()
    others: tuple[Other, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    harmless: tuple[Obstacle, ...] = ()
    unjudged: tuple[Difference | Obstacle, ...] = ()
    doubts: tuple[str, ...] = ()
    impediments: tuple[Impediment, ...] = ()
    """What loses captured packets although the rules are in place."""
    from_record: bool = False
    """Whether ``desired`` is what we remember to have applied, and not what somebody says now."""
    has_reference: bool = True
    """Whether anything says what our rules should be; else ``desired`` are the live ones."""
    uncaptured: tuple[str, ...] = ()
    """What is wrong with a family as a whole, in words: it has an address and no rules, or is not rejected."""
    remarks: tuple[str, ...] = ()
    """What the settings leave uncaptured on purpose, though the pod has it, in words."""

    @property
    def holds(self) -> bool:
        """Return whether nothing is certain to differ."""
        drift = (self.differences, self.missing, self.others, self.obstacles, self.impediments, self.uncaptured)
        return not any(drift)

    @property
    def is_certain(self) -> bool:
        """Return whether everything could be judged."""
        return self.has_reference and not self.unjudged and not self.doubts

    @property
    def is_nothing_applied(self) -> bool:
        """Return whether the namespace has no rules of ours where they should be, though some are desired."""
        is_missing = any(each.kind == "missing" for each in self.differences) or not self.has_reference
        has_ours = any(is_our_chain(chain.name) for table in self.live.tables for chain in table.chains)
        return is_missing and not has_ours and not self.others


class LiveSet(Value):
    """A set of ours that stands in a namespace: where, and everything read there."""

    backend: str
    driver: str
    variant: str
    live: Ruleset


class Dumped(Value):
    """All that stands in a namespace, and how it compares with what was asked for, if that is recorded."""

    live_sets: tuple[LiveSet, ...]
    verified: Verified | None = None


class Existing(Value):
    """What a namespace has before a change."""

    driver: Driver
    """The one that will write; it knows what it has read."""
    current: Ruleset
    """What is where the rules will go."""
    elsewhere: tuple[tuple[Driver, Ruleset], ...]
    """Sets of ours in other places, each with the driver that removes it."""
    recorded: Record | None
    recorded_rules: Ruleset | None
    stale_routes: Ruleset
    """Routes and addresses of an earlier set that the desired one has no use for."""

    @property
    def rulesets(self) -> tuple[Ruleset, ...]:
        """Return all rule sets of ours."""
        return (self.current, *(ruleset for _, ruleset in self.elsewhere))


def apply(
    settings: Settings,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    force: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
) -> Applied:
    """Make the rules of the namespace those that the settings ask for; equal rules are left as they are.

    ``lock_timeout`` is in seconds: how long to wait for another program of ours that changes the namespace, before
    going on without the lock.

    Raises CaptureError and its kinds; then either the old rules are in place or the new ones.
    """
    with Entered(namespace):
        refuse_node(allowed=settings[ALLOW_HOST])
        return apply_here(settings, host or host_of(namespace), force=force, lock_timeout=lock_timeout)


def apply_here(settings: Settings, host: Host, *, force: bool = False, lock_timeout: float = LOCK_TIMEOUT) -> Applied:
    """Do what ``apply`` does, in the namespace we are in."""
    refuse_host(allowed=settings[ALLOW_HOST])
    facts = RecordingHost(host)
    resolved = resolve(settings, facts)
    try:
        return _apply(settings, facts, resolved, force=force, lock_timeout=lock_timeout)
    except (UnsupportedError, KernelError, ToolError):
        # A kernel without NAT for IPv6 must not keep a pod from starting that nobody reaches by IPv6.
        if IPV6 not in resolved[0].families or resolved[0].is_reached_by_ipv6:
            raise
    facts.forget_ipv6()
    return _apply(settings, facts, resolve(settings, facts), force=force, lock_timeout=lock_timeout)


def _apply(
    settings: Settings,
    facts: RecordingHost,
    resolved: tuple[CaptureConfig, list[str]],
    *,
    force: bool,
    lock_timeout: float,
) -> Applied:
    config, warnings = resolved
    desired = build_ruleset(config)
    with NamespaceLock(lock_timeout) as lock:
        target, standing = detect.look(request_of(settings), desired)
        if not target.own_users:
            from capture.state.known_ids import require_known_ids  # most pods share the node's users

            require_known_ids(settings, config)
        existing = _read_existing(target, standing, desired)
        kept = settings.with_option(PROFILE, config.profile, settings.origin(PROFILE))
        switches = switches_to_change(desired)
        journal = Journal(Record(kept, facts.facts(), target.backend, target.driver, target.variant, sysctls=switches))
        journal.begin(existing.stale_routes, existing.recorded)
        try:
            changed = routes.ensure(desired) | switch_off(switches)
            replaced, losses = _replace_rules(target, existing, config, desired, force=force)
            changed |= replaced
            changed |= _remove_elsewhere(existing)
            changed |= other_family.ensure(wanted=config.rejects_ipv6)  # last: what it rejected may be captured now
        except CaptureError as error:
            restore(switches)
            journal.roll_back(existing.recorded, desired)
            from capture.backends.kernel_modules import explained  # where something failed

            raise explained(error, desired, target.variant or "nftables") from error
        restored = not desired.policy_routes and journal.restore_sysctls()
        if routes.remove(existing.stale_routes, desired) or restored:
            changed = True
            journal.commit()
    if desired.loopback_addresses and not routes.takes_ipv6_addresses():
        warnings.append(routes.NO_IPV6_ON_LO)
    lost = [f"{found.says}. {found.remedy}" for found in impediments(desired)]
    return Applied(changed, target, config, desired, (*warnings, *losses, *lost, *lock.warnings))


def _read_existing(target: Decision, standing: Iterable[Leftover], desired: Ruleset) -> Existing:
    """Return what is in the namespace we are in."""
    driver = load(target)
    current = _read_current(target, driver, desired)
    elsewhere = tuple(_read(load(found)) for found in standing if _place(found) != _place(target))
    recorded = record.read()
    rulesets = (current, *(ruleset for _, ruleset in elsewhere))
    return Existing(
        driver,
        current,
        elsewhere,
        recorded,
        recorded.ruleset() if recorded else None,
        routes.stale(desired, rulesets, recorded.routes() if recorded else ()),
    )


def _read_current(target: Decision, driver: Driver, desired: Ruleset) -> Ruleset:
    """Return what is where the rules go: read only if it is neither nothing nor exactly what is desired."""
    if target.is_empty:
        return Ruleset(desired.families, ())
    return desired if driver.holds(desired) else driver.read()


def _replace_rules(
    target: Decision, existing: Existing, config: CaptureConfig, desired: Ruleset, *, force: bool
) -> tuple[bool, tuple[str, ...]]:
    """Make the live rules the desired ones; return whether anything was written, and warnings."""
    if not force and _can_stay(target, desired, existing.current):
        return False, ()
    driver, live = existing.driver, existing.current
    if captures_transparently(desired) and any(map(redirects_inbound, existing.rulesets)):
        live = _hand_over(driver, build_handover(config), live, existing.recorded_rules)
    losses = _write(existing, config, desired, live)
    _ensure_written(driver, desired)
    return True, losses


def _write(existing: Existing, config: CaptureConfig, desired: Ruleset, live: Ruleset) -> tuple[str, ...]:
    """Write the desired rules, and keep standing connections; return warnings about those that may be cut."""
    driver, recorded = existing.driver, existing.recorded_rules
    tracked = [tracks_connections(existing.rulesets, family) for family in desired.families]
    is_running = has_tcp_sockets() and not all(tracked)
    if is_running:
        from capture.state import connections  # not in a new pod

        connections.track(None if any(tracked) else desired)
        if not any(tracked):
            driver.write(build_tracking(config), live, recorded)
            connections.track()
            live = driver.read()
    driver.write(desired, live, recorded)
    if all(tracked) or not (is_running or has_tcp_sockets()):
        return ()
    from capture.state import connections

    return connections.track()


def _remove_elsewhere(existing: Existing) -> bool:
    """Remove the sets of ours in other places, now that the new one captures; return whether there were any."""
    for driver, ruleset in existing.elsewhere:
        driver.clean(ruleset, existing.recorded_rules)
    return bool(existing.elsewhere)


def _read(driver: Driver) -> tuple[Driver, Ruleset]:
    return driver, driver.read()


def _hand_over(driver: Driver, both: Ruleset, live: Ruleset, recorded: Ruleset | None) -> Ruleset:
    """Capture in the old way and in the new one until every packet that is under way has met either; return it read."""
    from capture.state.barrier import wait_for_packets_in_flight  # not in a new pod

    driver.write(both, live, recorded)
    wait_for_packets_in_flight()
    return driver.read()


def _ensure_written(driver: Driver, desired: Ruleset) -> None:
    """Raise CaptureError unless the rules that were written are there."""
    if driver.holds(desired):
        return
    wrong = [difference for difference in _differences(desired, driver.read()) if difference.is_ours]
    if wrong:
        raise CaptureError(
            f"the rules were written, but {len(wrong)} of what was read back differ: {wrong[0]!r}",
            "Someone else changes this namespace at the same time, or the kernel does not keep what it is given.",
        )


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
    request = detect.Request(recorded.backend, recorded.driver, recorded.variant)
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

    decision, standing = detect.look(detect.Request())
    if not standing:
        empty = Ruleset(FAMILIES, ())
        return Verified(decision, empty, empty, has_reference=False)
    from capture.operations.situation import read_beside

    live = load(standing[0]).read()
    own = ours_only(live)
    beside = read_beside(_place(standing[0]))
    return _judged(own, live, (), beside, standing[0], standing).replace(has_reference=False)


def verify_here(desired: Ruleset, request: Request) -> Verified:
    """Compare the namespace we are in with a rule set: there where ours stand, unless the request says where."""
    decision, standing = detect.look(request)
    if request == detect.Request() and standing and _place(decision) not in map(_place, standing):
        decision = standing[0]
    driver = load(decision)
    live = desired if driver.holds(desired) else driver.read()
    from capture.operations.situation import read_beside  # not when pods are made

    beside = read_beside(_place(decision))
    if live is desired and not beside.chains:
        missing = tuple(routes.missing(desired))
        return Verified(
            decision, desired, live, missing=missing, doubts=beside.doubts, impediments=impediments(desired)
        )
    found = _differences(desired, live) if live is not desired else ()
    return _judged(desired, live, found, beside, decision, standing)


def _judged(
    desired: Ruleset,
    live: Ruleset,
    found: tuple[Difference, ...],
    beside: Beside,
    decision: Decision,
    standing: Iterable[Leftover],
) -> Verified:
    """Return what differs, judged by what it does to packets."""
    from capture.analysis.judgement import judge
    from capture.analysis.pod_network import read_pod_network

    network = read_pod_network()
    judged = judge(desired, live, found, beside.foreign, network, is_native=decision.backend == "nftables")
    return Verified(
        decision,
        desired,
        live,
        judged.differences,
        tuple(routes.missing(desired)),
        judged.notes,
        tuple(_others(decision, standing, desired, beside, network)),
        judged.obstacles,
        judged.harmless,
        judged.unjudged,
        (*beside.doubts, *judged.doubts),
        impediments(desired),
    )


def _others(
    decision: Decision, standing: Iterable[Leftover], desired: Ruleset, beside: Beside, network: PodNetwork
) -> Iterator[Other]:
    """Yield the sets that stand elsewhere than the decision's, each with a packet that it sends elsewhere."""
    from capture.analysis.judgement import second_set_effect

    for found in standing:
        if _place(found) != _place(decision):
            yield Other(found, second_set_effect(desired, beside.of(_place(found)), network))


def _place(decision: Decision) -> tuple[str, str]:
    """Return where in the kernel the rules of a decision live, whoever writes them."""
    return decision.backend, decision.variant


def _can_stay(decision: Decision, desired: Ruleset, live: Ruleset) -> bool:
    """Return whether there is nothing to write; the tables of nftables are ours with their policies."""
    if live is desired or not live.tables:
        return live is desired
    from capture.analysis.compare import (
        can_stay,  # not needed in a namespace that is new, nor where nothing has changed
    )

    return can_stay(desired, live, writes_policies=decision.backend == "nftables")


def _differences(desired: Ruleset, live: Ruleset) -> tuple[Difference, ...]:
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


def trace(
    packet: Packet, settings: Settings | None = None, namespace: Namespace = None, host: Host | None = None
) -> Trace:
    """Return what happens to a packet: by the live rules, or by those that the settings would give.

    A packet that the pod sends leaves by the interface, and from the address, that the namespace's routes say,
    unless it names them. Two sets at once are asked one after the other, as a kernel would.
    """
    from capture.analysis.pod_network import routed
    from capture.analysis.trace import trace as walk
    from capture.analysis.trace import whole_way

    with Entered(namespace):
        sent = routed(packet)
        if settings is not None:
            (desired,) = _rulesets(settings, host or host_of(namespace))
            return walk(desired, sent)
        return whole_way(sent, live_situation())


def live_situation() -> Situation:
    """Return all that decides on packets in the namespace we are in: every set of ours, and every foreign chain."""
    from capture.analysis.reasons import with_reasons
    from capture.operations.situation import read_situation

    recorded = record.read()
    known = recorded.ruleset() if recorded else build_ruleset(CaptureConfig())
    found = detect.leftovers()
    decision = found[0] if found else detect.look(detect.Request())[0]
    live = with_reasons(load(decision).read(), known) if found or not decision.is_empty else Ruleset(FAMILIES, ())
    return read_situation(live, _place(decision), recorded.ruleset() if recorded else live)


def trace_packet(  # noqa: PLR0913  # a packet has this many sides; all but the first two are named
    destination: str | IpAddress,
    port: int,
    settings: Settings | None = None,
    namespace: Namespace = None,
    host: Host | None = None,
    *,
    protocol: ProtocolName = "tcp",
    uid: int = 1000,
    gid: int | None = None,
    source: str | IpAddress | None = None,
    in_interface: str | None = None,
) -> Trace:
    """Return what happens to the first packet of a connection: the outcome, the port, and the rule that decides.

    By the live rules of the namespace, or by those that the settings would give. With ``in_interface`` the packet
    comes in, else a process with ``uid`` and ``gid`` (default: the same number) sends it. An address is a text or an
    object of ``ipaddress``. Raises ConfigurationError for one that is none, and for a number out of range.
    """
    is_outbound = in_interface is None
    packet = Packet(
        protocol,
        _address("destination", destination),
        _number("port", port, MAX_PORT),
        source=None if source is None else _address("source", source),
        uid=_number("uid", uid, MAX_ID) if is_outbound else None,
        gid=_number("gid", uid if gid is None else gid, MAX_ID) if is_outbound else None,
        in_interface=in_interface,
    )
    return trace(packet, settings, namespace, host)


def _address(name: str, value: object) -> Network:
    try:
        return parse_address(str(value))
    except ValueError:
        raise ConfigurationError("trace_packet()", str(value), f"the argument {name}", "an IP address") from None


def _number(name: str, value: object, highest: int) -> int:
    if isinstance(value, int) and 0 <= value <= highest:
        return value
    expected = f"a number from 0 to {highest}"
    raise ConfigurationError("trace_packet()", repr(value), f"the argument {name}", expected)


def policy(settings: Settings | None = None, namespace: Namespace = None, host: Host | None = None) -> Ruleset:
    """Return the rules of which ``capture explain`` speaks: the live ones, or those that the settings would give."""
    with Entered(namespace):
        return _rulesets(settings, host or host_of(namespace))[0]


def _rulesets(settings: Settings | None, host: Host) -> list[Ruleset]:
    """Return the rule set that the settings give; without settings, every set of ours that stands, with reasons."""
    if settings is not None:
        config, _ = resolve(settings, host)
        return [build_ruleset(config)]
    from capture.analysis.reasons import with_reasons

    recorded = record.read()
    known = recorded.ruleset() if recorded else build_ruleset(CaptureConfig())
    live = [load(found).read() for found in detect.leftovers()]
    return [with_reasons(ruleset, known) for ruleset in live] or [Ruleset(FAMILIES, ())]


def clean(
    namespace: Namespace = None,
    *,
    allow_host: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
    warn: Callable[[str], None] | None = None,
) -> bool:
    """Remove all that is ours from the namespace, in every backend and spelling; return whether there was any.

    ``lock_timeout`` is that of ``apply``, in seconds. ``warn`` is told if the lock was not to be had.
    """
    with Entered(namespace):
        refuse_node(allowed=allow_host)
        with NamespaceLock(lock_timeout) as lock:
            for warning in lock.warnings:
                if warn is not None:
                    warn(warning)
            recorded = record.read()
            standing = [_read(load(found)) for found in detect.leftovers()]
            # Routes go first: what they are of, the rules tell, should we not come to the rules.
            live = [ruleset for _, ruleset in standing]
            removed = routes.remove(routes.present(live, recorded.routes() if recorded else ()))
            removed |= other_family.ensure(wanted=False)
            for driver, ruleset in standing:
                driver.clean(ruleset, recorded.ruleset() if recorded else None)
            restored = restore(recorded.sysctls) if recorded else False
            record.forget()
            record.forget_ended()
        return removed or restored or bool(standing)


def captured_connections(namespace: Namespace = None) -> int:
    """Return how many connections pass the proxy now; ``clean`` cuts them. Raises CaptureError if it cannot be told."""
    from capture.state import connections

    with Entered(namespace):
        return connections.captured([load(found).read() for found in detect.leftovers()])


def render(
    settings: Settings,
    host: Host | None = None,
    families: tuple[Family, ...] = FAMILIES,
    decision: Decision | None = None,
) -> list[tuple[str, str]]:
    """Return what would be sent into an empty namespace, as titled texts; touches no kernel.

    Without a decision, the backend and driver are those that most hosts take.
    """
    config, _ = resolve(settings, host or AnyPod())
    config = config.replace(families=tuple(family for family in config.families if family in families))
    return load(decision or detect.without_kernel(request_of(settings))).render(build_ruleset(config))


def host_of(namespace: Namespace, servers: tuple[Network, ...] = ()) -> Host:
    """Return what knows about users and name servers: in a pod its own files, elsewhere nothing but ``servers``."""
    return PodFromInside(servers=servers) if namespace is None else PodFromOutside(servers=servers)


def request_of(settings: Settings) -> Request:
    """Return what the settings ask of the choice of backend and driver; ConfigurationError if they contradict."""
    backend = settings[BACKEND]
    if settings[NATIVE_NFTABLES]:
        if backend == "iptables":
            expected = f"nftables, because {NATIVE_NFTABLES.name} says so ({settings.origin(NATIVE_NFTABLES)})"
            raise ConfigurationError(BACKEND.name, backend, settings.origin(BACKEND), expected)
        backend = "nftables"
    variant = settings[FORCE_IPTABLES_BINARY].removeprefix("iptables-")
    return detect.Request(backend, settings[DRIVER], variant)
