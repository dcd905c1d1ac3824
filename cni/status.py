"""The state of this node's installation, as ``capture cni status`` shows it. Looking changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from capture.errors import CaptureError
from capture.model.json_text import decode_object, encode_json
from capture.model.text import duration
from capture.model.values import Value
from capture.report.output import VerdictLine
from capture.report.terminal import FINDING_HANG, Finding, print_findings, print_lines
from cni import istio_cni, kubernetes, runtimes, trial
from cni.conf import CAPTURE_OPTIONS, KUBERNETES, Configuration
from cni.entries import as_list
from cni.networks import PLUGIN, Candidate, Chosen, ConfigurationFile, choose_network, missing_plugins, read_candidates
from cni.protocol import NOT_AVAILABLE_LIMITED, CniError
from cni.runtimes import Runtime
from cni.tokens import times_of, token_in

MAX_SHOWN_DECISIONS = 5
"""How many of the plugin's last decisions are shown."""
LOG_END = 256 * 1024
"""Bytes at the end of the log that are looked at for them."""


class Status(Value):
    """Everything that was looked at, as it is in JSON (docs/cni.md), and the findings."""

    plain: dict[str, Any]
    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Return whether nothing keeps pods from being captured or from starting."""
        return not any(finding.state == "error" for finding in self.findings)


def examine_node(bin_dir: str, conf_dir: str, runtime: Runtime, network: str = "") -> Status:
    """Return what is in order on the node. Raises OSError if the configuration directory cannot be read."""
    choice = runtime.choice(network, bin_dir)
    listed = read_candidates(conf_dir, timeout=0.2)
    chosen = choose_network(listed, choice)
    taken = chosen.taken.network if chosen.taken else None
    entry = taken.entries[0] if taken and taken.entries else None
    findings = [
        *_list_findings(listed, chosen, taken, conf_dir),
        *_missing_plugin_findings(taken, runtime.bin_dirs if runtime.looks_in(bin_dir) else (bin_dir,)),
        *_unknown_key_findings(entry),
        *_plugin_findings(os.path.join(bin_dir, PLUGIN), taken, entry),
        *_kubeconfig_findings(entry),
    ]
    with_entry = _paths_with_entry(listed)
    plain = {
        "runtime": {"name": runtime.name, "evidence": runtime.evidence},
        "conf_dir": conf_dir,
        "bin_dir": bin_dir,
        "files": [{"path": each, "verdict": why, "has_entry": each in with_entry} for each, why in chosen.reasons],
        "taken": taken.path if taken else None,
        "entry": entry,
        "decisions": [*_logged_decisions(str(entry.get("log_file") or ""))] if entry else [],
    }
    return Status(plain, tuple(findings))


def findings_of_this_node() -> tuple[Finding, ...]:
    """Return the findings about this node; none if it has neither the plugin nor its entry."""
    runtime = runtimes.detect()
    bin_dirs = [directory for directory in runtime.bin_dirs if os.path.exists(os.path.join(directory, PLUGIN))]
    if not os.path.isdir(runtime.conf_dir):
        return ()
    node_state = examine_node((bin_dirs or runtime.bin_dirs)[0], runtime.conf_dir, runtime)
    has_entry = any(each["has_entry"] for each in node_state.plain["files"])
    return node_state.findings if bin_dirs or has_entry else ()


def _paths_with_entry(listed: list[Candidate]) -> list[str]:
    return [candidate.path for candidate in listed if candidate.network and candidate.network.entries]


INSTALL = "`capture cni install`"
REINSTALL = f"Install it again: {INSTALL}."
NO_NETWORK = "Install a network plugin, or name the directory that the runtime reads: --conf-dir."
ENTRY_REMEDY = f"Correct the entry, or install it again: {INSTALL}."


def _list_findings(
    listed: list[Candidate], chosen: Chosen, taken: ConfigurationFile | None, conf_dir: str
) -> Iterator[Finding]:
    if taken is None:
        message = "; ".join(f"{os.path.basename(path)}: {verdict}" for path, verdict in chosen.reasons)
        remedy = "Repair or remove the file in the way; until then no pod gets a network." if message else NO_NETWORK
        yield Finding("network", "list", "error", message or f"no network configuration in {conf_dir}", remedy)
        return
    if not taken.entries:
        elsewhere = _paths_with_entry(listed)
        message = f"{taken.path} is what the runtime takes, and it has no entry of {PLUGIN}: pods start uncaptured"
        message += f"; the entry is in {', '.join(elsewhere)}" if elsewhere else ""
        yield Finding("network", "entry", "error", message, f"{INSTALL} puts it there.")
        return
    position = taken.plugins.index(taken.entries[0])
    message = f"number {position + 1} of {len(taken.plugins)} in {taken.path}"
    yield Finding("network", "entry", "ok", message)
    if len(taken.entries) > 1:
        message = f"{len(taken.entries)} entries of {PLUGIN}; one is enough"
        yield Finding("network", "entries", "warning", message, REINSTALL)
    if position == 0:
        yield Finding("network", "order", "error", f"no plugin before {PLUGIN} makes the network", REINSTALL)
    rival = istio_cni.rival_finding([conf_dir])
    if rival and rival.state == "warning":
        yield rival.replace(topic="network")
    yield from _own_list_findings(listed, taken)


def _missing_plugin_findings(taken: ConfigurationFile | None, bin_dirs: tuple[str, ...]) -> Iterator[Finding]:
    missing = [plugin for plugin in missing_plugins(taken, bin_dirs) if plugin != PLUGIN] if taken else []
    if missing:
        message = f"no pod starts: the plugin {', '.join(missing)} of the list is missing in {', '.join(bin_dirs)}"
        remedy = "Install it again, or name the directory of the runtime's plugins: --bin-dir."
        yield Finding("network", "plugins", "error", message, remedy)


def _own_list_findings(listed: list[Candidate], taken: ConfigurationFile) -> Iterator[Finding]:
    if not taken.is_our_own:
        return
    main = next((each.network for each in listed if each.network is not None and not each.network.is_our_own), None)
    if main is None:
        yield Finding("network", "own list", "error", "the list that it was made from is gone", REINSTALL)
        return
    foreign = [plugin for plugin in taken.plugins if plugin.get("type") != PLUGIN]
    without_plugin = [plugin for plugin in main.plugins if plugin.get("type") != PLUGIN]
    if as_list(taken, foreign) != as_list(main.replace(path=taken.path) if main.is_list else main, without_plugin):
        message = f"{main.path} has changed since it was made from that"
        yield Finding("network", "own list", "warning", message, "`capture cni install --own-config` makes it anew.")


KNOWN_KEYS = {"type", "name", "cniVersion", "args", "capabilities", *CAPTURE_OPTIONS}.union(
    {*Configuration.__match_args__} - {"settings", "annotations"}
)
"""Those that any plugin's entry may have (SPEC, "Network configuration format"), and our own."""


