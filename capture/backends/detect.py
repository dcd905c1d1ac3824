"""Which backend, driver and variant: facts first, then one decision that says its reason.

Facts are gathered by reading only. Nothing here makes a table, and no legacy program is started in a
namespace without legacy tables: it would make them, and the next detection would answer differently.
``choose`` is pure. Its rules, when nothing is requested:

1. iptables where it can be used, since people look with ``iptables -t nat -nvL``; else nftables. In a network
   namespace of another user namespace (a pod with ``hostUsers: false``) nftables, unless sets of ours are in
   iptables there: iptables takes the owner match only from a process in that user namespace.
2. Within iptables the variant that has rules of ours, or else any rules; else nft, else legacy.

What is requested is taken, or refused with what is missing; never replaced by something else.
"""

from __future__ import annotations

from capture.backends.iptables.tables import VARIANTS, families_here, has_legacy, legacy_tables
from capture.backends.nf_tables.constants import (
    NFPROTO_INET,
    NFT_MSG_GETCHAIN,
    NFTA_CHAIN_NAME,
    NFTA_CHAIN_TABLE,
)
from capture.backends.nftables.names import MODEL_TABLES
from capture.errors import ConfigurationError, KernelError, PrivilegeError, UnsupportedError
from capture.model.addresses import IPV4, IPV6
from capture.model.chain_names import is_our_chain, spelling_of
from capture.model.ruleset import TABLES
from capture.model.values import Value
from capture.netlink.attributes import decode_fields, decode_number, decode_text
from capture.netlink.nfnetlink import (
    COMPAT_MATCH,
    NFPROTO_UNSPEC,
    ask_for_extension,
    open_netfilter,
    read_generation,
    read_objects,
)
from capture.state.netns import is_of_this_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Literal

    from capture.backends.iptables.tables import Variant
    from capture.backends.kernel_modules import Way
    from capture.model.addresses import Family
    from capture.model.chain_names import Spelling
    from capture.model.ruleset import Ruleset
    from capture.netlink.sockets import NetlinkSocket

    Place = Literal["nft", "legacy", "native"]
    LegacySupport = Literal["present", "loadable", "absent", "unknown"]

NFTA_CHAIN_USE = 6  # linux/netfilter/nf_tables.h: how many rules are in a chain and jump to it
NFPROTO_IPV4, NFPROTO_IPV6 = 2, 10  # linux/netfilter.h
NFPROTO_FAMILIES: dict[int, Family] = {NFPROTO_IPV4: IPV4, NFPROTO_IPV6: IPV6}

DRIVERS: dict[str, tuple[str, ...]] = {
    "iptables": ("netlink", "restore", "iptc"),
    "nftables": ("netlink", "libnftables"),
}
"""The drivers of each backend, the best first."""
VARIANTS_OF: dict[str, tuple[Variant, ...]] = {"netlink": ("nft",), "restore": VARIANTS, "iptc": ("legacy",)}
"""The variants of iptables that a driver knows."""


class Request(Value):
    """What was requested; "auto" and "" leave the choice to us."""

    backend: str = "auto"
    driver: str = ""
    variant: str = ""


class Decision(Value):
    """The way that is taken: ``variant`` is "nft" or "legacy" of iptables, and "" of nftables."""

    not_compared = ("reason", "is_empty", "own_users")

    backend: str
    driver: str
    variant: Variant | Literal[""]
    reason: str = ""
    is_empty: bool = False
    """Whether there is no chain at all where the rules will go, so that nothing needs to be read there."""
    own_users: bool = True
    """Whether the network namespace belongs to our user namespace, so that iptables can be told from here."""


class Leftover(Decision):
    """Where a set of ours, or of upstream's, is, and the driver that can remove it."""

    families: tuple[str, ...] = ()
    """"ipv4" and "ipv6"; "inet" is both."""
    spellings: tuple[Spelling, ...] = ()


