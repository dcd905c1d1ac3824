"""What this host, kernel and namespace can do, and what is there. Gathering facts changes no rules.

The kernel may load a module. Nothing here makes a table, and no legacy program is started in a namespace without
legacy tables: it would make them, and the next detection would answer differently.
"""

from __future__ import annotations

from capture.backends.iptables.tables import VARIANTS, families_here, has_legacy, legacy_tables
from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.listing import FoundTable, read_tables
from capture.backends.nf_tables.names import HOOKS, MODEL_TABLES
from capture.backends.request import BackendRequest, flavours_allowed
from capture.errors import KernelError, PrivilegeError, UnsupportedError
from capture.model.addresses import FAMILY_BY_NUMBER, FAMILY_NUMBERS, IPV4, IPV6, Family
from capture.model.chain_names import is_own_chain
from capture.model.ruleset import OUTPUT, PREROUTING, TABLES, TABLES_BY_NAME, Ruleset, TableName
from capture.model.values import Value
from capture.netlink.nfnetlink import has_extension, open_nfnetlink, read_generation
from capture.system.netns import is_own_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from typing import Literal

    from capture.backends.needed_modules import Flavour
    from capture.backends.nf_tables.listing import FoundFlavour

    ProgramKey = tuple[str, str, str]
    LegacySupport = Literal["present", "loadable", "absent", "unknown"]


class LiveChain(Value):
    """A live chain of the namespace. ``family`` is "ipv4", "ipv6" or "inet".

    ``uses`` counts the rules in it and, outside of legacy, the jumps to it.
    """

    flavour: FoundFlavour
    family: str
    table: str
    chain: str
    uses: int

    @property
    def is_own(self) -> bool:
        """Return whether the chain is our own or upstream's: by its name, or by the table it is in."""
        return self.table in MODEL_TABLES if self.flavour == "nftables" else is_own_chain(self.chain)


NONE_LACKING: Mapping[Flavour, UnsupportedError] = {}


class HostFacts(Value):
    """What this host, kernel and namespace can do, and what is live in the namespace.

    None is a fact that a missing privilege hides.
    """

    programs: dict[ProgramKey, str]
    """The paths of iptables-nft-save and the like, as far as they are installed: by variant, family and purpose."""
    ipv6: bool
    """The kernel has IPv6."""
    has_nf_tables: bool | None
    """The kernel has nf_tables: what nftables and iptables-nft need."""
    has_nft_compat: bool | None
    """nf_tables takes matches and targets of iptables (module nft_compat): what iptables-nft needs."""
    legacy: LegacySupport
    """The kernel has legacy tables: present in the kernel, to be loaded on use, absent, or unknown."""
    legacy_tables: tuple[tuple[Family, str], ...]
    """The legacy tables that exist in the namespace."""
    chains: tuple[LiveChain, ...]
    """All chains in tables that we might use, of all flavours that could be read."""
    has_python_iptables: bool
    """The package python-iptables is installed for this interpreter: what the driver iptc needs."""
    has_libnftables: bool
    """The bindings of libnftables are installed for this interpreter: what the driver libnftables needs."""
    has_own_users: bool = True
    """The network namespace belongs to our user namespace; that of a pod with ``hostUsers: false`` does not."""
    hindrance: str = ""
    """What keeps the tables of iptables-nft from having our rules, in words: a dormant table, a foreign chain."""
    lacking: Mapping[Flavour, UnsupportedError] = NONE_LACKING
    """Flavours that need modules which this kernel is known not to have, or may not load, with the error for them."""

    def uses(self, flavour: Flavour, *, own: bool = False) -> int:
        """Return how many rules, and jumps to chains, a flavour has; with ``own``, those of the capture."""
        return sum(chain.uses for chain in self.chains if chain.flavour == flavour and (chain.is_own or not own))


def gather_facts(request: BackendRequest | None = None, desired: Ruleset | None = None) -> HostFacts:
    """Return the facts of the host and of the namespace we are in, without what a request does not need."""
    nf_tables, nft_compat, chains, hindrance = _read_nf_tables(desired)
    try:
        tables = tuple((family, table) for family in families_here() for table in legacy_tables(family))
    except PrivilegeError:
        tables = ()
    flavours = FLAVOURS_BY_PREFERENCE if request is None else flavours_allowed(request)
    is_open = "nftables" in flavours[1:]
    is_in_doubt = is_open or flavours[0] == "legacy" or nf_tables is False or nft_compat is False
    lacking = dict(_errors_of_lacking(desired, flavours)) if is_in_doubt else {}
    # Our own netlink messages need nothing that is installed.
    only_netlink = request is not None and not tables and request.driver in ("", "netlink")
    if request is not None and request.backend != "nftables":
        only_netlink = only_netlink and request.variant in ("", "nft") and nft_compat is True and not lacking
    programs = {} if only_netlink else dict(_installed_programs())
    has_python_iptables = not only_netlink and _is_importable("iptc")
    return HostFacts(
        programs=programs,
        ipv6=IPV6 in families_here(),
        has_nf_tables=nf_tables,
        has_nft_compat=nft_compat,
        legacy="unknown" if only_netlink else _legacy_support(),
        legacy_tables=tables,
        chains=(*chains, *_legacy_chains(tables, programs, has_python_iptables=has_python_iptables)),
        has_python_iptables=has_python_iptables,
        has_libnftables=not only_netlink and _is_importable("nftables"),
        has_own_users=is_own_user_namespace(),
        hindrance=hindrance,
        lacking=lacking,
    )


