"""Which settings live rules amount to, for a namespace of which nothing is recorded. A hint for people, no proof."""

from __future__ import annotations

from itertools import pairwise

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
    captured = [rule for rule in rules.of(side, "INBOUND") if isinstance(rule.verdict, model.Jump)]
    alone = _ports(rule for rule in rules.of(side, "INBOUND") if _returns(rule, model.DestinationPort))
    tunnel = _ports(rule for rule in rules.of(model.NAT, "INBOUND")[:1] if _returns(rule, model.DestinationPort))
    found: dict[str, Iterable[str]] = {
        "-p": _sent_to(rules.of(model.NAT, "REDIRECT"), model.Redirect),
        "-z": _sent_to(rules.of(model.NAT, "IN_REDIRECT"), model.Redirect)
        or _sent_to(rules.of(model.MANGLE), model.TransparentProxy),
        "-m": ["TPROXY"] if is_transparent else [],
        "-u": _ids(rules.of(model.NAT, "OUTPUT"), model.OwnerUid),
        "-g": _ids(rules.of(model.NAT, "OUTPUT"), model.OwnerGid),
        "-e": tunnel,
        "-b": _ports(captured) or (["'*'"] if captured or is_transparent else []),
        "-d": [port for port in alone if port not in (*tunnel, SSH)],
        "-o": _ports(rule for rule in rules.of(model.NAT, "OUTPUT") if _returns(rule, model.DestinationPort)),
        "-x": [
            network
            for network in _networks(
                rule for rule in rules.of(model.NAT, "OUTPUT") if _returns(rule, model.Destination)
            )
            if not network.startswith("127.") and network != "::1/128"
        ],
        "-i": _included(rules.of(model.NAT, "OUTPUT")),
        "-q": _ports(rule for rule in rules.of(model.NAT, "OUTPUT") if _jumps_to(rule, "REDIRECT")),
        "-c": [
            match.name
            for rule in rules.built_in(model.PREROUTING)
            if _returns(rule, model.InInterface)
            for match in rule.matches
            if isinstance(match, model.InInterface)
        ],
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


def _all(rule: model.Rule, kind: type) -> list[model.Match]:
    return [match for match in rule.matches if isinstance(match, kind)]


def _returns(rule: model.Rule, kind: type) -> bool:
    """Return whether a rule leaves something alone by nothing but this, and a protocol."""
    others = {type(match).__name__ for match in rule.matches} - {kind.__name__, "Protocol"}
    return isinstance(rule.verdict, model.Return) and bool(_all(rule, kind)) and not others


def _jumps_to(rule: model.Rule, name: str) -> bool:
    return isinstance(rule.verdict, model.Jump) and _short(rule.verdict.chain) == name


def _ports(rules: Iterable[model.Rule]) -> list[str]:
    spans = [span for rule in rules for m in rule.matches if isinstance(m, model.DestinationPort) for span in m.ports]
    return list(dict.fromkeys(map(str, spans)))


def _networks(rules: Iterable[model.Rule]) -> list[str]:
    return [str(n) for rule in rules for m in rule.matches if isinstance(m, model.Destination) for n in m.networks]


def _included(rules: list[model.Rule]) -> list[str]:
    captured = [rule for rule in rules if _jumps_to(rule, "REDIRECT") and not _all(rule, model.DestinationPort)]
    return _networks(captured) or (["'*'"] if captured else [])


def _ids(rules: list[model.Rule], kind: type[model.OwnerUid | model.OwnerGid]) -> list[str]:
    """Return the users or groups of the proxy: those whose calls to their own pod are captured."""
    own = [rule for rule in rules if _jumps_to(rule, "IN_REDIRECT")]
    return [str(span) for rule in own for m in rule.matches if isinstance(m, kind) for span in m.ids]


def _sent_to(rules: Iterable[model.Rule], kind: type[model.Redirect | model.TransparentProxy]) -> list[str]:
    return [str(rule.verdict.port) for rule in rules if isinstance(rule.verdict, kind)]
