"""From rules to the arguments of ip(6)tables; pure. The opposite of ``parse``.

Arguments come as structure first (``arguments``), because python-iptables takes them one by one, and as
text after that (``rule_text``), in the words and the order of iptables-save: what we write is what is
read back. Rules have at most one entry of each list (``entries``), except for a few ports and what is
excluded::

    several ports           -m multiport ! --dports 53,15008      up to 15 entries each (xt_multiport.h)
    several users           -m owner ! --uid-owner 3 -m owner ! --uid-owner 4
    several networks        ! -d 10.0.0.0/8 -m iprange ! --dst-range 172.16.0.0-172.31.255.255

Text is quoted as iptables-save quotes it. No value can end its argument: what cannot be quoted (a line
break, a chain that is called like an option) is refused with ValueError.
"""

from __future__ import annotations

from capture.backends.iptables.entries import comment, expanded, slots
from capture.model import ruleset as model
from capture.model.addresses import IPV4, address_text
from capture.model.text import without_line_ends
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capture.model.addresses import Family, Network

MAX_LOG_PREFIX_BYTES = 29
"""linux/netfilter/xt_LOG.h, without the closing NUL."""

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
"""What iptables-save prints without quotes (xtables_save_string in libxtables)."""


class Option(Value):
    """One option of a match or target: ``! --dport 53``. Some have no value."""

    name: str
    value: str | None = None
    negated: bool = False
    quoted: bool = False
    """Whether the value is free text, which iptables-save quotes."""


class Clause(Value):
    """Options that belong together: those of one match or target, by the name of its extension.

    The options of ip(6)tables itself (``-s``, ``-p``) belong to the extension "".
    """

    extension: str
    options: tuple[Option, ...] = ()


class Foreign(Value):
    """Words of a foreign rule, as they were printed."""

    text: str


class Arguments(Value):
    """What describes a rule: its matches in order, and its target if it has one."""

    matches: tuple[Clause | Foreign, ...]
    target: Clause | Foreign | None


# --- arguments -----------------------------------------------------------------------------------


def arguments(rule: model.Rule) -> Arguments:
    """Return the arguments of a rule of one family and without lists; a reason (``why``) becomes a comment."""
    if rule.family is None:
        raise ValueError(f"a rule is written for one family: {rule}")
    clauses: list[Clause | Foreign] = []
    of_itself = tuple(_own_options(rule.matches))
    if of_itself:
        clauses.append(Clause("", of_itself))
    clauses += _extensions(rule.matches)
    if rule.why:
        clauses.append(Clause("comment", (Option("--comment", comment(rule.why), quoted=True),)))
    return Arguments(tuple(clauses), _target(rule.verdict, rule.family))


def _own_options(matches: tuple[model.Match, ...]) -> Iterator[Option]:
    """Yield the options that need no extension, in the order of iptables-save."""
    for kind, name in ((model.Source, "-s"), (model.Destination, "-d")):
        own, _ = _networks(matches, kind)
        if own is not None:
            network, negated = own
            yield Option(name, str(network), negated)
    for interface_kind, name in ((model.InInterface, "-i"), (model.OutInterface, "-o")):
        for match in matches:
            if isinstance(match, interface_kind):
                yield Option(name, _interface(match.name), match.negated)
    for match in matches:
        if isinstance(match, model.Protocol):
            yield Option("-p", match.name)


def _interface(name: str) -> str:
    if name == "!":
        raise ValueError("an interface called '!' cannot be named in iptables: it reads as 'not'")
    return name


