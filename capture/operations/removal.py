"""How a foreign rule is removed, for the remedies of ``why``: by its number with iptables, by its handle with nft."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import join, quote

from capture.backends import load_driver
from capture.backends.detect import BackendChoice
from capture.backends.foreign_chains import FURTHER_TABLES
from capture.backends.iptables.programs import PROGRAM_NAMES
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.listing import read_rules
from capture.backends.nf_tables.names import BASE_CHAIN_NAMES, NATIVE_TABLE_NAMES
from capture.model.addresses import IPV4, IPV6, Family
from capture.model.chain_names import is_own_chain
from capture.model.location import Cause, Location
from capture.model.ruleset import TABLES_BY_NAME
from capture.netlink.attributes import decode_fields, decode_number, decode_text
from capture.netlink.nfnetlink import open_nfnetlink
from capture.operations.arguments import Namespace

REMOVABLE_KINDS = ("foreign-rule", "nat-first", "filtered", "rerouted")
"""Causes that are foreign rules."""
WRITERS = {"kube-": "kube-proxy or kubelet", "cilium": "Cilium", "cali": "Calico", "docker": "Docker", "ufw": "ufw"}
"""Programs by how the names of their chains or tables begin."""
FAMILIES_OF_TABLES: dict[str, Family] = {"ip": IPV4, "ip6": IPV6}


def with_removals(causes: Iterable[Cause], choice: BackendChoice, namespace: Namespace) -> tuple[Cause, ...]:
    """Return the causes, with the command that removes each foreign rule as part of its remedy.

    ``choice`` is where our live rules are. The number of a rule changes when one before it is removed, so that only the
    first one of a chain gets a command by number.
    """
    entering = f"nsenter --net={quote(str(namespace))} " if namespace else ""
    numbered: set[Location] = set()

    def with_removal(cause: Cause) -> Cause:
        where = cause.where
        if cause.kind not in REMOVABLE_KINDS or not isinstance(where, Location) or is_own_chain(where.chain):
            return cause
        if not where.position:  # a policy
            return cause.replace(remedy=f"{cause.remedy}{_writer_text(cause)}")
        command = _removal_command(where, choice)
        is_stable = command.startswith("nft") or where.chain_location not in numbered
        numbered.add(where.chain_location)
        with_command = f": `{entering}{command}`" if command and is_stable else ""
        return cause.replace(
            remedy=f"{cause.remedy}{_writer_text(cause)} If nothing needs the rule, remove it{with_command}."
        )

    return tuple(map(with_removal, causes))


def _writer_text(cause: Cause) -> str:
    """Return whose rule it seems to be, in a sentence."""
    text = f"{cause.message} {cause.where}".lower()
    return next((f" It looks like a rule of {name}." for start, name in WRITERS.items() if f" {start}" in text), "")


def _removal_command(rule: Location, choice: BackendChoice) -> str:
    """Return the command that removes a rule; "" if the rule is gone meanwhile."""
    table, of_iptables, variant = rule.table.partition(" of iptables")
    kind, _, name = table.partition(" ")
    own, is_further = TABLES_BY_NAME.get(table), name in FURTHER_TABLES
    if own and not of_iptables and choice.backend == "nftables":
        chain = load_driver(choice).read().chain(own, rule.chain)
        numbers = [n for n, each in enumerate(chain.rules if chain else (), 1) if each.family in (None, rule.family)]
        position = dict(enumerate(numbers, 1)).get(rule.position, 0)
        native_chain = BASE_CHAIN_NAMES.get(rule.chain, rule.chain)
        return _deletion_by_handle("inet", NATIVE_TABLE_NAMES[own], native_chain, position)
    family = FAMILIES_OF_TABLES.get(kind) if is_further else rule.family
    if family is None or (name and not is_further):
        return _deletion_by_handle(kind, name, rule.chain, rule.position)
    variant = variant.lstrip("-") or ("nft" if name or of_iptables else choice.variant)
    return join((f"{PROGRAM_NAMES[family]}-{variant}", "-t", name or table, "-D", rule.chain, str(rule.position)))


def _deletion_by_handle(kind: str, table: str, chain: str, position: int) -> str:
    number = next(number for number, name in nf.NFT_FAMILIES.items() if name == kind)
    with open_nfnetlink() as netfilter:
        rules = [decode_fields(attributes) for attributes in read_rules(netfilter, number, table)]
    in_chain = [rule for rule in rules if decode_text(rule[nf.NFTA_RULE_CHAIN]) == chain]
    if not 0 < position <= len(in_chain):
        return ""
    handle = decode_number(in_chain[position - 1][nf.NFTA_RULE_HANDLE])
    return join(("nft", "delete", "rule", kind, table, chain, "handle", str(handle)))
