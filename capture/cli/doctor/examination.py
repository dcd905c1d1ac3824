"""What ``capture doctor`` looks at and what it makes of it. Looking changes nothing.

One look may make the kernel load a module: only trying shows whether it takes the owner match of iptables.
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Sequence

from capture import operations
from capture.analysis.cause_text import REAPPLY_OR_RECREATE, remedy_without_record
from capture.backends import detect
from capture.backends.detect import SetLocation
from capture.backends.host_facts import PURPOSES, HostFacts, gather_facts
from capture.backends.iptables.programs import PROGRAM_NAMES, find_program, run_program
from capture.backends.iptables.tables import VARIANTS
from capture.backends.missing_modules import cannot_load, remedy_for, remedy_for_closed
from capture.backends.needed_modules import FLAVOUR_NAMES, needed_modules, with_dependencies
from capture.backends.request import BackendRequest
from capture.errors import CaptureError, StateDirectoryError
from capture.model.addresses import FAMILIES, IPV4
from capture.model.conventions import APPLY_RECORDED
from capture.netlink.ipsec import IpsecPolicy, read_policies
from capture.operations import Diagnosis
from capture.report.diagnosis_text import message_with_location
from capture.report.terminal import Finding, State
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.keywords import make_settings
from capture.state import record
from capture.state.directory import STATE_DIRECTORY, is_private, require_private
from capture.system import capabilities
from capture.system.kernel_modules import ModuleInventory, can_load_modules, look_up_modules
from capture.system.netns import is_host, namespace_id
from capture.system.pod_host import AnyPod, PodFromInside

CAPABILITIES = ("NET_ADMIN", "NET_RAW", "SYS_ADMIN")
"""Those that matter."""

XTABLES_LOCK = "/run/xtables.lock"

ALL_FEATURES = make_settings(
    interception_mode="TPROXY", redirect_dns=True, capture_all_dns=True, drop_invalid=True, profile="current",
    rule_comments=True, rule_logs=True,
)  # fmt: skip
"""Settings whose rules need every module that a capture may need."""

POD_TOPIC, NODE_TOPIC = "pod", "node"
DRIVER_TOPICS = ("kernel", "host")
"""Topics about what drivers need, shown where something is wrong, or with --all."""


def examine(namespace: str | None = None) -> list[Finding]:
    """Look at pod, node, namespace, choice, kernel and host; return the findings in this order: as a person looks.

    It is the namespace we are in that is looked at; ``namespace`` is how others get there, for commands in remedies.
    """
    facts, modules = gather_facts(), look_up_modules(_module_purposes())
    is_recorded, fault = False, ""
    if is_private(STATE_DIRECTORY):
        is_recorded, fault = record.read() is not None, record.why_unusable()
    addresses = [address.shown for address in PodFromInside().pod_addresses()]
    return [
        *pod_findings(_diagnosed_pod(namespace, is_recorded=is_recorded)),
        *(finding.replace(topic=NODE_TOPIC) for finding in _plugin_findings("cni.status:findings_of_this_node")),
        identity_finding(namespace_id(), is_host_namespace=is_host()),
        *namespace_findings(addresses, own_users=facts.has_own_users),
        record_finding(fault, is_recorded=is_recorded),
        *ipsec_findings(read_policies),
        choice_finding(facts),
        *live_set_findings(detect.live_sets_in(facts)),
        *kernel_findings(facts, modules.lacking),
        *module_findings(modules, loads_modules=can_load_modules()),
        *privilege_findings(capabilities.missing_capabilities(*CAPABILITIES)),
        *release_finding(os.uname().release),
        *program_findings(facts),
        *library_findings(facts),
        lock_finding(_lock_holder()),
        state_directory_finding(STATE_DIRECTORY),
        *_plugin_findings("cni.istio_cni:rival_finding"),
    ]


def can_work(findings: Iterable[Finding]) -> bool:
    """Return whether capture can work here at all."""
    return not any(finding.state == "error" and finding.topic not in (POD_TOPIC, NODE_TOPIC) for finding in findings)


def _diagnosed_pod(namespace: str | None, *, is_recorded: bool) -> Diagnosis | CaptureError | None:
    """Return what is wrong with the pod whose namespace we are in, if it is captured or should be.

    Where missing privileges hide that, return why.
    """
    try:
        pod_diagnosis = operations.why(namespace=namespace)
    except CaptureError as error:
        return error
    is_captured = not any(cause.kind in ("no-rules", "left-alone") for cause in pod_diagnosis.causes)
    return pod_diagnosis if is_captured or is_recorded else None


def _plugin_findings(function: str) -> tuple[Finding, ...]:
    """Return the findings of the plugin's package about this node; without that package, none."""
    try:
        findings = pkgutil.resolve_name(function)()
    except (ImportError, OSError, CaptureError):
        return ()
    return (findings,) if isinstance(findings, Finding) else tuple(findings or ())


