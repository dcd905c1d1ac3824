"""iptables by netlink against iptables-nft itself: what either writes, the kernel cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings

from capture.addresses import FAMILIES
from capture.backends.iptables.netlink import NetlinkDriver
from capture.backends.iptables.restore import RestoreDriver
from capture.model import Destination, DestinationPort, OwnerGid, OwnerUid, Rule, Ruleset, Source, SourcePort
from capture.netlink.attributes import attribute, decode
from capture.netlink.nfnetlink import NFPROTO_UNSPEC, open_netfilter, read_objects
from pytest_netns import Namespace, NamespaceFactory
from strategies import rulesets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model import Match

pytestmark = pytest.mark.kernel

NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE = 1, 4, 7  # linux/netfilter/nf_tables.h
NFTA_TABLE_HANDLE = 4

NOTHING = Ruleset(FAMILIES, ())

in_one_namespace = settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def ours(module_netns: NamespaceFactory) -> Namespace:
    return module_netns("ours")


@pytest.fixture(scope="module")
def theirs(module_netns: NamespaceFactory) -> Namespace:
    return module_netns("theirs")


def kernel_state(namespace: Namespace) -> list[tuple[int, bytes]]:
    """Return all tables, chains and rules as the kernel dumps them, handles included but those of tables."""
    with namespace.call(open_netfilter) as netfilter:
        return [
            (family, b"".join(attribute(kind, value) for kind, value in without_table_handle(message, attributes)))
            for message in (NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE)
            for family, attributes in read_objects(netfilter, message, NFPROTO_UNSPEC, b"", "dump")
        ]


def without_table_handle(message: int, attributes: bytes) -> Iterator[tuple[int, bytes]]:
    """A namespace numbers its tables, and goes on counting when they are gone."""
    for kind, value in decode(attributes):
        if (message, kind) != (NFT_MSG_GETTABLE, NFTA_TABLE_HANDLE):
            yield kind, value


def listings(namespace: Namespace) -> list[str]:
    """Return what the programs print, without the time."""
    commands = [
        ["iptables-nft-save", "-c"],
        ["ip6tables-nft-save", "-c"],
        *([program, "-t", table, "-nvL"] for program in ("iptables-nft", "ip6tables-nft") for table in ("nat", "mangle", "raw")),
        ["nft", "list", "ruleset"],
    ]
    return [
        "".join(line for line in namespace.run(command).stdout.splitlines(keepends=True) if not line.startswith("#"))
        for command in commands
    ]


MOST_EXCLUDED = 10


def is_list(match: Match) -> bool:
    """Return whether a match excludes a list of entries, each of which takes a match of iptables."""
    return isinstance(match, Source | Destination | OwnerUid | OwnerGid) and match.negated


def said_wrongly_by_iptables(rule: Rule) -> bool:
    """Return whether iptables 1.8.9 cannot write a rule, or writes another one.

    It has the kernel compare no bytes for ``! -s 0.0.0.0/0``, which the kernel refuses, and compares two excluded
    ports in one piece, which excludes the pair and not each of them. Rules of more than 4 kB, which exclude dozens
    of networks, are refused by the kernel, and lines of more than 255 words by iptables-restore.
    """
    if any(len(getattr(match, match.__match_args__[0])) > MOST_EXCLUDED for match in rule.matches if is_list(match)):
        return True
    first: dict[type, Source | Destination] = {}
    for match in rule.matches:
        if isinstance(match, Source | Destination):
            first.setdefault(type(match), match)
    excluded = {
        type(match)
        for match in rule.matches
        if isinstance(match, SourcePort | DestinationPort) and match.negated and len(match.ports) == 1
    }
    excludes_everything = any(match.negated and match.networks[0].is_everything for match in first.values())
    return excludes_everything or excluded == {SourcePort, DestinationPort}


def with_rules_of_iptables(ruleset: Ruleset) -> Ruleset:
    """Return the rule set without what iptables says wrongly."""
    return ruleset.replace(
        tables=tuple(
            table.replace(
                chains=tuple(
                    chain.replace(rules=tuple(rule for rule in chain.rules if not said_wrongly_by_iptables(rule)))
                    for chain in table.chains
                )
            )
            for table in ruleset.tables
        )
    )


@in_one_namespace
@given(ruleset=rulesets().map(with_rules_of_iptables))
def test_the_kernel_holds_the_same_as_after_iptables_restore(
    ours: Namespace, theirs: Namespace, ruleset: Ruleset
) -> None:
    for namespace, driver in ((ours, NetlinkDriver()), (theirs, RestoreDriver("nft"))):
        namespace.run(["nft", "flush", "ruleset"])
        namespace.call(driver.write, ruleset, NOTHING, None)
    assert kernel_state(ours) == kernel_state(theirs)
