"""Rules as iptables takes them: one family, one entry of each list, names and comments of limited length. Pure.

iptables has hardly any lists, so a rule with a list becomes one rule for each entry (``expanded``), except for a
few ports, and for so many that a rule each would cost seconds: these are 15 to a rule. Lists that are excluded always
stay in one rule, since "neither a nor b" takes two matches.
"""

from __future__ import annotations

from capture.analysis.canonical import MATCH_ORDER, entries_of_match, merged_match, with_entries
from capture.model import ruleset as model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from capture.model.addresses import Family

MULTIPORT_SLOTS = 15
"""Ports in one multiport match; a range takes two (linux/netfilter/xt_multiport.h)."""
MAX_XT_COMMENT_BYTES = 255
"""linux/netfilter/xt_comment.h, without the closing NUL."""
MAX_CHAIN_NAME_BYTES = 28
"""linux/netfilter/x_tables.h, XT_EXTENSION_MAXNAMELEN without the closing NUL."""

CHAIN_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:+")


def expanded(rules: Iterable[model.Rule], family: Family, *, comments: bool = True) -> Iterator[model.Rule]:
    """Yield the rules of one family, with lists spread over rules; without ``comments`` they lose their reasons.

    What a list has twice, or in adjacent pieces, comes once. Of several lists in a rule, the entries of the
    first (in the order of ``canonical.MATCH_ORDER``) change fastest; if those are ports, few or very many, they stay
    together as far as multiport can hold them.
    """
    for rule in rules:
        if rule.family is None or rule.family == family:
            for matches in _spread_matches(rule.matches):
                yield model.Rule(rule.verdict, matches, family, rule.why if comments else "", rule.counters)


def _spread_matches(matches: tuple[model.Match, ...]) -> Iterator[tuple[model.Match, ...]]:
    """Yield the matches with each list reduced to one of its entries, in all combinations."""
    if not any(map(_is_list, matches)):
        yield matches
        return
    matches = tuple(merged_match([match]) if _is_list(match) else match for match in matches)
    lists = [match for match in matches if _is_list(match)]
    if not lists:
        yield matches
        return
    slowest = max(lists, key=lambda match: MATCH_ORDER[type(match)])
    parts = [with_entries(slowest, (entry,)) for entry in entries_of_match(slowest)]
    is_medium = model.MAX_SINGLE_RULES < len(parts) <= model.MAX_SEPARATE_PORTS
    if len(lists) == 1 and isinstance(slowest, model.PortMatch) and not is_medium:
        parts = [slowest.replace(ports=tuple(ports)) for ports in multiport_slots(slowest.ports)]
    for part in parts:
        with_part = tuple(part if match is slowest else match for match in matches)
        yield from _spread_matches(with_part) if len(lists) > 1 else [with_part]


def _is_list(match: model.Match) -> bool:
    """Return whether a match has several entries; an excluded list is one match."""
    return len(entries_of_match(match)) > 1 and not match.negated


def multiport_slots(ports: tuple[model.Span, ...]) -> Iterator[list[model.Span]]:
    """Yield the ports in as few lists as multiport can hold."""
    list_of_ports: list[model.Span] = []
    room = MULTIPORT_SLOTS
    for span in ports:
        needed = 1 if span.first == span.last else 2
        if needed > room:
            yield list_of_ports
            list_of_ports, room = [], MULTIPORT_SLOTS
        list_of_ports.append(span)
        room -= needed
    yield list_of_ports


def ports_text(ports: Iterable[model.Span]) -> str:
    """Return ports in the words of iptables, ``80,1000:2000``."""
    return ",".join(str(span).replace("-", ":") for span in ports)


def bits_text(value: int, mask: int) -> str:
    """Return a mark that is compared, with its mask unless that is of all bits."""
    return f"{value:#x}" if mask == model.ALL_BITS else f"{value:#x}/{mask:#x}"


def changed_bits(value: int, mask: int) -> int:
    """Return a mark to set. Raise ValueError for bits outside of its mask, which the kernel would flip."""
    if value & ~mask:
        raise ValueError(f"mark {value:#x} has bits outside of its mask {mask:#x}")
    return value


def comment_text(why: str) -> str:
    """Return a reason as the kernel takes it: one line, at most 255 bytes of UTF-8."""
    line = "".join(character if character.isprintable() else " " for character in why)
    return line.encode()[:MAX_XT_COMMENT_BYTES].decode(errors="ignore")


def check_writable(chain: str, rules: Iterable[model.Rule]) -> None:
    """Raise ValueError for what can be shown but not written: words of others, names that are no chain's."""
    _check_chain_name(chain)
    for rule in rules:
        if isinstance(rule.verdict, model.UnknownVerdict) or any(
            isinstance(match, model.UnknownMatch) for match in rule.matches
        ):
            raise ValueError(f"a foreign rule can be kept, but not written: {rule}")
        if isinstance(rule.verdict, model.Jump):
            _check_chain_name(rule.verdict.chain)


def _check_chain_name(name: str) -> None:
    if not name or name[0] == "-" or not CHAIN_NAME.issuperset(name) or len(name) > MAX_CHAIN_NAME_BYTES:
        raise ValueError(f"not the name of a chain: {name!r}")
