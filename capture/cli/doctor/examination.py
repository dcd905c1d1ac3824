"""What ``capture doctor`` looks at and what it makes of it. Looking changes nothing; judging is pure.

One look may make the kernel load a module: only trying shows whether it takes the owner match of iptables.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from typing import Literal, TypeVar

from capture.analysis.cause_text import APPLY_SAME
from capture.backends import detect
from capture.backends.detect import BackendChoice, SetLocation
from capture.backends.host_facts import PURPOSES, HostFacts, gather
from capture.backends.iptables.programs import PROGRAM_NAMES, find_program, run
from capture.backends.iptables.tables import VARIANTS
from capture.backends.missing_modules import remedy_for, remedy_for_closed
from capture.backends.needed_modules import FLAVOUR_NAMES, needed, with_required
from capture.backends.request import BackendRequest
from capture.errors import CaptureError, StateDirectoryError
from capture.model.addresses import FAMILIES, IPV4
from capture.model.values import Value
from capture.netlink.ipsec import IpsecPolicy, read_policies
from capture.operations import diagnosis
from capture.operations.diagnosis import Diagnosis
from capture.report.diagnosis_text import message_with_place
from capture.report.terminal import Finding, State
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.host import AnyPod, PodFromInside
from capture.settings.keywords import make_settings
from capture.state import capabilities, record
from capture.state.directory import STATE_DIRECTORY, is_private, require_private
from capture.state.kernel_modules import Inventory, can_load, look_up
from capture.state.netns import ONLY_ON_HOST, namespace_id

T = TypeVar("T")

CAPABILITIES = ("NET_ADMIN", "NET_RAW", "SYS_ADMIN")
"""Those that matter."""

XTABLES_LOCK = "/run/xtables.lock"

ALL_FEATURES = make_settings(
    interception_mode="TPROXY", redirect_dns=True, capture_all_dns=True, drop_invalid=True, profile="current",
    rule_comments=True, rule_logs=True,
)  # fmt: skip
"""Settings whose rules need every module that a capture may need."""


class Examined(Value):
    """Everything that was looked at, in the namespace that it is about."""

    facts: HostFacts
    choice: BackendChoice | CaptureError
    live_sets: tuple[SetLocation, ...]
    namespace: str
    is_host: bool
    addresses: tuple[str, ...]
    missing_capabilities: tuple[str, ...]
    kernel: str
    versions: dict[str, str]
    """The versions that programs print, by path."""
    lock_holder: int | None
    """The process that holds the lock of legacy iptables, if any."""
    state_directory: Literal["usable", "to be made", "not writable"] | StateDirectoryError
    is_recorded: bool
    record_fault: str
    """Why the record cannot be used; "" if there is none, or it can."""
    modules: Inventory
    """Which of the kernel modules that a capture may need are there."""
    loads_modules: bool
    """The kernel loads modules at all."""
    rival: Finding | None = None
    """The finding that Istio's plugin captures pods of this node, too or alone."""
    diagnosis: Diagnosis | CaptureError | None = None
    """What is wrong with the pod; None where nothing is applied, and none is recorded."""
    ipsec: tuple[IpsecPolicy, ...] | CaptureError = ()
    node: tuple[Finding, ...] = ()
    """The findings of ``capture cni status``."""


def examine() -> Examined:
    """Look at the host, the kernel and the namespace we are in."""
    facts = gather()
    choice: BackendChoice | CaptureError
    try:
        choice = detect.choose(facts, BackendRequest())
    except CaptureError as error:
        choice = error
    return Examined(
        facts=facts,
        choice=choice,
        live_sets=detect.live_sets_in(facts),
        namespace=namespace_id(),
        is_host=os.path.exists(ONLY_ON_HOST),
        addresses=tuple(str(address).partition("/")[0] for address in PodFromInside().pod_addresses()),
        missing_capabilities=tuple(capabilities.missing(*CAPABILITIES)),
        kernel=os.uname().release,
        versions={path: run([path, "--version"]).stdout.partition("\n")[0] for path in _programs(facts)},
        lock_holder=_lock_holder(),
        state_directory=_state_directory(),
        is_recorded=is_private(STATE_DIRECTORY) and record.read() is not None,
        record_fault=record.fault() if is_private(STATE_DIRECTORY) else "",
        modules=look_up(_purposes()),
        loads_modules=can_load(),
        rival=_by_name("cni.istio_cni", "rival", None),
        diagnosis=_diagnosis(),
        ipsec=_ipsec_policies(),
        node=_by_name("cni.status", "of_this_node", ()),
    )