class Program(Value):
    """One of iptables' programs that is installed."""

    variant: Variant
    family: Family
    purpose: str
    path: str


class LiveChain(Value):
    """A live chain of the namespace. ``family`` is "ipv4", "ipv6" or "inet".

    ``uses`` counts the rules in it and, outside of legacy, the jumps to it.
    """

    place: Place
    family: str
    table: str
    chain: str
    uses: int

    @property
    def is_ours(self) -> bool:
        """Return whether the chain is ours or upstream's: by its name, or by the table it is in."""
        return self.table in MODEL_TABLES if self.place == "native" else is_our_chain(self.chain)


class Facts(Value):
    """What this host, kernel and namespace can do, and what is live in the namespace.

    A bool of None could not be found out, for want of a privilege.
    """

    programs: tuple[Program, ...]
    """iptables-nft-save and the like, as far as they are installed."""
    ipv6: bool
    """The kernel has IPv6."""
    nf_tables: bool | None
    """The kernel has nf_tables: what nftables and iptables-nft need."""
    nft_compat: bool | None
    """nf_tables takes matches and targets of iptables (module nft_compat): what iptables-nft needs."""
    legacy: LegacySupport
    """The kernel has legacy tables: present in the kernel, to be loaded on use, absent, or unknown."""
    legacy_tables: tuple[tuple[Family, str], ...]
    """The legacy tables that exist in the namespace."""
    chains: tuple[LiveChain, ...]
    """All chains in tables that we might use, of all places that could be read."""
    python_iptables: bool
    """The package python-iptables is installed for this interpreter: what the driver iptc needs."""
    libnftables: bool
    """The bindings of libnftables are installed for this interpreter: what the driver libnftables needs."""
    own_users: bool = True
    """The network namespace belongs to our user namespace; that of a pod with ``hostUsers: false`` does not."""
    lacking: tuple[tuple[Way, tuple[str, ...]], ...] = ()
    """The modules that each way needs and this kernel is known not to have, or may not load; of other ways, none."""

    def uses(self, place: Place, *, ours: bool = False) -> int:
        """Return how many rules are in a place, or of ours there."""
        return sum(chain.uses for chain in self.chains if chain.place == place and (chain.is_ours or not ours))


def decide(request: Request, desired: Ruleset | None = None) -> Decision:
    """Return the way to take in the namespace we are in, for a rule set or for any.

    Raises ConfigurationError for a request that contradicts itself, UnsupportedError for one that this host or
    kernel cannot fulfil.
    """
    return look(request, desired)[0]


def look(request: Request, desired: Ruleset | None = None) -> tuple[Decision, tuple[Leftover, ...]]:
    """Return the way to take, and where sets of ours are already; raises as ``decide``.

    Programs and packages are looked for only where they matter to the request or to what is live.
    """
    facts = gather(request, desired)
    try:
        decision = choose(facts, request)
    except UnsupportedError as error:
        if facts.lacking:
            raise  # and they are named
        from capture.backends.kernel_modules import explained  # where something failed

        raise explained(error, desired, _ways_allowed(request)[0]) from error
    place = decision.variant or "native"
    is_empty = all(chain.place != place for chain in facts.chains)
    return decision.replace(is_empty=is_empty, own_users=facts.own_users), find_leftovers(facts)


def leftovers() -> tuple[Leftover, ...]:
    """Return where sets of ours are in the namespace we are in. Raise PrivilegeError if we may not know."""
    facts = gather()
    if facts.nf_tables is None:
        raise PrivilegeError("list the rules of this network namespace")
    return find_leftovers(facts)


def without_kernel(request: Request) -> Decision:
    """Return the way that a request names, where nothing is to be touched; by default that of most hosts.

    Raises ConfigurationError for a request that contradicts itself.
    """
    backend = _requested_backend(request)
    if backend == "nftables":
        return Decision("nftables", request.driver or "netlink", "", "requested")
    variant: Variant = "legacy" if request.variant == "legacy" or request.driver == "iptc" else "nft"
    driver = request.driver or next(driver for driver in DRIVERS["iptables"] if variant in VARIANTS_OF[driver])
    return Decision("iptables", driver, variant, "requested" if backend else "the default")


