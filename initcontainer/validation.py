"""Whether capture works, by its effect: connections of our own, and where none can be made, the live rules.

::

    outbound   a process that is not the proxy dials an address outside    -> must arrive on 15001
    inbound    a process with the proxy's user dials the pod's own address -> must arrive on 15006
    inbound    from outside: by a veth pair of our own, on request         -> must arrive on 15006
               else a packet is traced through the live rules, if we may read them

The rules of the settings choose what is dialled (``capture.analysis.trace``): never a port or network that they
exclude. How the live rules are written does not matter, only where traffic goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from capture import operations
from capture.errors import CaptureError, ValidationError
from capture.model.addresses import FAMILY_NAMES, FAMILY_NUMBERS, Family, address_text
from capture.model.ruleset import Ruleset
from capture.netlink.interfaces import read_addresses, read_links
from capture.netlink.rtnetlink import open_rtnetlink
from capture.report.packet_text import endpoint_text
from capture.report.verified_text import difference_lines
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig, Host, resolve
from capture.settings.options import PROBE_FROM_OUTSIDE, PROBE_PORT, PROBE_TIMEOUT, SKIP_RULE_APPLY
from capture.settings.settings import Settings
from capture.state.impediments import impediments
from capture.state.routes import missing_routes
from capture.system.netns import InNamespace
from initcontainer.outside import outside_namespace
from initcontainer.probes import DOCUMENTATION_ADDRESSES, Probe, ProbeChooser, Proof, captured_sides
from initcontainer.prover import Prover

FROM_OUTSIDE = "connections from outside the pod"


def validate(settings: Settings, namespace: str | None, host: Host) -> list[Proof]:
    """Prove that capture works in a namespace; return what holds, then what could not be proven.

    Raises ValidationError if traffic goes wrong.

    What cannot be proven is no error: a capability may be missing, or nothing is captured.
    """
    with InNamespace(namespace):
        config, _ = resolve(settings, host)
        desired = build_ruleset(config)
        _require_delivery(desired, settings)
        chooser = ProbeChooser(config, desired, host.pod_addresses(), settings[PROBE_PORT])
        with ExitStack() as namespaces:
            proofs = _connection_proofs(settings, host, config, chooser, namespaces)
        if config.inbound_ports and not settings[PROBE_FROM_OUTSIDE]:
            proofs += _rule_proofs(settings, chooser)
        return sorted(proofs, key=lambda proof: not proof.holds)


def _require_delivery(desired: Ruleset, settings: Settings) -> None:
    """Raise ValidationError for what loses packets that the rules send to the proxy; to read it takes no privilege."""
    for impediment in impediments(desired):
        raise ValidationError(f"validation failed: {impediment.message}", impediment.remedy)
    for route in missing_routes(desired):
        raise ValidationError(f"validation failed: {route.message}", _rules_author(settings))


def _connection_proofs(
    settings: Settings, host: Host, config: CaptureConfig, chooser: ProbeChooser, namespaces: ExitStack
) -> list[Proof]:
    sides = [*captured_sides(config)]
    chosen = [chooser.choose(side, family) for family in chooser.families() for side in sides]
    if not sides:
        chosen.append(Proof("the settings capture nothing", holds=False))
    if settings[PROBE_FROM_OUTSIDE] and config.inbound_ports:
        chosen += _outside_probes(chooser, namespaces)

    def error_for(probe: Probe, answer: str) -> ValidationError:
        return _failure(probe, answer, settings, host)

    prover = Prover(time.monotonic() + settings[PROBE_TIMEOUT], transparent=config.is_transparent, error_for=error_for)
    proofs = prover.prove([probe for probe in chosen if isinstance(probe, Probe)])
    return [*(each for each in chosen if isinstance(each, Proof)), *proofs]


def _outside_probes(chooser: ProbeChooser, namespaces: ExitStack) -> list[Probe | Proof]:
    families = tuple(family for family in chooser.families() if any(chooser.own(family)))
    try:
        outside = namespaces.enter_context(outside_namespace(families))
    except CaptureError as error:
        return [Proof(f"{FROM_OUTSIDE}: {error.message}", holds=False)]
    return [chooser.choose_from_outside(outside, family) for family in families]


def _rule_proofs(settings: Settings, chooser: ProbeChooser) -> Iterator[Proof]:
    """Yield what the live rules do with packets that come in. Raises ValidationError if one would miss the proxy."""
    for family in chooser.families():
        name = f"{FAMILY_NAMES[family]} inbound from outside"
        captured = chooser.inbound_packet(_incoming_interface(family), DOCUMENTATION_ADDRESSES[family][0])
        if captured is None:
            yield Proof(f"{name}: nothing that comes in is captured", holds=False)
            continue
        packet, port = captured
        dialled = endpoint_text(address_text(family, packet.destination.first), packet.port)
        try:
            traced = operations.trace(packet)
        except CaptureError as error:
            yield Proof(f"{FROM_OUTSIDE}: the rules cannot be read here: {error.message}", holds=False)
            return
        if (traced.outcome, traced.port) != ("proxy-inbound", port):
            raise ValidationError(
                f"validation failed: {name}: what is sent to {dialled} does not reach port {port}:"
                f" by the live rules it is {traced.outcome}",
                f"`capture trace tcp {dialled} --in {packet.in_interface}` shows why. {_rules_author(settings)}",
            )
        yield Proof(f"{name}: by the live rules, {dialled} is sent to port {port}", holds=True)


def _incoming_interface(family: Family) -> str:
    """Return the interface by which connections come in: the first that has an address of the family."""
    with open_rtnetlink() as rtnetlink:
        names = {link.index: link.name for link in read_links(rtnetlink) if not link.is_loopback}
        addresses = read_addresses(rtnetlink, FAMILY_NUMBERS[family])
        addressed = [names[each.interface] for each in addresses if each.interface in names]
    return next(iter(addressed), next(iter(names.values()), "eth0"))


def _failure(probe: Probe, answer: str, settings: Settings, host: Host) -> ValidationError:
    """Return the error for a connection that did not arrive, with the first rule that is missing."""
    message = (
        f"validation failed: {probe}: user {probe.uid} dialled {endpoint_text(*probe.endpoint)}, and within"
        f" {settings[PROBE_TIMEOUT]:g} s nothing arrived on port {probe.arrives_on} ({answer})"
    )
    try:
        verified = operations.verify(settings, None, host)
        first = next(difference_lines(verified), None)
    except CaptureError as error:
        return ValidationError(message, f"The rules cannot be read here: {error.message}. {_rules_author(settings)}")
    if first is None:
        return ValidationError(
            message,
            "All rules are in place, so something else is in the way: a CNI plugin that works on sockets, another"
            " program on that port, or too short a --probe-timeout.",
        )
    if verified.is_nothing_applied:
        return ValidationError(message, f"The namespace has no rules of the capture. {_rules_author(settings)}")
    is_foreign = not (verified.differences or verified.missing or verified.impediments or verified.second_sets)
    if is_foreign and verified.obstacles:
        remedy = "Remove that rule, or change the program that writes it: `capture why` has the command."
        return ValidationError(message, f"All rules are in place, but: {first}. {remedy}")
    return ValidationError(message, f"The first difference: {first}. {_rules_author(settings)}")


def _rules_author(settings: Settings) -> str:
    """Return who should have written the rules, and where to look."""
    if settings[SKIP_RULE_APPLY]:
        return (
            "The CNI plugin capture-cni should have written the rules when this pod was created: look at its log on the"
            " node, and at `capture dump` there."
        )
    return "istio-init should have written the rules: look at what it printed, or run it again."
