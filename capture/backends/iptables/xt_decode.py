"""From what the kernel dumps of iptables-nft's tables to rules. Pure; the inverse of ``xt_encode``, and more.

The expressions are those of nf_tables, and are run as such (``nf_tables.decode``); among them are matches and targets
of x_tables. It reads what any release of iptables-nft writes (ports by payload or by the match tcp, marks by meta or by
the match mark), and what nft(8) puts into the same tables. What the model has no words for is UnknownMatch and
UnknownVerdict: in the words of iptables-save where it has any, else in those of nft.
"""

from __future__ import annotations

from capture.analysis.canonical import MATCH_ORDER
from capture.backends.iptables import xt_text
from capture.backends.iptables.parse import join_negated, parse_matches, parse_verdict, split_words
from capture.backends.iptables.xt_encode import NEVER_MATCHING_INTERFACE
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables import lift
from capture.backends.nf_tables.comparisons import Bounds, Register
from capture.backends.nf_tables.decode import Program, decode_rule
from capture.backends.nf_tables.native import IIFNAME, L4PROTO, Among, Named
from capture.backends.nf_tables.sets import NativeSet
from capture.model import ruleset as model
from capture.model.addresses import BITS, IPV4, IPV6
from capture.model.conventions import PROTOCOL_BY_NUMBER
from capture.model.text import without_line_ends
from capture.model.values import Value
from capture.netlink.attributes import Fields, decode_fields, decode_number, decode_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.backends.nf_tables.native import Condition
    from capture.model.addresses import Family

    Extensions = dict[tuple[str, str, int, bytes], tuple[Any, ...]]
    """The matches, or the verdict, of structures of x_tables, by kind, name, revision and bytes."""

# linux/netfilter/nf_tables.h, beyond what the nftables backend needs
NFT_META_NFTRACE = 12

NO_SET = NativeSet(0, 0, (), (), is_understood=False)
"""A set whose look-ups are not understood: iptables writes none."""

# Places in headers: RFC 791 3.1, RFC 8200 3
PROTOCOL_OFFSETS: dict[Family, int] = {IPV4: 9, IPV6: 6}
"""The protocol's place in the header: ip6tables compared it there up to 1.8.2."""

"""The place of a fragment's offset in the header; ``-f`` means: not 0."""
ADDRESS_OPTIONS = dict.fromkeys(nf.SOURCE_OFFSETS.items(), "-s") | dict.fromkeys(nf.DESTINATION_OFFSETS.items(), "-d")


class FoundRule(Value):
    """A rule and the kernel's name of its chain; its handle counts like that of a chain."""

    chain: str
    handle: int
    rule: model.Rule


