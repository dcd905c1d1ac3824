"""The verbs: apply, verify, dump, trace, clean, render. Everybody calls these: init container, plugin, command line.

Each enters the namespace it is told, and comes back. Between the settings and the kernel there is
nothing here but the order of steps::

    settings -> configuration -> rules (pure)
    live rules read -> equal? done
                    -> different: recorded, written, read again, compared
    sets of ours elsewhere (the other backend) removed, now that the new one stands; then routes of no more use
"""

from __future__ import annotations

from capture import plumbing, record
from capture.backends import detect, load
from capture.config import CaptureConfig, resolve
from capture.errors import CaptureError, ConfigurationError
from capture.host import AnyPod, PodFromInside, PodFromOutside
from capture.model import FAMILIES, LoopbackAddress, PolicyRoute, Ruleset
from capture.netns import Entered, refuse_host
from capture.record import Record, Witness
from capture.rules import (
    build_handover,
    build_ruleset,
    build_tracking,
    captures_transparently,
    redirects_inbound,
    tracks_connections,
)
from capture.settings import ALLOW_HOST, BACKEND, DRIVER, FORCE_IPTABLES_BINARY, NATIVE_NFTABLES, Settings
from capture.state import connections
from capture.turns import Turn
from capture.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.addresses import Family
    from capture.backends import Driver
    from capture.backends.detect import Decision, Leftover, Request
    from capture.bystanders import Bystander
    from capture.compare import Difference
    from capture.config import Host
    from capture.examples import Example
    from capture.findings import Obstacle
    from capture.trace import Packet, Trace


class Applied(Value):
    """What ``apply`` did: whether anything was written, how, what for, and what it wants to say."""

    changed: bool
    decision: Decision
    config: CaptureConfig
    ruleset: Ruleset
    warnings: tuple[str, ...] = ()


class Other(Value):
    """A second set of ours, or of upstream's, beside the one that was asked for, and a packet that it diverts."""

    where: Decision
    example: Example | None = None