def _module_purposes() -> dict[str, str]:
    """Return every module that a capture may need, and which flavours need it for what; in words."""
    desired = build_ruleset(resolve(ALL_FEATURES, AnyPod())[0])
    by_module: dict[str, list[str]] = {}
    for flavour, name in FLAVOUR_NAMES.items():
        for module, purpose in needed_modules(desired, FAMILIES, flavour).items():
            by_module.setdefault(module, []).append(f"{name} for {purpose}")
    return {module: ", ".join(purposes) for module, purposes in by_module.items()}


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


LEGACY_TEXTS = {
    "present": "present, for iptables-legacy",
    "loadable": "can be loaded, for iptables-legacy",
    "absent": "absent: iptables-legacy cannot be used; nothing else needs them",
    "unknown": "none is loaded; without /lib/modules it is unknown whether this kernel has them",
}


def pod_findings(diagnosed: Diagnosis | CaptureError | None) -> Iterator[Finding]:
    """Yield what is wrong with the pod; else that it is captured."""
    if isinstance(diagnosed, CaptureError):
        yield Finding(POD_TOPIC, "capture", "note", f"cannot be judged: {diagnosed.message}", diagnosed.remedy)
        return
    if diagnosed is None:
        yield Finding(POD_TOPIC, "capture", "note", "nothing is applied here")
        return
    for cause in diagnosed.causes:
        yield Finding(POD_TOPIC, cause.kind, "error", message_with_location(cause), cause.remedy, cause.kind)
    if diagnosed.verdict == "captured":
        but = f"; by the settings, {' and '.join(diagnosed.uncaptured)} is captured" if diagnosed.uncaptured else ""
        yield Finding(POD_TOPIC, "capture", "ok", f"the rules are in place, and the proxy listens{but}")
    for note in diagnosed.notes:
        state: State = "warning" if note.kind == "unjudged" else "note"
        yield Finding(POD_TOPIC, note.kind, state, message_with_location(note), note.remedy, note.kind)


def choice_finding(facts: HostFacts) -> Finding:
    """Return what ``auto`` takes, or why it can take nothing."""
    try:
        choice = detect.choose(facts, BackendRequest())
    except CaptureError as error:
        return Finding("choice", "backend", "error", error.message, error.remedy)
    message = f"auto takes {choice.place_text} with the driver {choice.driver}: {choice.reason}"
    return Finding("choice", "backend", "ok", message)


def live_set_findings(live_sets: Sequence[SetLocation]) -> Iterator[Finding]:
    """Yield where rules of the capture are."""
    for live_set in live_sets:
        message = f"rules of the capture are in {live_set.choice.place_text} ({', '.join(live_set.families)})"
        yield Finding("choice", "live rules", "note", message)
    if len(live_sets) > 1:
        message = "there are several rule sets of the capture; expected one"
        remedy = f"{APPLY_RECORDED} leaves the recorded one; `capture clean` removes all."
        yield Finding("choice", "live rules", "warning", message, remedy)