class RuleReader:
    """Reads the rules of one family, and remembers expressions: most are in many rules."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._known: dict[bytes, tuple[str, Fields]] = {}
        self._extensions: Extensions = {}

    def read(self, attributes: bytes) -> FoundRule:
        fields = decode_fields(attributes)
        program = XtProgram(self._family, self._extensions)
        native = decode_rule(fields, program, self._known)
        matches, _ = lift.lift_conditions(native.conditions)
        verdict, in_order = lift.lift_actions(native.actions), join_negated(sorted(matches, key=_listing_rank))
        rule = model.Rule(verdict, in_order, self._family, program.why or native.comment, native.counters)
        return FoundRule(decode_text(fields[nf.NFTA_RULE_CHAIN]), decode_number(fields[nf.NFTA_RULE_HANDLE]), rule)


FIRST_EXTENSION = MATCH_ORDER[model.SourcePort]


def _listing_rank(match: model.Match) -> int:
    """Return the place in a listing: first the options of ip(6)tables itself, then extensions in their order."""
    kind: type = type(match)
    if isinstance(match, model.UnknownMatch):
        from capture.model import foreign  # no rule of ours has one

        if isinstance(match.test, foreign.Protocols | foreign.LaterFragment):
            kind = model.Protocol
        elif isinstance(match.test, foreign.MaskedAddress):
            kind = match.test.kind
    return min(MATCH_ORDER[kind], FIRST_EXTENSION)


class XtProgram(Program):
    """The expressions of a rule, with matches and targets of x_tables among them."""

    UNDERSTOOD = Program.UNDERSTOOD | {"match", "target", "limit"}
    GOTO = "-g"

    def __init__(self, family: Family, extensions: Extensions) -> None:
        super().__init__(lambda _name: NO_SET, family)
        self.why = ""
        self._of_family = family
        self._extensions = extensions

    def meta(self, fields: Fields) -> bool:
        """``meta``: load a field, or set the mark, or trace."""
        if decode_number(fields[nf.NFTA_META_KEY]) == NFT_META_NFTRACE:
            return self._act(model.UnknownVerdict("TRACE", model.Continue()))
        return super().meta(fields)

    def match(self, fields: Fields) -> bool:
        """``match``: a match of x_tables, or a comment."""
        if decode_text(fields[nf.NFTA_MATCH_NAME]) == "comment":
            self.why = without_line_ends(decode_text(fields[nf.NFTA_MATCH_INFO]))
            return True
        for match in self._decoded_extension("match", fields):
            self._add(match)
        return True

    def target(self, fields: Fields) -> bool:
        return self._act(self._decoded_extension("target", fields)[0])

    def limit(self, fields: Fields) -> bool:
        """``limit``: the match of iptables that is an expression of nf_tables."""
        self._add(model.UnknownMatch(xt_text.limit_text(fields), is_pure=False))
        return True

    def _decoded_extension(self, kind: str, fields: Fields) -> tuple[Any, ...]:
        name, revision = decode_text(fields[nf.NFTA_MATCH_NAME]), decode_number(fields[nf.NFTA_MATCH_REV])
        key = kind, name, revision, fields[nf.NFTA_MATCH_INFO]
        if key not in self._extensions:
            is_match = kind == "match"
            clause = split_words(f"{'-m' if is_match else '-j'} {xt_text.extension_text(*key[1:], self._of_family)}")
            self._extensions[key] = tuple(parse_matches(clause)) if is_match else (parse_verdict(clause),)
        return self._extensions[key]

    def _add(self, condition: Condition) -> None:
        if isinstance(condition, Named) and condition.name.encode() + b"\0" == NEVER_MATCHING_INTERFACE:
            kind = model.InInterface if condition.field == IIFNAME else model.OutInterface
            super()._add(kind("+", not condition.negated))
        elif isinstance(condition, Among) and condition.field == L4PROTO and condition.is_single:
            number = condition.ranges[0][0]
            if number not in PROTOCOL_BY_NUMBER or condition.negated:
                words = split_words(xt_text.protocol_text(number, negated=condition.negated))
                (condition,) = parse_matches(words)
            super()._add(condition)
        else:
            super()._add(condition)

    def _comparison_bounds(self, operator: int, value: bytes) -> Bounds:
        """Return the values that a comparison is about: "less than" is "not greater or equal", as iptables means it."""
        if operator == nf.NFT_CMP_GT:
            return Bounds(bytes(len(value)), value, negated=True)
        if operator == nf.NFT_CMP_LT:
            return Bounds(value, b"\xff" * len(value), negated=True)
        return super()._comparison_bounds(operator, value)

    def _unmodelled_comparison(self, loaded: Register, bounds: Bounds) -> Condition:
        """Return a comparison that iptables has words for and the model has not."""
        header, mask, negated = loaded.header, loaded.mask, bounds.negated
        if header is None or not bounds.is_single or len(bounds.low) != header[2]:
            return super()._unmodelled_comparison(loaded, bounds)
        base, offset, length = header
        value = int.from_bytes(bounds.low, "big")
        if header == (nf.NFT_PAYLOAD_NETWORK_HEADER, PROTOCOL_OFFSETS[self._of_family], 1) and not mask:
            return Among(L4PROTO, ((value, value),), negated)
        from capture.model import foreign  # no rule of ours has one

        if (header, mask) == nf.FRAGMENT_OFFSET and self._of_family == IPV4 and not value:
            return model.UnknownMatch("-f" if negated else "! -f", foreign.LaterFragment(not negated))
        if header == nf.TCP_FLAGS:
            flags = xt_text.tcp_flags_text((mask or b"\xff")[0], value, negated=negated)
            return parse_matches(split_words(f"-m tcp {flags}"))[0]
        bits = int.from_bytes(mask, "big")
        option = ADDRESS_OPTIONS.get((self._of_family, offset)) if base == nf.NFT_PAYLOAD_NETWORK_HEADER else None
        if option and length * 8 == BITS[self._of_family] and mask and not value & ~bits:
            words = xt_text.network_text(option, self._of_family, value, bits, negated=negated)
            kind = model.Source if option == "-s" else model.Destination
            return model.UnknownMatch(words, foreign.MaskedAddress(kind))
        return super()._unmodelled_comparison(loaded, bounds)