def _unknown_key_findings(entry: dict[str, Any] | None) -> Iterator[Finding]:
    unknown = [key for key in entry or () if key not in KNOWN_KEYS]
    if unknown:
        message = f"the plugin does not know, and ignores: {', '.join(unknown)}"
        yield Finding("network", "keys", "note", message, "Correct what is misspelt: docs/cni.md has every key.")


def _plugin_findings(path: str, taken: ConfigurationFile | None, entry: dict[str, Any] | None) -> Iterator[Finding]:
    if not os.path.lexists(path):
        yield Finding("plugin", "file", "error" if entry else "note", f"{path} is missing", f"Install it: {INSTALL}.")
        return
    where = f"{path} -> {os.readlink(path)}" if os.path.islink(path) else path
    try:
        versions = trial.try_version(path)
    except CaptureError as error:
        yield Finding("plugin", "file", "error", f"{where}: {error.message}", f"{INSTALL} puts a whole one there.")
        return
    yield Finding("plugin", "file", "ok", f"{where}, answers for CNI {versions[0]} to {versions[-1]}")
    bundle = os.path.dirname(os.path.realpath(path))
    interpreter = os.path.join(bundle, "lib", "interpreter")
    if not os.path.exists(interpreter):
        interpreter = trial.interpreter_of(path)
    yield Finding("plugin", "interpreter", "ok", interpreter or "none: it is a program of its own")
    if taken is not None and taken.version not in versions:
        message = f"the list's cniVersion is {taken.version or 'missing'!r}, which it does not know"
        remedy = f"Write one that it knows into {taken.path}, or install a newer plugin: {INSTALL}."
        yield Finding("plugin", "version", "error", message, remedy)
    if entry is not None:
        code, problem = trial.try_status(path, {**entry, "cniVersion": "1.1.0", "name": taken.name if taken else ""})
        if code == NOT_AVAILABLE_LIMITED:
            remedy = "Make the API server reachable: until it answers, no pod of the mesh starts."
            yield Finding("plugin", "STATUS", "error", problem, remedy)
        elif code:
            yield Finding("plugin", "STATUS", "error", problem, ENTRY_REMEDY)
        else:
            yield Finding("plugin", "STATUS", "ok", "a pod could be captured now")