def _diagnosis() -> Diagnosis | CaptureError | None:
    """Return what is wrong with the pod whose namespace we are in, if it is captured or should be.

    Where missing privileges hide that, return why.
    """
    try:
        found = diagnosis.why()
    except CaptureError as error:
        return error
    is_captured = not any(cause.kind in ("no-rules", "left-alone") for cause in found.causes)
    return found if is_captured or (is_private(STATE_DIRECTORY) and record.read() is not None) else None


def _ipsec_policies() -> tuple[IpsecPolicy, ...] | CaptureError:
    try:
        return tuple(read_policies())
    except CaptureError as error:
        return error


def _by_name(module: str, function: str, otherwise: T) -> T:
    """Return the findings of the plugin's package about this node; without that package, none."""
    try:
        found: T = getattr(importlib.import_module(module), function)()
    except (ImportError, OSError, CaptureError):
        return otherwise
    return found


def _purposes() -> dict[str, str]:
    """Return every module that a capture may need, and which flavours need it for what; in words."""
    desired = build_ruleset(resolve(ALL_FEATURES, AnyPod())[0])
    found: dict[str, list[str]] = {}
    for flavour, name in FLAVOUR_NAMES.items():
        for module, purpose in needed(desired, FAMILIES, flavour).items():
            found.setdefault(module, []).append(f"{name} for {purpose}")
    return {module: ", ".join(purposes) for module, purposes in found.items()}


def _programs(facts: HostFacts) -> Iterator[str]:
    """Yield the paths of the programs whose versions suffice: one of each variant of iptables, and nft."""
    yield from {variant: path for (variant, _, _), path in reversed(facts.programs.items())}.values()
    nft = find_program("nft")
    if nft is not None:
        yield nft


def _lock_holder() -> int | None:
    """Return who holds the lock file of legacy iptables (proc(5), /proc/locks), None if no process does."""
    try:
        inode = os.stat(XTABLES_LOCK).st_ino
        with open("/proc/locks", encoding="ascii") as locks:
            for line in locks:
                words = line.split()
                if words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
                    return int(words[4])
    except FileNotFoundError:
        return None
    return None


def _state_directory() -> Literal["usable", "to be made", "not writable"] | StateDirectoryError:
    try:
        require_private(STATE_DIRECTORY)
    except StateDirectoryError as error:
        return error
    if os.path.isdir(STATE_DIRECTORY):
        return "usable" if os.access(STATE_DIRECTORY, os.W_OK) else "not writable"
    return "to be made" if os.access(os.path.dirname(STATE_DIRECTORY), os.W_OK) else "not writable"


LEGACY = {
    "present": "present, for iptables-legacy",
    "loadable": "can be loaded, for iptables-legacy",
    "absent": "absent: iptables-legacy cannot be used, and need not be",
    "unknown": "none are loaded, and without /lib/modules it is unknown whether they could be",
}


def can_work(examined: Examined) -> bool:
    """Return whether capture can work here at all."""
    return not any(finding.state == "error" and finding.topic not in (POD, NODE) for finding in findings(examined))


POD, NODE = "pod", "node"
DRIVER_TOPICS = ("kernel", "host")
"""Topics about what drivers need, shown where something is wrong, or with --all."""


def findings(examined: Examined) -> list[Finding]:
    """Return the findings in the order in which a person looks: pod, node, namespace, choice, drivers."""
    return [
        *of_pod(examined.diagnosis),
        *(each.replace(topic=NODE) for each in examined.node),
        *_namespace(examined),
        *_choice(examined),
        *_kernel(examined.facts, examined.modules.lacking),
        *_modules(examined),
        *_host(examined),
    ]


def of_pod(found: Diagnosis | CaptureError | None) -> Iterator[Finding]:
    """Yield what is wrong with the pod; else that it is captured."""
    if isinstance(found, CaptureError):
        yield Finding(POD, "capture", "note", f"cannot be judged: {found.message}", found.remedy)
        return
    if found is None:
        yield Finding(POD, "capture", "note", "nothing is applied here")
        return
    for cause in found.causes:
        yield Finding(POD, cause.kind, "error", message_with_place(cause), cause.remedy, cause.kind)
    if found.verdict == "captured":
        yield Finding(POD, "capture", "ok", "the rules are in place, and the proxy listens")
    for note in found.notes:
        state: State = "warning" if note.kind == "unjudged" else "note"
        yield Finding(POD, note.kind, state, message_with_place(note), note.remedy, note.kind)