def identity_finding(namespace: str, *, is_host_namespace: bool) -> Finding:
    """Return which network namespace we are in."""
    if not is_host_namespace:
        return Finding("namespace", "identity", "ok", f"{namespace}: not the host's own")
    message = f"{namespace}: the host's own, which is not captured without --allow-host"
    return Finding("namespace", "identity", "note", message, "Name a pod's namespace with --netns PATH or --pid N.")


def namespace_findings(addresses: Sequence[str], *, own_users: bool) -> Iterator[Finding]:
    """Yield whose users the namespace has, and its addresses."""
    if not own_users:
        message = "the pod has one of its own (hostUsers: false): auto takes nftables; iptables writes from within it"
        yield Finding("namespace", "user namespace", "note", message)
    listed = ", ".join(addresses) or "none yet; both families would be captured"
    yield Finding("namespace", "addresses", "ok" if addresses else "note", listed)


def record_finding(fault: str, *, is_recorded: bool) -> Finding:
    """Return whether something was applied to the namespace, or why the record of that cannot be used."""
    if fault:
        return Finding("namespace", "record", "warning", fault, remedy_without_record(REAPPLY_OR_RECREATE))
    if is_recorded:
        return Finding("namespace", "record", "ok", "present")
    return Finding("namespace", "record", "note", "absent: nothing was applied here, or it was recorded elsewhere")


def ipsec_findings(read: Callable[[], Iterable[IpsecPolicy]]) -> Iterator[Finding]:
    """Yield that IPsec drops or encrypts packets; a single connection is judged by `capture why`."""
    try:
        policies = list(read())
    except CaptureError as error:
        yield Finding("namespace", "IPsec", "note", error.message, error.remedy)
        return
    for is_blocking, verb in ((True, "drop"), (False, "encrypt")):
        ipsec = [each for each in policies if each.is_blocking is is_blocking and (is_blocking or each.has_template)]
        if ipsec:
            message = f"policies that {verb} packets, whatever the rules are: {len(ipsec)}, such as `{ipsec[0].words}`"
            remedy = "`capture why` judges a connection; `ip xfrm policy` in this namespace lists all."
            yield Finding("namespace", "IPsec", "warning" if is_blocking else "note", message, remedy)


def kernel_findings(facts: HostFacts, lacking: tuple[str, ...]) -> Iterator[Finding]:
    """Yield which features of the kernel are there; ``lacking`` are modules that are not."""
    yield _kernel_finding(("nf_tables",), "for nftables and for iptables-nft", lacking, present=facts.has_nf_tables)
    yield _kernel_finding(("nft_compat", "xt_owner"), "for iptables-nft", lacking, present=facts.has_nft_compat)
    state: State = "ok" if facts.legacy in ("present", "loadable") else "note"
    yield Finding("kernel", "legacy tables", state, LEGACY_TEXTS[facts.legacy])
    for family, table in facts.legacy_tables:
        yield Finding("kernel", "legacy tables", "note", f"the table {table} of {family} exists in this namespace")
    ipv6 = "present" if facts.ipv6 else "absent (ipv6.disable=1?): IPv4 alone is captured"
    yield Finding("kernel", "IPv6", "ok" if facts.ipv6 else "note", ipv6)


def module_findings(modules: ModuleInventory, *, loads_modules: bool) -> Iterator[Finding]:
    """Yield a finding for each missing module, with who needs it; else one that none is, or that this is unknown."""
    purposes = _module_purposes()
    for name in modules.lacking:
        why = "no such module" if name in modules.absent else "modprobe's configuration forbids to load it"
        yield Finding("kernel", name, "warning", f"{why}; needed by {purposes[name]}", remedy_for((name,)))
    unloaded = tuple(name for name in modules.unloaded if name not in modules.lacking)
    if not modules.is_indexed:
        message = f"those that can be loaded are unknown: no /lib/modules/{os.uname().release} with a readable index"
        yield Finding("kernel", "modules", "note", message)
    elif unloaded and not loads_modules:
        message = f"not loaded, and kernel.modules_disabled=1 forbids loading more: {', '.join(unloaded)}"
        yield Finding("kernel", "modules", "warning", message, remedy_for_closed(unloaded))
    elif not modules.lacking:
        yield Finding("kernel", "modules", "ok", "all that a capture may need are there")