class Verified(Value):
    """How the live rules compare: differences of rules, and what is missing besides rules.

    ``notes`` are foreign rules before ours that change no packet's way, and ``harmless`` those in tables of their
    own; they are no drift. ``obstacles`` are those in tables of their own that may take packets from ours.
    """

    decision: Decision
    asked: Ruleset
    live: Ruleset
    differences: tuple[Difference, ...] = ()
    missing: tuple[LoopbackAddress | PolicyRoute, ...] = ()
    notes: tuple[Difference, ...] = ()
    others: tuple[Other, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    harmless: tuple[Obstacle, ...] = ()
    from_record: bool = False
    """Whether ``asked`` is what we remember to have applied, and not what somebody says now."""

    @property
    def holds(self) -> bool:
        """Return whether the namespace is as it was asked for."""
        return not self.differences and not self.missing and not self.others and not self.obstacles


class Standing(Value):
    """A set of ours that stands in a namespace: where, and everything read there."""

    backend: str
    driver: str
    variant: str
    live: Ruleset


class Dumped(Value):
    """All that stands in a namespace, and how it compares with what was asked for, if that is recorded."""

    standing: tuple[Standing, ...]
    verified: Verified | None = None


def apply(
    settings: Settings, namespace: str | None = None, host: Host | None = None, *, force: bool = False
) -> Applied:
    """Make the rules of the namespace those that the settings ask for; equal rules are left as they are.

    Raises CaptureError and its kinds; then either the old rules stand or the new ones.
    """
    with Entered(namespace):
        return apply_here(settings, host or host_of(namespace), force=force)


def apply_here(settings: Settings, host: Host, *, force: bool = False) -> Applied:
    """Do what ``apply`` does, in the namespace we are in."""
    refuse_host(allowed=settings[ALLOW_HOST])
    witness = Witness(host)
    config, warnings = resolve(settings, witness)
    with Turn():
        decision, changed, losses = _make_it_so(settings, config, witness, force=force)
    return Applied(changed, decision, config, build_ruleset(config), (*warnings, *losses))


def _make_it_so(
    settings: Settings, config: CaptureConfig, witness: Witness, *, force: bool
) -> tuple[Decision, bool, tuple[str, ...]]:
    """Do what must be done; return the way that was taken, whether anything was written, and warnings."""
    losses: tuple[str, ...] = ()
    desired = build_ruleset(config)
    decision, standing = detect.look(request_of(settings), desired)
    driver = load(decision)
    recorded = record.read()
    remembered = recorded.ruleset() if recorded else None
    live = _standing_rules(decision, driver, desired)
    others = [_read(load(other)) for other in standing if _place(other) != _place(decision)]
    before = (live, *(ruleset for _, ruleset in others))
    stale = plumbing.stale(desired, before, recorded.routes() if recorded else ())
    kept = Record(settings, witness.facts(), decision.backend, decision.driver, decision.variant)
    record.write(kept.replace(stale_routes=stale.policy_routes))
    try:
        changed = plumbing.ensure(desired)
        if force or not _can_stay(decision, desired, live):
            changed = True
            if captures_transparently(desired) and any(map(redirects_inbound, before)):
                live = _hand_over(driver, build_handover(config), live, remembered)
            losses = _write(driver, config, live, before, remembered)
            _demand(driver, desired)
        for other, ruleset in others:
            changed = True
            other.clean(ruleset, remembered)
    except CaptureError as error:
        record.put_back(recorded, desired.policy_routes)
        from capture.backends.modules import explained  # where something failed

        raise explained(error, desired, decision.variant or "nftables") from error
    if plumbing.remove(stale, desired):
        changed = True
        record.write(kept)
    return decision, changed, losses


def _write(
    driver: Driver,
    config: CaptureConfig,
    live: Ruleset,
    before: Iterable[Ruleset],
    remembered: Ruleset | None,
) -> tuple[str, ...]:
    """Put the rules in the place of the live ones; return warnings about standing connections that may be cut."""
    desired = build_ruleset(config)
    is_tracked = all(tracks_connections(before, family) for family in desired.families)
    if is_tracked or not connections.has_sockets():
        driver.write(desired, live, remembered)
        return () if is_tracked or not connections.has_sockets() else connections.track()
    connections.track()
    if not any(tracks_connections(before, family) for family in desired.families):
        driver.write(build_tracking(config), live, remembered)
        connections.track()
        live = driver.read()
    driver.write(desired, live, remembered)
    return connections.track()


def _standing_rules(decision: Decision, driver: Driver, desired: Ruleset) -> Ruleset:
    """Return what stands where the rules go: read only if it is neither nothing nor exactly what is desired."""
    if decision.is_empty:
        return Ruleset(desired.families, ())
    return desired if driver.holds(desired) else driver.read()


def _read(driver: Driver) -> tuple[Driver, Ruleset]:
    return driver, driver.read()


def _hand_over(driver: Driver, both: Ruleset, live: Ruleset, remembered: Ruleset | None) -> Ruleset:
    """Capture in the old way and in the new one until every packet that is under way has met either; return it read."""
    from capture.under_way import let_all_pass  # not in a new pod

    driver.write(both, live, remembered)
    let_all_pass()
    return driver.read()


def _demand(driver: Driver, desired: Ruleset) -> None:
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
    namespace: str | None = None,
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
        said = settings or Settings({})
        config, _ = resolve(said, host or host_of(namespace))
        return verify_here(build_ruleset(config), request_of(said))


def _verify_recorded(recorded: Record) -> Verified:
    request = detect.Request(recorded.backend, recorded.driver, recorded.variant)
    return verify_here(recorded.ruleset(), request).replace(from_record=True)


def verify_here(desired: Ruleset, request: Request) -> Verified:
    """Compare the namespace we are in with a rule set: there where ours stand, unless the request says where."""
    decision, standing = detect.look(request)
    if request == detect.Request() and standing and _place(decision) not in map(_place, standing):
        decision = standing[0]
    driver = load(decision)
    live = desired if driver.holds(desired) else driver.read()
    found = _differences(desired, live) if live is not desired else ()
    drift, notes = _judged(desired, live, found) if found else ((), ())
    obstacles, harmless = _beside(desired, live, decision, standing)
    return Verified(
        decision,
        desired,
        live,
        drift,
        tuple(plumbing.missing(desired)),
        notes,
        tuple(_others(decision, standing, desired)),
        obstacles,
        harmless,
    )


def _others(decision: Decision, standing: Iterable[Leftover], desired: Ruleset) -> Iterator[Other]:
    """Yield the sets that stand elsewhere than the decision's, each with a packet that it sends elsewhere."""
    for found in standing:
        if _place(found) != _place(decision):
            # Needed only where something is wrong, which is not when milliseconds count.
            from capture.examples import diverted
            from capture.surroundings import read_surroundings

            yield Other(found, diverted(desired, load(found).read(), read_surroundings()))


def _beside(
    desired: Ruleset, live: Ruleset, decision: Decision, standing: Iterable[Leftover]
) -> tuple[tuple[Obstacle, ...], tuple[Obstacle, ...]]:
    """Return what chains of others in other tables do to what we capture: what takes it away, and what does not."""
    bystanders = _bystanders([_place(decision), *map(_place, standing)])
    if decision.backend == "iptables" and live is not desired:
        from capture.findings import in_tables_without_ours  # what holds to the byte has no rules of others

        bystanders += tuple(in_tables_without_ours(live, desired))
    if not bystanders:
        return (), ()
    from capture.findings import obstacles
    from capture.surroundings import read_surroundings

    return obstacles(desired, bystanders, read_surroundings())


def _bystanders(ours: Iterable[tuple[str, str]]) -> tuple[Bystander, ...]:
    """Return the chains of others that stand elsewhere in nf_tables than where sets of ours do."""
    from capture.backends.nftables.foreign import read_bystanders  # not when milliseconds count

    return read_bystanders(tuple(ours))


def _place(decision: Decision) -> tuple[str, str]:
    """Return where in the kernel the rules of a decision live, whoever writes them."""
    return decision.backend, decision.variant


def _can_stay(decision: Decision, desired: Ruleset, live: Ruleset) -> bool:
    """Return whether there is nothing to write; the tables of nftables are ours with their policies."""
    if live is desired or not live.tables:
        return live is desired
    from capture.compare import can_stay  # not needed in a namespace that is new, nor where nothing has changed

    return can_stay(desired, live, writes_policies=decision.backend == "nftables")


def _differences(desired: Ruleset, live: Ruleset) -> tuple[Difference, ...]:
    from capture.compare import differences

    return tuple(differences(desired, live))


def _judged(
    desired: Ruleset, live: Ruleset, found: tuple[Difference, ...]
) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """Return which differences are drift, with examples, and which are notes."""
    # Needed only where something is wrong, which is not when milliseconds count.
    from capture.findings import judged
    from capture.surroundings import read_surroundings

    return judged(desired, live, found, read_surroundings())


def dump(namespace: str | None = None) -> Dumped:
    """Return all sets of ours that stand in the namespace, with counters."""
    with Entered(namespace):
        standing = tuple(
            Standing(found.backend, found.driver, found.variant, load(found).read()) for found in detect.leftovers()
        )
        recorded = record.read()
        return Dumped(standing, _verify_recorded(recorded) if recorded else None)


def trace(
    packet: Packet, settings: Settings | None = None, namespace: str | None = None, host: Host | None = None
) -> Trace:
    """Return what happens to a packet: by the live rules, or by those that the settings would give.

    A packet that the pod sends leaves by the interface, and from the address, that the namespace's routes say,
    unless it names them. Two sets at once are asked one after the other, as a kernel would.
    """
    from capture.surroundings import routed
    from capture.trace import trace as walk

    with Entered(namespace):
        sent = routed(packet)
        beside = _bystanders(map(_place, detect.leftovers())) if settings is None else ()
        traces = [walk(ruleset, sent, beside) for ruleset in _rulesets(settings, host or host_of(namespace))]
        return next((traced for traced in traces if traced.outcome != "direct"), traces[0])


def policy(settings: Settings | None = None, namespace: str | None = None, host: Host | None = None) -> Ruleset:
    """Return the rules of which ``capture explain`` speaks: the live ones, or those that the settings would give."""
    with Entered(namespace):
        return _rulesets(settings, host or host_of(namespace))[0]


def _rulesets(settings: Settings | None, host: Host) -> list[Ruleset]:
    """Return the rule set that the settings give; without settings, every set of ours that stands, with reasons."""
    if settings is not None:
        config, _ = resolve(settings, host)
        return [build_ruleset(config)]
    from capture.reasons import with_reasons

    recorded = record.read()
    known = recorded.ruleset() if recorded else build_ruleset(CaptureConfig())
    live = [load(found).read() for found in detect.leftovers()]
    return [with_reasons(ruleset, known) for ruleset in live] or [Ruleset(FAMILIES, ())]


def clean(namespace: str | None = None, *, allow_host: bool = False) -> bool:
    """Remove all that is ours from the namespace, in every backend and spelling; return whether there was any."""
    with Entered(namespace):
        refuse_host(allowed=allow_host)
        with Turn():
            recorded = record.read()
            standing = [_read(load(found)) for found in detect.leftovers()]
            # Routes go first: what they are of, the rules tell, should we not come to the rules.
            live = [ruleset for _, ruleset in standing]
            removed = plumbing.remove(plumbing.present(live, recorded.routes() if recorded else ()))
            for driver, ruleset in standing:
                driver.clean(ruleset, recorded.ruleset() if recorded else None)
            record.forget()
            record.forget_ended()
        return removed or bool(standing)


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


def host_of(namespace: str | None) -> Host:
    """Return who knows about users and name servers: in a pod its own files, for another namespace nobody."""
    return PodFromInside() if namespace is None else PodFromOutside()


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
