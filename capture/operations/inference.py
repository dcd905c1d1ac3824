"""Which settings live rules amount to, for a namespace of which nothing is recorded. A hint for people, no proof."""

from __future__ import annotations

from itertools import pairwise

from capture.analysis.canonical import ENTRIES
from capture.model import ruleset as model
from capture.settings.options import OPTIONS
from capture.settings.settings import Given, Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from capture.settings.options import Option

SSH = "22"


def inferred_flags(ruleset: model.Ruleset) -> list[str]:
    """Return the flags of `capture apply` that would give rules like these: ["-p", "15001", "-u", "1337"]."""
    rules = _ByChain(ruleset)
    is_transparent = any(isinstance(rule.verdict, model.TransparentProxy) for rule in rules.of(model.MANGLE))
    side: model.TableName = model.MANGLE if is_transparent else model.NAT
    inbound, output = rules.of(side, "INBOUND"), rules.of(model.NAT, "OUTPUT")
    captured = [rule for rule in inbound if isinstance(rule.verdict, model.Jump)]
    tunnel = _left_alone(rules.of(model.NAT, "INBOUND")[:1], model.DestinationPort)
    excluded = _left_alone(output, model.Destination)
    found: dict[str, Iterable[str]] = {
        "-p": _sent_to(rules.of(model.NAT, "REDIRECT"), model.Redirect),
        "-z": _sent_to(rules.of(model.NAT, "IN_REDIRECT"), model.Redirect)
        or _sent_to(rules.of(model.MANGLE), model.TransparentProxy),
        "-m": ["TPROXY"] if is_transparent else [],
        "-u": _of_proxy(output, model.OwnerUid),
        "-g": _of_proxy(output, model.OwnerGid),
        "-e": tunnel,
        "-b": _listed(captured, model.DestinationPort) or (["'*'"] if captured or is_transparent else []),
        "-d": [port for port in _left_alone(inbound, model.DestinationPort) if port not in (*tunnel, SSH)],
        "-o": _left_alone(output, model.DestinationPort),
        "-x": [each for each in excluded if not each.startswith("127.") and each != "::1/128"],
        "-i": _included(output),
        "-q": _listed([rule for rule in output if _jumps_to(rule, "REDIRECT")], model.DestinationPort),
        "-c": _left_alone(rules.built_in(model.PREROUTING), model.InInterface),
    }
    dns = rules.of(model.NAT, "OUTPUT_DNS")
    flags = [word for flag, values in found.items() if values for word in (flag, ",".join(dict.fromkeys(values)))]
    flags += ["--redirect-dns"] if dns else []
    by_server = any(_all(rule, model.Destination) for rule in dns)
    return flags + (["--capture-all-dns"] if dns and not by_server else [])


def inferred_settings(ruleset: model.Ruleset) -> Settings:
    """Return the settings that would give rules like these."""
    by_flag: dict[str, Option[Any]] = {f"-{each.short}": each for each in OPTIONS if each.short} | {
        f"--{each.flag}": each for each in OPTIONS
    }
    words = inferred_flags(ruleset)
    given: dict[Option[Any], Given] = {}
    for flag, value in pairwise([*words, ""]):
        if flag.startswith("-"):
            text = "true" if by_flag[flag].is_switch else value.strip("'")
            given[by_flag[flag]] = Given(text, "live rules")
    return Settings(given)


class _ByChain:
    """The rules of our chains, by table and by what comes behind ISTIO_ in the chain's name."""

    def __init__(self, ruleset: model.Ruleset) -> None:
        self._ruleset = ruleset

    def of(self, table: model.TableName, name: str = "") -> list[model.Rule]:
        """Return the rules of a chain, or of all chains of a table."""
        found = self._ruleset.table(table)
        chains = found.chains if found else ()
        return [rule for chain in chains if not name or _short(chain.name) == name for rule in chain.rules]

    def built_in(self, name: str) -> list[model.Rule]:
        """Return the rules of a built-in chain of nat."""
        chain = self._ruleset.chain(model.NAT, name)
        return list(chain.rules) if chain else []


def _short(name: str) -> str:
    return name.upper().replace("-", "_").removeprefix("ISTIO_") if name.upper().startswith("ISTIO") else ""


def _all(rule: model.Rule, kind: type) -> list[Any]:
    return [match for match in rule.matches if isinstance(match, kind)]


def _left_alone(rules: Iterable[model.Rule], kind: type) -> list[str]:
    """Return what rules leave alone by nothing but this kind of match, and a protocol."""
    return _listed([rule for rule in rules if isinstance(rule.verdict, model.Return) and _is_only(rule, kind)], kind)


def _is_only(rule: model.Rule, kind: type) -> bool:
    return bool(_all(rule, kind)) and {type(match) for match in rule.matches} <= {kind, model.Protocol}


def _jumps_to(rule: model.Rule, name: str) -> bool:
    return isinstance(rule.verdict, model.Jump) and _short(rule.verdict.chain) == name


def _listed(rules: Iterable[model.Rule], kind: type) -> list[str]:
    """Return the entries of matches of a kind, or the names of interfaces."""
    matches = [match for rule in rules for match in _all(rule, kind)]
    if kind is model.InInterface:
        return [match.name for match in matches]
    return [str(entry) for match in matches for entry in getattr(match, ENTRIES[kind])]


def _included(rules: list[model.Rule]) -> list[str]:
    captured = [rule for rule in rules if _jumps_to(rule, "REDIRECT") and not _all(rule, model.DestinationPort)]
    return _listed(captured, model.Destination) or (["'*'"] if captured else [])


def _of_proxy(rules: list[model.Rule], kind: type[model.OwnerUid | model.OwnerGid]) -> list[str]:
    """Return the users or groups of the proxy: those whose calls to their own pod are captured."""
    return _listed([rule for rule in rules if _jumps_to(rule, "IN_REDIRECT")], kind)


def _sent_to(rules: Iterable[model.Rule], kind: type[model.Redirect | model.TransparentProxy]) -> list[str]:
    return [str(rule.verdict.port) for rule in rules if isinstance(rule.verdict, kind)]
