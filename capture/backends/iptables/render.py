"""From rules to the arguments of ip(6)tables; pure. The opposite of ``parse``.

They are in the words and the order of iptables-save: what we write is what is read back. Rules have at most one entry
of each list (``expansion``), except for a few ports and what is excluded::

    several ports           -m multiport ! --dports 53,15008      up to 15 entries each (xt_multiport.h)
    several users           -m owner ! --uid-owner 3 -m owner ! --uid-owner 4
    several networks        ! -d 10.0.0.0/8 -m iprange ! --dst-range 172.16.0.0-172.31.255.255

Text is quoted as iptables-save quotes it. No value can end its argument: what cannot be quoted (a line
break, a chain that is called like an option) is refused with ValueError.
"""

from __future__ import annotations

from capture.backends.iptables.expansion import (
    bits_text,
    changed_bits,
    comment_text,
    expanded,
    multiport_slots,
    ports_text,
)
from capture.model import ruleset as model
from capture.model.addresses import ANY_ADDRESS, Family, Network, address_text
from capture.model.text import without_line_ends

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from capture.analysis.compare import Difference
    from capture.analysis.culprits import Obstacle
    from capture.backends.iptables.plan import TableEdit

MAX_LOG_PREFIX_BYTES = 29
"""linux/netfilter/xt_LOG.h, without the closing NUL."""

UNQUOTED_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
"""The characters that iptables-save prints without quotes (xtables_save_string in libxtables)."""


def rule_text(rule: model.Rule) -> str:
    """Return the arguments of a rule of one family and without lists, as iptables-save prints them after the chain."""
    if rule.family is None:
        raise ValueError(f"a rule is written for one family: {rule}")
    words = [*_own_options(rule.matches), *_extension_texts(rule.matches)]
    if rule.why:
        words.append(f"-m comment --comment {quoted(comment_text(rule.why))}")
    target = _target_text(rule.verdict, rule.family)
    return " ".join([*words, target] if target else words)


def option_text(negated: int, name: str, value: object = None) -> str:
    """Return an option, ``! --dport 53``; some have no value."""
    words = f"! {name}" if negated else name
    return words if value is None else f"{words} {word(str(value))}"


def _own_options(matches: tuple[model.Match, ...]) -> Iterator[str]:
    """Yield the options that need no extension, in the order of iptables-save."""
    for kind, name in ((model.Source, "-s"), (model.Destination, "-d")):
        for network, negated in _address_options(matches, kind)[0]:
            yield option_text(negated, name, network)
    for interface_kind, name in ((model.InInterface, "-i"), (model.OutInterface, "-o")):
        for match in matches:
            if isinstance(match, interface_kind):
                if match.name == "!":
                    raise ValueError("an interface called '!' cannot be named in iptables: it reads as 'not'")
                yield option_text(match.negated, name, match.name)
    yield from (f"-p {match.name}" for match in matches if isinstance(match, model.Protocol))


def _extension_texts(matches: tuple[model.Match, ...]) -> Iterator[str]:
    """Yield the matches that need an extension, in the order of the rule; ports come first, together."""
    yield from _port_texts(matches)
    for kind, name in ((model.Source, "--src-range"), (model.Destination, "--dst-range")):
        for network, negated in _address_options(matches, kind)[1]:  # for which -s and -d have no room
            ends = (address_text(network.family, end) for end in (network.first, network.last))
            yield f"-m iprange {option_text(negated, name, '-'.join(ends))}"
    for match in matches:
        if isinstance(match, model.OwnerMatch):
            name = "--uid-owner" if isinstance(match, model.OwnerUid) else "--gid-owner"
            yield from (f"-m owner {option_text(match.negated, name, span)}" for span in match.ids)
        elif isinstance(match, model.MarkMatch):
            extension = "mark" if isinstance(match, model.Mark) else "connmark"
            yield f"-m {extension} {option_text(match.negated, '--mark', bits_text(match.value, match.mask))}"
        elif isinstance(match, model.ConnectionState):
            yield f"-m conntrack {option_text(match.negated, '--ctstate', ','.join(match.states))}"
        elif isinstance(match, model.UnknownMatch):
            yield match.text