def _choice(examined: Examined) -> Iterator[Finding]:
    choice = examined.choice
    if isinstance(choice, CaptureError):
        yield Finding("choice", "backend", "error", choice.message, choice.remedy)
    else:
        variant = f" {choice.variant}" if choice.variant else ""
        message = f"auto takes {choice.backend}{variant} with the driver {choice.driver}: {choice.reason}"
        yield Finding("choice", "backend", "ok", message)
    for found in examined.live_sets:
        place = " ".join(filter(None, found.choice.place))
        message = f"rules of the capture are in {place} ({', '.join(found.families)})"
        yield Finding("choice", "live rules", "note", message)
    if len(examined.live_sets) > 1:
        message = "there are several rule sets of the capture; expected one"
        remedy = "`capture apply` leaves the one that it writes; `capture clean` removes all."
        yield Finding("choice", "live rules", "warning", message, remedy)


def _namespace(examined: Examined) -> Iterator[Finding]:
    if examined.is_host:
        message = f"{examined.namespace}: the host's own, which is not captured without --allow-host"
        yield Finding("namespace", "identity", "note", message, "Name a pod's namespace with --netns PATH or --pid N.")
    else:
        yield Finding("namespace", "identity", "ok", f"{examined.namespace}: not the host's own")
    if not examined.facts.own_users:
        message = (
            "another than this process has (hostUsers: false): auto takes nftables; iptables writes from within it"
        )
        yield Finding("namespace", "user namespace", "note", message)
    addresses = ", ".join(examined.addresses) or "none yet; both families would be captured"
    yield Finding("namespace", "addresses", "ok" if examined.addresses else "note", addresses)
    recorded = "present" if examined.is_recorded else "absent: nothing was applied here, or it was recorded elsewhere"
    if examined.record_fault:
        yield Finding("namespace", "record", "warning", examined.record_fault, APPLY_SAME)
    else:
        yield Finding("namespace", "record", "ok" if examined.is_recorded else "note", recorded)
    yield from _of_ipsec(examined.ipsec)


def _of_ipsec(policies: tuple[IpsecPolicy, ...] | CaptureError) -> Iterator[Finding]:
    """Yield that IPsec drops or encrypts packets; a single connection is judged by `capture why`."""
    if isinstance(policies, CaptureError):
        yield Finding("namespace", "IPsec", "note", policies.message, policies.remedy)
        return
    for is_blocking, verb in ((True, "drop"), (False, "encrypt")):
        found = [each for each in policies if each.is_blocking is is_blocking and (is_blocking or each.has_template)]
        if found:
            message = f"policies that {verb} packets, whatever the rules are: {len(found)}, such as `{found[0].words}`"
            remedy = "`capture why` judges a connection; `ip xfrm policy` in this namespace lists all."
            yield Finding("namespace", "IPsec", "warning" if is_blocking else "note", message, remedy)


def _kernel(facts: HostFacts, lacking: tuple[str, ...]) -> Iterator[Finding]:
    yield _of_kernel(("nf_tables",), "for nftables and for iptables-nft", lacking, present=facts.nf_tables)
    yield _of_kernel(("nft_compat", "xt_owner"), "for iptables-nft", lacking, present=facts.nft_compat)
    state: State = "ok" if facts.legacy in ("present", "loadable") else "note"
    yield Finding("kernel", "legacy tables", state, LEGACY[facts.legacy])
    for family, table in facts.legacy_tables:
        yield Finding("kernel", "legacy tables", "note", f"the table {table} of {family} exists in this namespace")
    ipv6 = "present" if facts.ipv6 else "absent (ipv6.disable=1?): IPv4 alone is captured"
    yield Finding("kernel", "IPv6", "ok" if facts.ipv6 else "note", ipv6)