def _extensions(matches: tuple[model.Match, ...]) -> Iterator[Clause | Foreign]:
    """Yield the matches that need an extension, in the order of the rule; ports come first, together."""
    yield from _ports(matches)
    yield from _further_networks(matches)
    for match in matches:
        if isinstance(match, model.OwnerUid | model.OwnerGid):
            option = "--uid-owner" if isinstance(match, model.OwnerUid) else "--gid-owner"
            for span in match.ids:
                yield Clause("owner", (Option(option, str(span), match.negated),))
        elif isinstance(match, model.Mark | model.ConnectionMark):
            mask = "" if match.mask == model.ALL_BITS else f"/{match.mask:#x}"
            extension = "mark" if isinstance(match, model.Mark) else "connmark"
            yield Clause(extension, (Option("--mark", f"{match.value:#x}{mask}", match.negated),))
        elif isinstance(match, model.ConnectionState):
            yield Clause("conntrack", (Option("--ctstate", ",".join(match.states), match.negated),))
        elif isinstance(match, model.UnknownMatch):
            yield Foreign(match.text)


def _ports(matches: tuple[model.Match, ...]) -> Iterator[Clause]:
    """Yield single ports as options of the protocol's extension, and excluded lists by multiport."""
    protocol = next((match.name for match in matches if isinstance(match, model.Protocol)), None)
    ports = [match for match in matches if isinstance(match, model.SourcePort | model.DestinationPort)]
    if not ports:
        return
    if protocol is None:
        raise ValueError(f"ports without a protocol: {ports}")
    ports.sort(key=lambda match: isinstance(match, model.DestinationPort))  # as iptables-save: --sport, then --dport
    single = tuple(
        Option(
            "--sport" if isinstance(match, model.SourcePort) else "--dport", _port_span(match.ports[0]), match.negated
        )
        for match in ports
        if len(match.ports) == 1
    )
    if len(single) == 2 and all(option.negated for option in single):
        # iptables-nft up to 1.8.9 compares both in one piece, which excludes the pair and not each of them
        yield from (Clause(protocol, (option,)) for option in single)
    elif single:
        yield Clause(protocol, single)
    for match in ports:
        if len(match.ports) > 1:
            option = "--sports" if isinstance(match, model.SourcePort) else "--dports"
            for some in slots(match.ports):
                yield Clause("multiport", (Option(option, ",".join(map(_port_span, some)), match.negated),))


def _port_span(span: model.Span) -> str:
    return str(span.first) if span.first == span.last else f"{span.first}:{span.last}"


def _further_networks(matches: tuple[model.Match, ...]) -> Iterator[Clause]:
    """Yield the excluded networks that ``-s`` and ``-d`` have no room for."""
    for kind, option in ((model.Source, "--src-range"), (model.Destination, "--dst-range")):
        for network, negated in _networks(matches, kind)[1]:
            yield Clause(
                "iprange",
                (
                    Option(
                        option,
                        f"{address_text(network.family, network.first)}-{address_text(network.family, network.last)}",
                        negated,
                    ),
                ),
            )


def _networks(
    matches: tuple[model.Match, ...], kind: type[model.Source | model.Destination]
) -> tuple[tuple[Network, bool] | None, list[tuple[Network, bool]]]:
    """Return the network for ``-s`` or ``-d`` and those beyond it, each with whether it is excluded.

    iptables-nft 1.8.9 fails on ``! -s 0.0.0.0/0``, so that is not for ``-s``.
    """
    named = [(network, match.negated) for match in matches if isinstance(match, kind) for network in match.networks]
    if not named or (named[0][0].is_everything and named[0][1]):
        return None, named
    return named[0], named[1:]


