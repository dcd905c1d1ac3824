"""Foreign matches and verdicts in the words of iptables, as its decoder reads them."""

from capture.backends.iptables.parse import parse_matches, parse_rule, parse_verdict, split_words
from capture.model.addresses import IPV4
from capture.model.ruleset import Match, Verdict


def foreign_match(words: str) -> Match:
    """Return the match of an option, or of an extension with its options: ``-m statistic --mode random``."""
    (match,) = parse_matches(split_words(words))
    return match


def foreign_verdict(words: str) -> Verdict:
    """Return what a target does, or ``-g CHAIN``."""
    if words.startswith("-g "):
        return parse_rule(f"-A CHAIN {words}", IPV4, ())[1].verdict
    return parse_verdict(split_words(f"-j {words}"))