# --- facts ---------------------------------------------------------------------------------------


def gather(request: Request | None = None, desired: Ruleset | None = None) -> Facts:
    """Return the facts of the host and of the namespace we are in, without what a request does not need. Reads only."""
    nf_tables, nft_compat, chains = _ask_nf_tables()
    tables = tuple((family, table) for family in families_here() for table in _legacy_tables(family))
    ways = BY_PREFERENCE if request is None else _ways_allowed(request)
    is_open = "nftables" in ways[1:]
    is_in_doubt = is_open or ways[0] == "legacy" or nf_tables is False or nft_compat is False
    lacking = tuple(_lacking(desired, ways)) if is_in_doubt else ()
    has_compat = nft_compat is True and not lacking
    own_users = is_of_this_user_namespace()
    if request is not None and not tables and _needs_nothing_installed(request, has_compat=has_compat):
        return Facts(
            programs=(),
            ipv6=IPV6 in families_here(),
            nf_tables=nf_tables,
            nft_compat=nft_compat,
            legacy="unknown",
            legacy_tables=(),
            chains=chains,
            python_iptables=False,
            libnftables=False,
            own_users=own_users,
            lacking=lacking,
        )
    programs = tuple(_installed_programs())
    has_python_iptables = _is_importable("iptc")
    return Facts(
        programs=programs,
        ipv6=IPV6 in families_here(),
        nf_tables=nf_tables,
        nft_compat=nft_compat,
        legacy=_legacy_support(),
        legacy_tables=tables,
        chains=(*chains, *_legacy_chains(tables, programs, has_python_iptables=has_python_iptables)),
        python_iptables=has_python_iptables,
        libnftables=_is_importable("nftables"),
        own_users=own_users,
        lacking=lacking,
    )


def _needs_nothing_installed(request: Request, *, has_compat: bool) -> bool:
    """Return whether a request comes to our own netlink messages, whatever programs and packages there are."""
    if request.driver not in ("", "netlink"):
        return False
    return request.backend == "nftables" or (request.variant in ("", "nft") and has_compat)


def _lacking(desired: Ruleset | None, ways: tuple[Way, ...]) -> Iterator[tuple[Way, tuple[str, ...]]]:
    """Yield which of the ways lack modules. If the first one does not, the others are not looked at: it takes time."""
    from capture.backends.kernel_modules import look_up, needed  # not needed where a request leaves nothing open

    families = families_here() if desired is None else desired.families
    for way in ways:
        lacking = look_up(needed(desired, families, way)).lacking
        if lacking:
            yield way, lacking
        elif way == ways[0]:
            return


def _ways_allowed(request: Request) -> tuple[Way, ...]:
    """Return the ways that a request leaves open, the first choice first."""
    backend = _requested_backend(request)
    if backend == "nftables":
        return ("nftables",)
    fitting = VARIANTS_OF.get(request.driver, VARIANTS)
    variants = tuple(variant for variant in VARIANTS if variant in fitting and request.variant in ("", variant))
    return variants if backend else (*variants, "nftables")


BY_PREFERENCE: tuple[Way, ...] = ("nft", "legacy", "nftables")


def _installed_programs() -> Iterator[Program]:
    from capture.backends.iptables.programs import find  # not needed where a request leaves nothing open

    for variant in VARIANTS:
        for family in families_here():
            for purpose in PURPOSES:
                path = find(variant, family, purpose)
                if path is not None:
                    yield Program(variant, family, purpose, path)


PURPOSES: tuple[Literal["save", "restore"], ...] = ("save", "restore")