def _port_texts(matches: tuple[model.Match, ...]) -> Iterator[str]:
    """Yield single ports as options of the protocol's extension, and excluded lists by multiport."""
    protocol = next((match.name for match in matches if isinstance(match, model.Protocol)), None)
    ports = [match for match in matches if isinstance(match, model.PortMatch)]
    if not ports:
        return
    if protocol is None:
        raise ValueError(f"ports without a protocol: {ports}")
    ports.sort(key=lambda match: isinstance(match, model.DestinationPort))  # as iptables-save: --sport, then --dport
    named = [("--sport" if isinstance(match, model.SourcePort) else "--dport", match) for match in ports]
    single = [(name, match) for name, match in named if len(match.ports) == 1]
    options = [option_text(match.negated, name, ports_text(match.ports)) for name, match in single]
    if len(single) == 2 and all(match.negated for _, match in single):
        # iptables-nft up to 1.8.9 compares both in one piece, which excludes the pair and not each of them
        yield from (f"-m {protocol} {each}" for each in options)
    elif options:
        yield f"-m {protocol} {' '.join(options)}"
    for name, match in named:
        if len(match.ports) > 1:
            for slots in multiport_slots(match.ports):
                yield f"-m multiport {option_text(match.negated, f'{name}s', ports_text(slots))}"


def _address_options(
    matches: tuple[model.Match, ...], kind: type[model.AddressMatch]
) -> tuple[list[tuple[Network, bool]], list[tuple[Network, bool]]]:
    """Return the network for ``-s`` or ``-d``, if any, and those beyond it, each with whether it is excluded.

    iptables-nft 1.8.9 fails on ``! -s 0.0.0.0/0``, so that is not for ``-s``.
    """
    named = [(network, match.negated) for match in matches if isinstance(match, kind) for network in match.networks]
    own = 0 if named and named[0][0].is_everything and named[0][1] else 1
    return named[:own], named[own:]


def _target_text(verdict: model.Verdict, family: Family) -> str:
    """Return the target of a verdict; nothing for a rule that only counts."""
    if isinstance(verdict, model.UnknownVerdict):
        return verdict.text if isinstance(verdict.then, model.Goto) else f"-j {verdict.text}"
    target = TARGET_WRITERS[type(verdict)](verdict, family)
    return f"-j {target}" if target else ""


def _log_text(verdict: model.Log, _family: Family) -> str:
    if len(verdict.prefix.encode()) > MAX_LOG_PREFIX_BYTES:
        raise ValueError(f"a log prefix has at most {MAX_LOG_PREFIX_BYTES} bytes: {verdict.prefix!r}")
    return f"LOG --log-prefix {quoted(verdict.prefix)}" if verdict.prefix else "LOG"


def _changed_bits(value: int, mask: int) -> str:
    return f"{changed_bits(value, mask):#x}/{mask:#x}"


ALL_MARK_BITS = f"--nfmask {model.ALL_BITS:#x} --ctmask {model.ALL_BITS:#x}"

TARGET_WRITERS: dict[type, Callable[[Any, Family], str]] = {
    model.Return: lambda _verdict, _family: "RETURN",
    model.Accept: lambda _verdict, _family: "ACCEPT",
    model.Drop: lambda _verdict, _family: "DROP",
    model.Continue: lambda _verdict, _family: "",
    model.Jump: lambda verdict, _family: verdict.chain,
    model.Redirect: lambda verdict, _family: f"REDIRECT --to-ports {verdict.port}",
    model.TransparentProxy: lambda verdict, family: (
        f"TPROXY --on-port {verdict.port} --on-ip {ANY_ADDRESS[family]}"
        f" --tproxy-mark {_changed_bits(verdict.mark, verdict.mask)}"
    ),
    model.SetMark: lambda verdict, _family: f"MARK --set-xmark {_changed_bits(verdict.value, verdict.mask)}",
    model.SaveMark: lambda _verdict, _family: f"CONNMARK --save-mark {ALL_MARK_BITS}",
    model.RestoreMark: lambda _verdict, _family: f"CONNMARK --restore-mark {ALL_MARK_BITS}",
    model.SetZone: lambda verdict, _family: f"CT --zone {verdict.zone}" if verdict.zone else "CT",
    model.Log: _log_text,
}


