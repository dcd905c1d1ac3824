"""Which settings live rules amount to, for a namespace of which nothing is recorded. A hint for people, no proof."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from capture.analysis.canonical import entries_of_match
from capture.analysis.compare import differences
from capture.errors import CaptureError
from capture.model import ruleset as model
from capture.model.addresses import parse_network
from capture.model.chain_names import SPELLING_BY_NAME
from capture.model.conventions import SSH_PORT
from capture.operations.comparison import families_with_rules
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig, resolve
from capture.settings.options import OPTIONS, Option
from capture.settings.settings import ExplicitValue, Settings
from capture.system.pod_host import PodFromOutside

SSH = str(SSH_PORT)


def inferred_flags(ruleset: model.Ruleset) -> list[str]:
    """Return the flags of `capture apply` that would give rules like these: ["-p", "15001", "-u", "1337"].

    Rules that no packet comes to count for nothing.
    """
    tables = (table.replace(chains=tuple(_reachable_chains(table))) for table in ruleset.tables)
    options = _inferred_flags(ruleset.replace(tables=tuple(tables))).items()
    return [word for flag, values in options for word in ((flag, ",".join(values)) if values else (flag,))]


def inferred_settings(ruleset: model.Ruleset) -> Settings:
    """Return the settings that would give rules like these."""
    by_flag: dict[str, Option[Any]] = {f"--{option.flag}": option for option in OPTIONS}
    by_flag |= {f"-{option.short}": option for option in OPTIONS if option.short}
    options = _inferred_flags(ruleset).items()
    texts = {by_flag[flag]: ",".join(values) if values else "true" for flag, values in options}
    return Settings({option: ExplicitValue(text, "live rules") for option, text in texts.items()})


def inferred_config(own: model.Ruleset) -> CaptureConfig:
    """Return what the inferred settings mean for the rules' families and name servers; else the defaults."""
    servers = _entry_texts(_own_rules(own, model.NAT, "OUTPUT_DNS"), model.Destination)
    try:
        config, _ = resolve(inferred_settings(own), PodFromOutside(servers=tuple(map(parse_network, servers))))
    except CaptureError:
        return CaptureConfig()
    return config.replace(families=families_with_rules(own) or config.families)


def count_misfits(own: model.Ruleset) -> int:
    """Return how many rules differ from those that the inferred settings give."""
    return sum(each.is_own for each in differences(build_ruleset(inferred_config(own)), own))


def _reachable_chains(table: model.Table) -> Iterator[model.Chain]:
    """Yield the chains of a table that packets come to, from its built-in ones."""
    names = [*model.BUILT_IN_CHAINS[table.name]]
    for name in names:  # which grows
        chain = table.chain(name)
        verdicts = [rule.verdict for rule in chain.rules] if chain else []
        names += dict.fromkeys(
            each.chain for each in verdicts if isinstance(each, model.Jump) and each.chain not in names
        )
        yield from filter(None, (chain,))


