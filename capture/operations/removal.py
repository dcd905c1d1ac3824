"""How a foreign rule is removed, for the remedies of ``why``: by its number with iptables, by its handle with nft.

A policy stays; its chain is to accept what goes to the proxy.
"""

from __future__ import annotations

import re
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
            command = _acceptance_command(cause, choice)
            ending = f" For {cause.words['port']}: `{entering}{command}`." if command else ""
        else:
            command = _removal_command(where, choice)
            is_stable = command.startswith("nft") or where.chain_location not in numbered
            numbered.add(where.chain_location)
            with_command = f": `{entering}{command}`" if command and is_stable else ""
            ending = f" If nothing needs the rule, remove it{with_command}."
        return cause.replace(remedy=f"{cause.remedy}{_writer_text(cause)}{ending}")

    return tuple(map(with_removal, causes))


def _writer_text(cause: Cause) -> str:
    """Return whose rule it seems to be, in a sentence."""
    text = f"{cause.message} {cause.where}".lower()
    return next((f" It looks like a rule of {name}." for start, name in WRITERS.items() if f" {start}" in text), "")


def _removal_command(rule: Location, choice: BackendChoice) -> str:
    """Return the command that removes a rule; "" if the rule is gone meanwhile."""
    iptables, own = _iptables_command(rule, choice), TABLES_BY_NAME.get(rule.table)
    if iptables:
        return join((*iptables, "-D", rule.chain, str(rule.position)))
    if not own:
        kind, _, name = rule.table.partition(" ")
        return _deletion_by_handle(kind, name, rule.chain, rule.position)
    chain = load_driver(choice).read().chain(own, rule.chain)
    numbers = [
        number for number, each in enumerate(chain.rules if chain else (), 1) if each.family in (None, rule.family)
    ]
    position = dict(enumerate(numbers, 1)).get(rule.position, 0)
    return _deletion_by_handle("inet", NATIVE_TABLE_NAMES[own], BASE_CHAIN_NAMES.get(rule.chain, rule.chain), position)


def _acceptance_command(policy: Cause, choice: BackendChoice) -> str:
    """Return the command by which a chain with a policy accepts the ports of the proxy; "" if it drops others."""
    where, ports = policy.where, re.findall(r"\d+", str(policy.words.get("port", "")))
    if not ports or not isinstance(where, Location):
        return ""
    protocol, iptables = str(policy.words["protocol"]), _iptables_command(where, choice)
    if iptables:
        accepted = ("-p", protocol, "-m", "multiport", "--dports", ",".join(ports), "-j", "ACCEPT")
        return join((*iptables, "-I", where.chain, *accepted))
    test = protocol, "dport", f"{{ {', '.join(ports)} }}"
    return join(("nft", "insert", "rule", *where.table.split(), where.chain, *test, "accept"))


def _iptables_command(place: Location, choice: BackendChoice) -> tuple[str, ...]:
    """Return how a command of iptables for a table begins; () where nft alone shows the table."""
    table, of_iptables, variant = place.table.partition(" of iptables")
    kind, _, name = table.partition(" ")
    is_further, is_native = name in FURTHER_TABLES, choice.backend == "nftables" and not of_iptables
    family = FAMILIES_OF_TABLES.get(kind) if is_further else place.family
    if family is None or (name and not is_further) or (is_native and table in TABLES_BY_NAME):
        return ()
    variant = variant.lstrip("-") or ("nft" if name or of_iptables else choice.variant)
    return f"{PROGRAM_NAMES[family]}-{variant}", "-t", name or table


def _deletion_by_handle(kind: str, table: str, chain: str, position: int) -> str:
    number = next(number for number, name in nf.NFT_FAMILIES.items() if name == kind)
    with open_nfnetlink() as netfilter:
        rules = [decode_fields(attributes) for attributes in read_rules(netfilter, number, table)]
    in_chain = [rule for rule in rules if decode_text(rule[nf.NFTA_RULE_CHAIN]) == chain]
    if not 0 < position <= len(in_chain):
        return ""
    handle = decode_number(in_chain[position - 1][nf.NFTA_RULE_HANDLE])
    return join(("nft", "delete", "rule", kind, table, chain, "handle", str(handle)))