def quoted(text: str) -> str:
    """Return free text as iptables-save prints it (xtables_save_string)."""
    text = without_line_ends(text)  # a line end would begin another rule
    if text and UNQUOTED_CHARACTERS.issuperset(text):
        return text
    escaped = "".join(f"\\{character}" if character in "\"'\\" else character for character in text)
    return f'"{escaped}"'


def word(text: str) -> str:
    """Return a value as iptables-save prints it: bare, unless it would not be read as one word then."""
    if text and not any(character.isspace() or character in "\"'\\" for character in text):
        return text
    return quoted(text)


def differing_rule(foreign: Difference | Obstacle) -> str:
    """Return the rule that differs in its own words, such as those of nft(8), else as ``shown_rule``."""
    return (foreign.rule and foreign.rule.why) or shown_rule(foreign.rule, foreign.family)


def shown_rule(rule: model.Rule | None, family: Family) -> str:
    """Return a rule as iptables-save would print it, of many there the first one; without a rule, the policy."""
    if rule is None:
        return "the policy DROP"
    single, *further = expanded([rule.replace(family=family, why="")], family)
    try:
        text = rule_text(single) or "(any packet)"
    except ValueError as error:  # live rules may have what iptables has no words for
        return f"({error})"
    return f"{text} (and {len(further)} more like it)" if further else text


def save_text(ruleset: model.Ruleset, family: Family, *, counters: bool = False, comments: bool = False) -> str:
    """Return the rule set of one family in the format of iptables-save, with or without counters.

    What was never counted is shown as [0:0]. With ``comments``, reasons are comments; those of a rule set that was read
    are the comments in the kernel.
    """
    lines: list[str] = []
    for table in ruleset.tables:
        lines.append(f"*{table.name}")
        built_in = model.BUILT_IN_CHAINS[table.name]
        for chain in table.chains:
            policy = (chain.policy_for(family) or "ACCEPT") if chain.name in built_in else "-"
            lines.append(f":{chain.name} {policy} {_counters_text(chain.counters_for(family))}")
        for chain in table.chains:
            for rule in expanded(chain.rules, family):
                before = f"{_counters_text(rule.counters)} " if counters else ""
                shown = rule if comments else rule.replace(why="")
                lines.append(f"{before}-A {chain.name} {rule_text(shown)}".rstrip())
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def restore_text(edits: Iterable[TableEdit]) -> str:
    """Return what to feed to ``iptables-restore --noflush`` for table edits of one family.

    There a line ``:CHAIN - [0:0]`` creates one of our chains, or empties the one that is there (iptables-restore(8));
    built-in chains are not declared, so that their policies and counters stay. What is between ``*table`` and
    ``COMMIT`` happens at once, or not at all.
    """
    lines: list[str] = []
    for edit in edits:
        lines.append(f"*{edit.table}")
        lines += [f":{chain} - [0:0]" for chain in (*edit.rewritten_chains, *edit.dropped_chains)]
        for chain, rules in edit.rewritten_chains.items():
            lines += [f"-A {chain} {rule_text(rule)}".rstrip() for rule in rules]
        lines += [f"-D {chain} {position + 1}" for chain, position in edit.removals]
        for chain, position, rule in edit.insertions:
            where = f"-A {chain}" if position is None else f"-I {chain} {position + 1}"
            lines.append(f"{where} {rule_text(rule)}".rstrip())
        lines += [f"-X {chain}" for chain in edit.dropped_chains]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def _counters_text(counters: model.Counters | None) -> str:
    return f"[{counters.packets}:{counters.bytes}]" if counters else "[0:0]"