def _errors_of_lacking(
    desired: Ruleset | None, flavours: tuple[Flavour, ...]
) -> Iterator[tuple[Flavour, UnsupportedError]]:
    """Yield which of the flavours lack modules. If the first one does not, the others are not read: it takes time."""
    from capture.backends.needed_modules import needed_modules  # where a request leaves the backend open
    from capture.system.kernel_modules import look_up_modules

    families = families_here() if desired is None else desired.families
    for flavour in flavours:
        lacking = look_up_modules(needed_modules(desired, families, flavour)).lacking
        if lacking:
            from capture.backends.missing_modules import cannot_load, remedy_for

            yield flavour, UnsupportedError(cannot_load(lacking), remedy_for(lacking))
        elif flavour == flavours[0]:
            return


def _installed_programs() -> Iterator[tuple[ProgramKey, str]]:
    from capture.backends.iptables.programs import find_iptables  # where a request leaves the backend open

    for variant in VARIANTS:
        for family in families_here():
            for purpose in PURPOSES:
                path = find_iptables(variant, family, purpose)
                if path is not None:
                    yield (variant, family, purpose), path


FLAVOURS_BY_PREFERENCE: tuple[Flavour, ...] = ("nft", "legacy", "nftables")

PURPOSES: tuple[Literal["save", "restore"], ...] = ("save", "restore")


def _read_nf_tables(desired: Ruleset | None) -> tuple[bool | None, bool | None, tuple[LiveChain, ...], str]:
    try:
        with open_nfnetlink() as netfilter:
            read_generation(netfilter)
            tables = read_tables(netfilter)
            hindrance = next(_hindrances(tables, [table.name for table in desired.tables] if desired else TABLES), "")
            try:  # with the owner match
                takes_matches = has_extension(netfilter, FAMILY_NUMBERS[IPV4], "match", "owner", 1)
            except (KernelError, UnsupportedError):
                takes_matches = False
            return True, takes_matches, tuple(_live_chains(tables)), hindrance
    except UnsupportedError:
        return False, False, (), ""
    except PrivilegeError:
        return None, None, (), ""


def _hindrances(tables: Iterable[FoundTable], needed: Collection[TableName]) -> Iterator[str]:
    """Yield why tables with the names of iptables' do not work as those that iptables-nft makes."""
    for table in tables:
        if table.flavour == "nft" and table.name in needed:
            shown = f"{nf.NFT_FAMILIES[table.family]} {table.name}"
            if table.is_dormant:
                yield f"table {shown} is dormant"
            for chain in table.chains:
                if chain.name in (PREROUTING, OUTPUT) and chain.hook != HOOKS[TABLES_BY_NAME[table.name], chain.name]:
                    where = f"the chain {chain.name} of table {shown}"
                    yield f"{where} is not the one that iptables has ({chain.hook or 'not hooked'})"


def _live_chains(tables: Iterable[FoundTable]) -> Iterator[LiveChain]:
    for table in tables:
        if table.flavour:
            family = FAMILY_BY_NUMBER.get(table.family, "inet")
            yield from (LiveChain(table.flavour, family, table.name, chain.name, chain.uses) for chain in table.chains)


def _legacy_support() -> LegacySupport:
    if has_legacy(IPV4):
        return "present"
    from capture.system import kernel_modules  # where a request leaves the backend open

    inventory = kernel_modules.look_up_modules(("iptable_nat",))
    if not inventory.is_indexed:
        return "unknown"
    return "absent" if inventory.lacking or not kernel_modules.can_load_modules() else "loadable"


def _legacy_chains(
    tables: tuple[tuple[Family, str], ...], programs: Collection[ProgramKey], *, has_python_iptables: bool
) -> Iterator[LiveChain]:
    """Yield the chains of legacy tables that exist; of those that cannot be read here, none."""
    if not any(table in TABLES for _, table in tables):
        return
    families = dict.fromkeys(family for family, _ in tables)
    if all(("legacy", family, "save") in programs for family in families):
        from capture.backends.iptables.restore import RestoreDriver  # few namespaces have legacy tables

        live = RestoreDriver("legacy").read()
    elif has_python_iptables:
        from capture.backends.iptables.iptc_driver import IptcDriver  # costs a third of a second

        live = IptcDriver().read()
    else:
        return
    for table in live.tables:
        for chain in table.chains:
            for family in families:
                rules = sum(1 for _ in chain.rules_for(family))
                if rules or is_own_chain(chain.name):
                    yield LiveChain("legacy", family, table.name, chain.name, rules)


def _is_importable(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    from _frozen_importlib_external import PathFinder  # what importlib.machinery offers, loaded anyway

    return PathFinder.find_spec(package) is not None