def _ask_nf_tables() -> tuple[bool | None, bool | None, tuple[LiveChain, ...]]:
    """Return whether the kernel has nf_tables and nft_compat, and the chains of nf_tables."""
    try:
        with open_netfilter() as netfilter:
            read_generation(netfilter)
            return True, takes_matches(netfilter), tuple(_nf_tables_chains(netfilter))
    except UnsupportedError:
        return False, False, ()
    except PrivilegeError:
        return None, None, ()


def takes_matches(netfilter: NetlinkSocket) -> bool:
    """Return whether nf_tables takes matches of iptables; tried with the owner match. Raises PrivilegeError."""
    try:
        ask_for_extension(netfilter, NFPROTO_IPV4, COMPAT_MATCH, "owner", 1)
    except (KernelError, UnsupportedError):
        return False
    return True


def _nf_tables_chains(netfilter: NetlinkSocket) -> Iterator[LiveChain]:
    """Yield the chains of the tables that iptables-nft has, and of our native ones."""
    chains = read_objects(netfilter, NFT_MSG_GETCHAIN, NFPROTO_UNSPEC, b"", "list the chains of nf_tables")
    for protocol_family, attributes in chains:
        fields = decode_fields(attributes)
        table, chain = decode_text(fields[NFTA_CHAIN_TABLE]), decode_text(fields[NFTA_CHAIN_NAME])
        uses = decode_number(fields.get(NFTA_CHAIN_USE, b""))
        if protocol_family in NFPROTO_FAMILIES and table in TABLES:
            yield LiveChain("nft", NFPROTO_FAMILIES[protocol_family], table, chain, uses)
        elif protocol_family == NFPROTO_INET and table in MODEL_TABLES:
            yield LiveChain("native", "inet", table, chain, uses)


def _legacy_tables(family: Family) -> tuple[str, ...]:
    try:
        return legacy_tables(family)
    except PrivilegeError:
        return ()


def _legacy_support() -> LegacySupport:
    """Return whether the kernel has legacy tables, or could load them."""
    if has_legacy(IPV4):
        return "present"
    from capture.backends.kernel_modules import can_load, look_up  # not needed where a request leaves nothing open

    inventory = look_up(("iptable_nat",))
    if not inventory.is_indexed:
        return "unknown"
    return "absent" if inventory.lacking or not can_load() else "loadable"


def _legacy_chains(
    tables: tuple[tuple[Family, str], ...], programs: Iterable[Program], *, has_python_iptables: bool
) -> Iterator[LiveChain]:
    """Yield the chains of legacy tables that exist; of those that cannot be read here, none."""
    if not any(table in TABLES for _, table in tables):
        return
    families = dict.fromkeys(family for family, _ in tables)
    if all(_has(programs, "legacy", family, "save") for family in families):
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
                if rules or is_our_chain(chain.name):
                    yield LiveChain("legacy", family, table.name, chain.name, rules)