def _kubeconfig_findings(entry: dict[str, Any] | None) -> Iterator[Finding]:
    path = str((entry or {}).get("kubeconfig") or "")
    sources = (entry or {}).get("pod_sources")
    if not path:
        if isinstance(sources, list) and KUBERNETES in sources:
            message = "pod_sources has kubernetes, and there is no kubeconfig"
            yield Finding("pods", "kubeconfig", "error", message, "Name one: `capture cni install --kubeconfig PATH`.")
        return
    try:
        config = kubernetes.read_kubeconfig(path)
        kubernetes.require_usable(config)
    except CniError as error:
        yield Finding("pods", "kubeconfig", "error", error.message, error.details)
        return
    yield Finding("pods", "kubeconfig", "ok", f"{path}, for {config.server}, written {_age_of(path)} ago")
    token_file, token = config.user.get("tokenFile", ""), config.user.get("token", "")
    if token_file or token:
        yield _token_finding(token_file or path, "" if token_file else token)


def _token_finding(path: str, text: str) -> Finding:
    """Return what is known of a token: of the text in a kubeconfig, else of a file of its own."""
    try:
        token = times_of(text.encode()) if text else token_in(path)
        age = _age_of(path)
    except OSError as error:
        return Finding("pods", "token", "error", f"{path}: {error.strerror}", "Write a token there.")
    seconds = token.seconds_left(time.time())
    if seconds <= 0:
        message = f"{path}, written {age} ago, has ended {duration(-seconds)} ago: the API server refuses it"
        return Finding("pods", "token", "error", message, "Renew it; a token of a service account lives for an hour.")
    ends = f"ends in {duration(seconds)}" if token.expires else "never ends, or does not say so"
    message = f"{path}, written {age} ago, {ends}"
    return Finding("pods", "token", "warning" if token.is_nearly_expired(time.time()) else "ok", message)


def _age_of(path: str) -> str:
    return duration(time.time() - os.stat(path).st_mtime)


DECISION_KEYS = ("time", "level", "namespace", "pod", "message", "reason", "code")


def _logged_decisions(log_file: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of the plugin's log about the last pods, the oldest first."""
    if not log_file:
        return
    try:
        with open(os.open(log_file, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a FIFO could wait for ever
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_END))
            lines = file.read().splitlines()
    except OSError:
        return
    decisions: list[dict[str, Any]] = []
    for line in reversed(lines):
        plain = decode_object(line) or {}
        if plain.get("command") == "ADD" and plain.get("level") != "debug":
            decisions.append({key: plain[key] for key in DECISION_KEYS if plain.get(key) not in (None, "")})
        if len(decisions) == MAX_SHOWN_DECISIONS:
            break
    yield from reversed(decisions)


def with_options(status: Status, options: str) -> Status:
    """Return the status with remedies that install where it was looked."""
    return status.replace(findings=tuple(
        each.replace(remedy=each.remedy.replace(INSTALL[:-1], f"{INSTALL[:-1]}{options}")) for each in status.findings
    ))  # fmt: skip


def as_plain(status: Status) -> dict[str, Any]:
    """Return the status for JSON."""
    findings = [
        {"topic": each.topic, "name": each.name, "state": each.state, "says": each.message, "remedy": each.remedy}
        for each in status.findings
    ]
    return {"works": status.works, **status.plain, "findings": findings}


def show(status: Status) -> None:
    """Print the status for people."""
    failed = next((finding for finding in status.findings if finding.state == "error"), None)
    if failed is None:
        print_lines([VerdictLine("works: a pod of the mesh that starts now is captured")])
    else:
        print_lines([VerdictLine(f"broken: {failed.name}: {failed.message}"), f"  {failed.remedy}"])
    plain = status.plain
    evidence = plain["runtime"]["evidence"] or "unknown; taken as the usual one"
    headings = [f"runtime: {plain['runtime']['name']} ({evidence})", f"networks in {plain['conf_dir']}:"]
    print_lines(headings if plain["files"] else headings[:1])
    for file in plain["files"]:
        mark = " [entry]" if file["has_entry"] else ""
        print_lines([f"  {os.path.basename(file['path'])}: {file['verdict']}{mark}"], FINDING_HANG)
    print_findings(finding for finding in status.findings if finding is not failed)
    if plain["entry"] is not None:
        print_lines([f"entry: {encode_json(plain['entry'])}"])
    if plain["decisions"]:
        print_lines(["last decisions:"])
        print_lines((f"  {' '.join(map(str, decision.values()))}" for decision in plain["decisions"]), FINDING_HANG)