def _target(verdict: model.Verdict, family: Family) -> Clause | Foreign | None:
    """Return the target of a verdict; None for a rule that only counts."""
    if isinstance(verdict, model.Jump):
        return Clause(verdict.chain)
    if isinstance(verdict, model.Redirect):
        return Clause("REDIRECT", (Option("--to-ports", str(verdict.port)),))
    if isinstance(verdict, model.TransparentProxy):
        address = Option("--on-ip", "0.0.0.0" if family == IPV4 else "::")
        mark = Option("--tproxy-mark", _changed_bits(verdict.mark, verdict.mask))
        return Clause("TPROXY", (Option("--on-port", str(verdict.port)), address, mark))
    if isinstance(verdict, model.SetMark):
        return Clause("MARK", (Option("--set-xmark", _changed_bits(verdict.value, verdict.mask)),))
    if isinstance(verdict, model.SaveMark | model.RestoreMark):
        action = "--save-mark" if isinstance(verdict, model.SaveMark) else "--restore-mark"
        masks = (Option("--nfmask", f"{model.ALL_BITS:#x}"), Option("--ctmask", f"{model.ALL_BITS:#x}"))
        return Clause("CONNMARK", (Option(action), *masks))
    if isinstance(verdict, model.SetZone):
        return Clause("CT", (Option("--zone", str(verdict.zone)),) if verdict.zone else ())
    if isinstance(verdict, model.Log):
        prefix = Option("--log-prefix", _log_prefix(verdict.prefix), quoted=True)
        return Clause("LOG", (prefix,) if verdict.prefix else ())
    if isinstance(verdict, model.UnknownVerdict):
        return Foreign(verdict.text)
    return None if isinstance(verdict, model.Continue) else Clause(_STANDARD_TARGETS[type(verdict)])


_STANDARD_TARGETS: dict[type, str] = {model.Return: "RETURN", model.Accept: "ACCEPT", model.Drop: "DROP"}


def _changed_bits(value: int, mask: int) -> str:
    """Return a mark to set. The kernel flips bits of the value that are outside of the mask, which is never meant."""
    if value & ~mask:
        raise ValueError(f"mark {value:#x} has bits outside of its mask {mask:#x}")
    return f"{value:#x}/{mask:#x}"


def _log_prefix(prefix: str) -> str:
    if len(prefix.encode()) > MAX_LOG_PREFIX_BYTES:
        raise ValueError(f"a log prefix has at most {MAX_LOG_PREFIX_BYTES} bytes: {prefix!r}")
    return prefix


# --- text ----------------------------------------------------------------------------------------


def rule_text(rule: model.Rule) -> str:
    """Return the arguments of a rule of one family and without lists, as iptables-save prints them after the chain."""
    described = arguments(rule)
    words = [_clause_text(clause, "-m") for clause in described.matches]
    if described.target is not None:
        words.append(_clause_text(described.target, "-j"))
    return " ".join(words)


def _clause_text(clause: Clause | Foreign, introduction: str) -> str:
    if isinstance(clause, Foreign):
        is_target = introduction == "-j" and not clause.text.startswith("-g ")
        return f"-j {clause.text}" if is_target else clause.text
    words = [introduction, clause.extension] if clause.extension else []
    for option in clause.options:
        if option.negated:
            words.append("!")
        words.append(option.name)
        if option.value is not None:
            words.append(quoted(option.value) if option.quoted else word(option.value))
    return " ".join(words)


def quoted(text: str) -> str:
    """Return free text as iptables-save prints it (xtables_save_string)."""
    text = without_line_ends(text)  # a line end would begin another rule
    if text and PLAIN.issuperset(text):
        return text
    escaped = "".join(f"\\{character}" if character in "\"'\\" else character for character in text)
    return f'"{escaped}"'


def word(text: str) -> str:
    """Return a value as iptables-save prints it: bare, unless it would not be read as one word then."""
    if text and not any(character.isspace() or character in "\"'\\" for character in text):
        return text
    return quoted(text)


def save_text(ruleset: model.Ruleset, family: Family, *, counters: bool = False, comments: bool = False) -> str:
    """Return the rule set of one family in the format of iptables-save, with or without counters.

    What was never counted is shown as [0:0]. Reasons are comments on request; in a rule set that was read they
    have always been.
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


def _counters_text(counters: model.Counters | None) -> str:
    return f"[{counters.packets}:{counters.bytes}]" if counters else "[0:0]"