def _kernel_finding(modules: tuple[str, ...], use: str, lacking: tuple[str, ...], *, present: bool | None) -> Finding:
    name = " and ".join(modules)
    if present is None:
        return Finding("kernel", name, "note", "not permitted to query it", "Run as root.")
    if present:
        return Finding("kernel", name, "ok", f"present, {use}")
    message = f"absent; needed {use}"
    to_blame = tuple(module for module in with_dependencies(modules) if module in lacking)
    if to_blame:
        message += f"; {cannot_load(to_blame)}"
    remedy = remedy_for(to_blame) if to_blame else f"Run `modprobe -a {' '.join(modules)}` on the host"
    return Finding("kernel", name, "warning", message, remedy)


def privilege_findings(missing: Sequence[str]) -> Iterator[Finding]:
    """Yield whether we hold the capabilities that matter."""
    held = [name for name in CAPABILITIES if name not in missing]
    if "NET_ADMIN" in held:
        yield Finding("host", "privileges", "ok", ", ".join(held))
    else:
        message = f"NET_ADMIN is not held (held: {', '.join(held) or 'none of those that matter'})"
        remedy = "Run as root, or add the capabilities NET_ADMIN and NET_RAW."
        yield Finding("host", "privileges", "error", message, remedy)
    if "SYS_ADMIN" not in held:
        yield Finding("host", "privileges", "note", "without SYS_ADMIN, --netns and --pid cannot enter a namespace")


def release_finding(release: str) -> Iterator[Finding]:
    """Yield which kernel this is."""
    yield Finding("host", "kernel", "ok", release)


def program_findings(facts: HostFacts) -> Iterator[Finding]:
    """Yield the versions of programs, one of each variant of iptables and nft, and which are not installed."""
    paths = {variant: path for (variant, _, _), path in reversed(facts.programs.items())}.values()
    for path in filter(None, (*paths, find_program("nft"))):
        version = run_program([path, "--version"]).stdout.partition("\n")[0]
        yield Finding("host", os.path.basename(path), "ok", f"{version} ({path})")
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


def library_findings(facts: HostFacts) -> Iterator[Finding]:
    """Yield which optional packages of Python are there."""
    for name, driver, packages, is_installed in (
        ("python-iptables", "iptc", "python-iptables setuptools", facts.has_python_iptables),
        ("libnftables", "libnftables", "pip-nftables", facts.has_libnftables),
    ):
        if is_installed:
            yield Finding("host", name, "ok", f"installed, for the driver {driver}")
        else:
            message = f"not installed; the driver {driver} needs it, and nothing else"
            yield Finding("host", name, "note", message, f"pip install {packages}")


def lock_finding(holder: int | None) -> Finding:
    """Return which process holds the lock of legacy iptables, if any does."""
    if holder is None:
        return Finding("host", "lock", "ok", f"{XTABLES_LOCK} is free")
    message = f"{XTABLES_LOCK} is held by process {holder}; we do not wait for it, other programs do"
    return Finding("host", "lock", "note", message)


def state_directory_finding(path: str) -> Finding:
    """Return whether records can be kept."""
    try:
        require_private(path)
    except StateDirectoryError as error:
        return Finding("host", "state", "error", error.message, error.remedy)
    is_made = os.path.isdir(path)
    if os.access(path if is_made else os.path.dirname(path), os.W_OK):
        return Finding("host", "state", "ok", f"{path}, {'usable' if is_made else 'made when it is needed'}")
    message = f"{path} cannot be written: `dump` and `verify` will not know the applied configuration"
    remedy = "Mount a writable directory of mode 0700 there, or name the options when you verify."
    return Finding("host", "state", "warning", message, remedy)