def _modules(examined: Examined) -> Iterator[Finding]:
    """Yield a finding for each missing module, with who needs it; else one that none is, or that this is unknown."""
    lacking, purposes = examined.modules.lacking, _purposes()
    for name in lacking:
        why = "no such module" if name in examined.modules.absent else "modprobe's configuration forbids to load it"
        yield Finding("kernel", name, "warning", f"{why}; needed by {purposes[name]}", remedy_for((name,)))
    others = tuple(name for name in examined.modules.unloaded if name not in lacking)
    if not examined.modules.is_indexed:
        message = f"which modules could be loaded is unknown: no /lib/modules/{examined.kernel} with a readable index"
        yield Finding("kernel", "modules", "note", message)
    elif others and not examined.loads_modules:
        message = f"not loaded, and kernel.modules_disabled=1 forbids loading more: {', '.join(others)}"
        yield Finding("kernel", "modules", "warning", message, remedy_for_closed(others))
    elif not lacking:
        yield Finding("kernel", "modules", "ok", "all that a capture may need are there")


def _of_kernel(modules: tuple[str, ...], use: str, lacking: tuple[str, ...], *, present: bool | None) -> Finding:
    name = " and ".join(modules)
    if present is None:
        return Finding("kernel", name, "note", "not permitted to query it", "Run as root.")
    if present:
        return Finding("kernel", name, "ok", f"present, {use}")
    message = f"absent; needed {use}"
    to_blame = tuple(module for module in with_required(modules) if module in lacking)
    if to_blame:
        message += f"; this kernel cannot load the module {', '.join(to_blame)}"
    remedy = remedy_for(to_blame) if to_blame else f"On the host: modprobe -a {' '.join(modules)}"
    return Finding("kernel", name, "warning", message, remedy)


def _host(examined: Examined) -> Iterator[Finding]:
    yield from _privileges(examined.missing_capabilities)
    yield Finding("host", "kernel", "ok", examined.kernel)
    for path, version in examined.versions.items():
        yield Finding("host", os.path.basename(path), "ok", f"{version} ({path})")
    yield from _missing_programs(examined.facts)
    yield _optional(
        "python-iptables", "the driver iptc", "python-iptables setuptools", present=examined.facts.python_iptables
    )
    yield _optional("libnftables", "the driver libnftables", "pip-nftables", present=examined.facts.libnftables)
    if examined.lock_holder is not None:
        message = f"{XTABLES_LOCK} is held by process {examined.lock_holder}; we do not wait for it, other programs do"
        yield Finding("host", "lock", "note", message)
    yield _state(examined.state_directory)
    if examined.rival:
        yield examined.rival


def _state(state: Literal["usable", "to be made", "not writable"] | StateDirectoryError) -> Finding:
    if isinstance(state, StateDirectoryError):
        return Finding("host", "state", "error", state.message, state.remedy)
    if state == "not writable":
        message = f"{STATE_DIRECTORY} cannot be written: `dump` and `verify` will not know the applied configuration"
        remedy = "Mount a writable directory of mode 0700 there, or name the options when you verify."
        return Finding("host", "state", "warning", message, remedy)
    return Finding("host", "state", "ok", f"{STATE_DIRECTORY}, {state}")


def _privileges(missing: tuple[str, ...]) -> Iterator[Finding]:
    held = [name for name in CAPABILITIES if name not in missing]
    if "NET_ADMIN" in held:
        yield Finding("host", "privileges", "ok", ", ".join(held))
    else:
        message = f"NET_ADMIN is not held (held: {', '.join(held) or 'none of those that matter'})"
        remedy = "Run as root, or add the capabilities NET_ADMIN and NET_RAW."
        yield Finding("host", "privileges", "error", message, remedy)
    if "SYS_ADMIN" not in held:
        yield Finding("host", "privileges", "note", "without SYS_ADMIN, --netns and --pid cannot enter a namespace")


def _missing_programs(facts: HostFacts) -> Iterator[Finding]:
    families = FAMILIES if facts.ipv6 else (IPV4,)
    for variant in VARIANTS:
        absent = [
            f"{PROGRAM_NAMES[family]}-{variant}-{purpose}"
            for family in families
            for purpose in PURPOSES
            if (variant, family, purpose) not in facts.programs
        ]
        if absent:
            message = f"not installed: {', '.join(absent)}; nftables needs none of it"
            remedy = f"To use iptables-{variant}: apt-get install iptables, or dnf install iptables-{variant}"
            yield Finding("host", f"iptables-{variant}", "note", message, remedy)


def _optional(name: str, use: str, packages: str, *, present: bool) -> Finding:
    if present:
        return Finding("host", name, "ok", f"installed, for {use}")
    return Finding("host", name, "note", f"not installed; {use} needs it, and nothing else", f"pip install {packages}")