def _inferred_flags(ruleset: model.Ruleset) -> dict[str, list[str]]:
    """Return the values by flag; none for a switch."""
    is_transparent = any(isinstance(rule.verdict, model.TransparentProxy) for rule in _own_rules(ruleset, model.MANGLE))
    side: model.TableName = model.MANGLE if is_transparent else model.NAT
    inbound, output = _own_rules(ruleset, side, "INBOUND"), _own_rules(ruleset, model.NAT, "OUTPUT")
    prerouting = ruleset.chain(model.NAT, model.PREROUTING)
    captured = [rule for rule in inbound if isinstance(rule.verdict, model.Jump)]
    tunnel = _excluded_entries(_own_rules(ruleset, model.NAT, "INBOUND")[:1], model.DestinationPort)
    excluded = _excluded_entries(output, model.Destination)
    redirected = [rule for rule in output if _jumps_to(rule, "REDIRECT")]
    to_any_port = [rule for rule in redirected if not _matches_of(rule, model.DestinationPort)]
    of_proxy = [rule for rule in output if _jumps_to(rule, "IN_REDIRECT")]  # its calls to its own pod
    dns = _own_rules(ruleset, model.NAT, "OUTPUT_DNS")
    by_flag: dict[str, list[str]] = {
        "-p": _target_ports(_own_rules(ruleset, model.NAT, "REDIRECT"), model.Redirect),
        "-z": _target_ports(_own_rules(ruleset, model.NAT, "IN_REDIRECT"), model.Redirect)
        or _target_ports(_own_rules(ruleset, model.MANGLE), model.TransparentProxy),
        "-m": ["TPROXY"] if is_transparent else [],
        "-u": _entry_texts(of_proxy, model.OwnerUid),
        "-g": _entry_texts(of_proxy, model.OwnerGid),
        "-e": tunnel,
        "-b": _entry_texts(captured, model.DestinationPort) or (["*"] if captured or is_transparent else []),
        "-d": [port for port in _excluded_entries(inbound, model.DestinationPort) if port not in (*tunnel, SSH)],
        "-o": _excluded_entries(output, model.DestinationPort),
        "-x": [each for each in excluded if not parse_network(each).is_loopback],
        "-i": _entry_texts(to_any_port, model.Destination) or (["*"] if to_any_port else []),
        "-q": _entry_texts(redirected, model.DestinationPort),
        "-c": _excluded_entries(prerouting.rules if prerouting else (), model.InInterface),
    }
    switches = ("--redirect-dns", "--capture-all-dns") if dns else ()
    by_server = any(_matches_of(rule, model.Destination) for rule in dns)
    values_by_flag = {flag: [*dict.fromkeys(values)] for flag, values in by_flag.items() if values}
    if values_by_flag:
        values_by_flag = {"-b": [""], "-i": [""]} | values_by_flag  # without them everything is captured
        values_by_flag |= _layout_flags(ruleset)
    return values_by_flag | {switch: [] for switch in (switches[:1] if by_server else switches)}


def _layout_flags(ruleset: model.Ruleset) -> dict[str, list[str]]:
    """Return profile and spelling where they are not the default: the layout of Istio 1.30 jumps for all protocols."""
    output = ruleset.chain(model.NAT, model.OUTPUT)
    jumps = [rule for rule in output.rules if getattr(rule.verdict, "chain", "") in SPELLING_BY_NAME] if output else []
    names = (chain.name for table in ruleset.tables for chain in table.chains)
    spelling = next((SPELLING_BY_NAME[name] for name in names if name in SPELLING_BY_NAME), "dash")
    is_current = not all(_matches_of(rule, model.Protocol) for rule in jumps) if jumps else spelling == "underscore"
    layout = {"--profile": ["current"]} if is_current else {}
    return layout | ({"--chain-names": [spelling]} if (spelling == "underscore") is not is_current else {})


def _own_rules(ruleset: model.Ruleset, table: model.TableName, name: str = "") -> list[model.Rule]:
    """Return the rules of our chain with this name behind ISTIO_, or of all chains of a table."""
    own_table = ruleset.table(table)
    chains = own_table.chains if own_table else ()
    return [rule for chain in chains if not name or _short_name(chain.name) == name for rule in chain.rules]


def _short_name(name: str) -> str:
    return name.upper().replace("-", "_").removeprefix("ISTIO_") if name.upper().startswith("ISTIO") else ""


def _matches_of(rule: model.Rule, kind: type) -> list[Any]:
    return [match for match in rule.matches if isinstance(match, kind)]


def _excluded_entries(rules: Iterable[model.Rule], kind: type) -> list[str]:
    """Return what rules leave alone by nothing but this kind of match, and a protocol."""
    returns = [rule for rule in rules if isinstance(rule.verdict, model.Return) and _matches_of(rule, kind)]
    return _entry_texts([rule for rule in returns if {*map(type, rule.matches)} <= {kind, model.Protocol}], kind)


def _jumps_to(rule: model.Rule, name: str) -> bool:
    return isinstance(rule.verdict, model.Jump) and _short_name(rule.verdict.chain) == name


def _entry_texts(rules: Iterable[model.Rule], kind: type) -> list[str]:
    matches = [match for rule in rules for match in _matches_of(rule, kind)]
    if kind is model.InInterface:
        return [match.name for match in matches]
    return [str(entry) for match in matches for entry in entries_of_match(match)]


def _target_ports(rules: Iterable[model.Rule], kind: type[model.Redirect | model.TransparentProxy]) -> list[str]:
    return [str(rule.verdict.port) for rule in rules if isinstance(rule.verdict, kind)]