def _is_importable(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    from _frozen_importlib_external import PathFinder  # what importlib.machinery offers, loaded anyway

    return PathFinder.find_spec(package) is not None


def _has(programs: Iterable[Program], variant: str, family: str, purpose: str) -> bool:
    return any((p.variant, p.family, p.purpose) == (variant, family, purpose) for p in programs)


# --- the decision --------------------------------------------------------------------------------


def choose(facts: Facts, request: Request) -> Decision:
    """Return the way to take, from facts and a request. Pure; raises as ``decide``."""
    backend = _requested_backend(request)
    if backend == "nftables":
        return _nftables(facts, request.driver or "netlink", "requested")
    if not backend and not facts.own_users and facts.nf_tables and not _has_own_in_iptables(facts):
        return _nftables(facts, request.driver or "netlink", OTHER_USERS)
    obstacles: dict[tuple[str, str], list[str]] = {}
    for driver, variant in _iptables_ways(facts, request):
        obstacle = _obstacle(facts, driver, variant, certain=not backend)
        if obstacle is None:
            reason = "; ".join((_why_variant(facts, request, variant), *_in_words(obstacles)))
            return Decision("iptables", driver, variant, reason)
        obstacles.setdefault((variant, obstacle), []).append(driver)
    in_the_way = "; ".join(_in_words(obstacles))
    if backend == "iptables":
        raise UnsupportedError(f"iptables cannot be used here: {in_the_way}", _remedy(facts, obstacles))
    try:
        return _nftables(facts, request.driver or "netlink", f"iptables cannot be used here: {in_the_way}")
    except UnsupportedError as error:
        raise UnsupportedError(
            f"neither backend can be used here. {in_the_way}; nftables: {error.message}", error.remedy
        ) from error


def _remedy(facts: Facts, obstacles: dict[tuple[str, str], list[str]]) -> str:
    """Return what to do about the obstacles: what helps the best variant first, if it is known to lack modules."""
    lacking = dict(facts.lacking)
    for variant, _ in obstacles:
        if variant in lacking:
            from capture.backends.kernel_modules import remedy_for  # where something failed

            return f"{remedy_for(lacking[variant])} Or leave the choice open (--backend auto)."
    return "Install or load what is missing, or leave the choice open (--backend auto)."


def _in_words(obstacles: dict[tuple[str, str], list[str]]) -> Iterator[str]:
    """Yield what keeps variants of iptables from being used, and with which drivers."""
    for (variant, obstacle), drivers in obstacles.items():
        yield f"{', '.join(drivers)} ({variant}): {obstacle}"


def _requested_backend(request: Request) -> str:
    """Return the backend that a request names or implies; "" if it leaves it open. ConfigurationError if it is torn."""
    requested = "" if request.backend == "auto" else request.backend
    implied = [backend for backend, drivers in DRIVERS.items() if request.driver in drivers]
    if requested and request.driver and requested not in implied:
        expected = f"{' or '.join(DRIVERS[requested])} with the backend {requested}"
        raise ConfigurationError("--driver", request.driver, "--driver", expected)
    backend = requested or (implied[0] if len(implied) == 1 else "")
    if request.variant and backend == "nftables":
        expected = "nothing, because nftables has no variants; or the backend iptables"
        raise ConfigurationError("--force-iptables-binary", request.variant, "--force-iptables-binary", expected)
    backend = "iptables" if request.variant else backend
    if backend == "iptables" and request.variant and request.variant not in VARIANTS_OF.get(request.driver, VARIANTS):
        fitting = " or ".join(driver for driver, variants in VARIANTS_OF.items() if request.variant in variants)
        raise ConfigurationError(
            "--driver", request.driver, "--driver", f"{fitting} for the variant {request.variant} of iptables"
        )
    return backend


def _iptables_ways(facts: Facts, request: Request) -> Iterator[tuple[str, Variant]]:
    """Yield driver and variant, the best first, as far as the request allows."""
    for variant in _variants_in_order(facts):
        for driver in DRIVERS["iptables"]:
            fits = request.driver in ("", driver) and request.variant in ("", variant)
            if fits and variant in VARIANTS_OF[driver]:
                yield driver, variant


def _variants_in_order(facts: Facts) -> list[Variant]:
    """Return the variants: first those with rules of ours, then those with any, then nft."""
    return sorted(VARIANTS, key=lambda variant: (not facts.uses(variant, ours=True), not facts.uses(variant)))


def _why_variant(facts: Facts, request: Request, variant: Variant) -> str:
    if request.variant:
        return "requested"
    if facts.uses(variant, ours=True):
        return f"our rules are in iptables-{variant}"
    if facts.uses(variant):
        return f"rules are in iptables-{variant}"
    return f"iptables-{variant} can be used, and the other variant has no rules"


def _obstacle(facts: Facts, driver: str, variant: Variant, *, certain: bool) -> str | None:
    """Return what keeps a way of iptables from being taken; None if nothing does.

    ``certain``: a kernel that might have legacy tables does not count as one that has.
    """
    lacking = dict(facts.lacking).get(variant)
    if lacking:
        return f"this kernel cannot load the module {', '.join(lacking)}"
    if variant == "nft" and facts.nf_tables is False:
        return "this kernel has no nf_tables"
    if variant == "nft" and facts.nft_compat is False:
        return "nf_tables of this kernel takes no matches of iptables (module nft_compat, or xt_owner)"
    if variant == "legacy" and facts.legacy == "absent":
        return "this kernel has no legacy tables (modules ip_tables, iptable_nat)"
    if variant == "legacy" and facts.legacy == "unknown" and certain and facts.nf_tables is not False:
        return "cannot tell whether this kernel supports legacy tables: none is loaded, and /lib/modules is missing"
    if driver == "iptc" and not facts.python_iptables:
        return "the package python-iptables is not installed"
    return _missing_program(facts, variant) if driver == "restore" else None


OTHER_USERS = (
    "this network namespace belongs to another user namespace (a pod with hostUsers: false); nftables can be told from"
    " here, while iptables takes its owner match only from a process in that one"
)
"""``owner_check`` in net/netfilter/xt_owner.c; nft's ``meta skuid`` has no such condition."""


def _has_own_in_iptables(facts: Facts) -> bool:
    return any(facts.uses(variant, ours=True) for variant in VARIANTS)


def _missing_program(facts: Facts, variant: Variant) -> str | None:
    families: tuple[Family, ...] = (IPV4, IPV6) if facts.ipv6 else (IPV4,)
    for family in families:
        for purpose in PURPOSES:
            if not _has(facts.programs, variant, family, purpose):
                return f"{'iptables' if family == IPV4 else 'ip6tables'}-{variant}-{purpose} is not installed"
    return None


def _nftables(facts: Facts, driver: str, reason: str) -> Decision:
    lacking = dict(facts.lacking).get("nftables")
    if lacking:
        from capture.backends.kernel_modules import remedy_for

        raise UnsupportedError(f"this kernel cannot load the module {', '.join(lacking)}", remedy_for(lacking))
    if facts.nf_tables is False:
        raise UnsupportedError(
            "this kernel has no nf_tables", "Load the module nf_tables, or use the legacy variant of iptables."
        )
    if driver == "libnftables" and not facts.libnftables:
        raise UnsupportedError(
            "the bindings of libnftables are not installed",
            "Install python3-nftables or the extra [libnftables]; the driver netlink needs neither.",
        )
    return Decision("nftables", driver, "", reason)


# --- leftovers -----------------------------------------------------------------------------------


def find_leftovers(facts: Facts) -> tuple[Leftover, ...]:
    """Return the places that have sets of ours or of upstream's, in either spelling; pure."""
    found = []
    for place in PLACES:
        ours = [chain for chain in facts.chains if chain.place == place and chain.is_ours]
        if ours:
            families = tuple(dict.fromkeys(chain.family for chain in ours))
            spellings = tuple(dict.fromkeys(spelling for chain in ours if (spelling := spelling_of(chain.chain))))
            found.append(_leftover(facts, place, families, spellings).replace(own_users=facts.own_users))
    return tuple(found)


PLACES: tuple[Place, ...] = ("nft", "legacy", "native")


def _leftover(facts: Facts, place: Place, families: tuple[str, ...], spellings: tuple[Spelling, ...]) -> Leftover:
    reason = "our chains are there"
    if place == "native":
        return Leftover("nftables", "netlink", "", reason, families=families, spellings=spellings)
    if place == "nft":
        return Leftover("iptables", "netlink", place, reason, families=families, spellings=spellings)
    has_programs = all(_has(facts.programs, place, family, purpose) for family in families for purpose in PURPOSES)
    driver = "iptc" if not has_programs and facts.python_iptables else "restore"
    return Leftover("iptables", driver, place, reason, families=families, spellings=spellings)
