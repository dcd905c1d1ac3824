"""Which backend, driver and variant: facts first, then one choice with its reason.

``choose`` is pure. Its rules, when nothing is requested:

1. iptables where it can be used, since people look with ``iptables -t nat -nvL``; else nftables. In a network
   namespace of another user namespace (a pod with ``hostUsers: false``) nftables, unless our sets are in
   iptables there: iptables takes the owner match only from a process in that user namespace. nftables, too, where
   tables of iptables-nft are not as iptables makes them: dormant, or with a foreign chain where ours would be.
2. Within iptables the variant that has our rules, or else any rules; else nft, else legacy.

What is requested is taken, or refused with what is missing; never replaced by something else.
"""

from __future__ import annotations

from capture.backends.host_facts import FLAVOURS_BY_PREFERENCE, PURPOSES, HostFacts, gather_facts
from capture.backends.iptables.tables import VARIANTS
from capture.backends.request import DRIVERS, VARIANTS_BY_DRIVER, BackendRequest, flavours_allowed, requested_backend
from capture.errors import MissingFeatureError, PrivilegeError, UnsupportedError
from capture.model.addresses import FAMILIES, IPV4
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from capture.backends.iptables.tables import Variant
    from capture.model.ruleset import Ruleset


class BackendChoice(Value):
    """A backend, a driver and a variant: the last is "nft" or "legacy" of iptables, and "" of nftables."""

    not_compared = ("reason",)

    backend: str
    driver: str
    variant: Variant | Literal[""]
    reason: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Return where in the kernel the rules live, with any driver."""
        return self.backend, self.variant

    @property
    def place_text(self) -> str:
        """Return the place in words: "iptables-nft", "nftables"."""
        return f"{self.backend}-{self.variant}".rstrip("-")


class SetLocation(Value):
    """Where a set of our own or of upstream's is."""

    choice: BackendChoice
    """Its place, and the driver that can remove it."""
    families: tuple[str, ...] = ()
    """"ipv4" and "ipv6"; "inet" is both."""


class Detected(Value):
    """The choice for a request, and what is in the namespace already."""

    choice: BackendChoice
    live_sets: tuple[SetLocation, ...]
    """Sets of our own and of upstream's."""
    is_empty: bool
    """There is no chain at all where the rules will go, so that nothing needs to be read there."""
    has_own_users: bool
    """The network namespace belongs to our user namespace, so that iptables can be written from here."""
    has_reject_table: bool
    """The table that rejects the other family may be there."""


def detect(request: BackendRequest, desired: Ruleset | None = None) -> Detected:
    """Return the choice in the namespace we are in, for a rule set or for any, and where our sets are already.

    Programs and packages are looked for only where they matter to the request or to what is live.

    Raises ConfigurationError for a request that contradicts itself, UnsupportedError for one that this host or
    kernel cannot fulfil.
    """
    facts = gather_facts(request, desired)
    try:
        choice = choose(facts, request)
    except UnsupportedError as error:
        if facts.lacking:
            raise  # the error names them
        from capture.backends.missing_modules import with_missing_modules  # where something failed

        raise with_missing_modules(error, desired, flavours_allowed(request)[0]) from error
    used = {chain.flavour for chain in facts.chains}
    return Detected(
        choice,
        live_sets_in(facts),
        is_empty=(choice.variant or "nftables") not in used,
        has_own_users=facts.has_own_users,
        has_reject_table="reject" in used,
    )


def find_live_sets() -> tuple[SetLocation, ...]:
    """Return where our sets are in the namespace we are in. Raise PrivilegeError if we may not know."""
    facts = gather_facts(BackendRequest("nftables", "netlink"))  # no programs and packages, without legacy tables
    if facts.has_nf_tables is None:
        raise PrivilegeError("list the rules of this network namespace")
    return live_sets_in(facts)


def choose_without_kernel(request: BackendRequest) -> BackendChoice:
    """Return the choice that a request names, where nothing is to be touched; by default that of most hosts.

    Raises ConfigurationError for a request that contradicts itself.
    """
    backend = requested_backend(request)
    if backend == "nftables":
        return BackendChoice("nftables", request.driver or "netlink", "", "requested")
    variant: Variant = "legacy" if request.variant == "legacy" or request.driver == "iptc" else "nft"
    driver = request.driver or next(driver for driver in DRIVERS["iptables"] if variant in VARIANTS_BY_DRIVER[driver])
    return BackendChoice("iptables", driver, variant, "requested" if backend else "the default")


def choose(facts: HostFacts, request: BackendRequest) -> BackendChoice:
    """Return the choice, from facts and a request. Pure; raises as ``detect``."""
    backend = requested_backend(request)
    reason = "requested" if backend == "nftables" else "" if backend else _why_not_iptables(facts)
    if reason:
        return _choose_nftables(facts, request, reason)
    unusable: dict[tuple[Variant, str], list[str]] = {}
    lacks_feature = False
    for driver, variant in _iptables_drivers(facts, request):
        feature = _missing_feature(facts, variant, certain=not backend)
        why = feature or _missing_program(facts, driver, variant)
        if why is None:
            reason = "; ".join((_why_variant(facts, request, variant), *_unusable_reasons(unusable)))
            return BackendChoice("iptables", driver, variant, reason)
        unusable.setdefault((variant, why), []).append(driver)
        lacks_feature = lacks_feature or feature is not None
    reasons = "; ".join(_unusable_reasons(unusable))
    kind = MissingFeatureError if lacks_feature else UnsupportedError
    if backend:
        # What helps the best variant, if it is known to lack modules.
        remedy = next((facts.lacking[variant].remedy for variant, _ in unusable if variant in facts.lacking), "")
        first = f"{remedy} Or" if remedy else "Install or load what is missing, or"
        raise kind(f"iptables cannot be used here: {reasons}", f"{first} leave the choice open (--backend auto).")
    try:
        return _choose_nftables(facts, request, f"iptables cannot be used here: {reasons}")
    except UnsupportedError as error:
        message = f"neither backend can be used here. {reasons}; nftables: {error.message}"
        raise kind(message, error.remedy) from error


def _why_not_iptables(facts: HostFacts) -> str:
    """Return why nftables is the better choice though iptables may be usable; "" if it is not."""
    if facts.hindrance and not facts.uses("legacy"):
        return f"iptables-nft cannot be used here: {facts.hindrance}"
    has_own_in_iptables = any(facts.uses(variant, own=True) for variant in VARIANTS)
    return OTHER_USERS_REASON if not facts.has_own_users and facts.has_nf_tables and not has_own_in_iptables else ""


def _unusable_reasons(unusable: dict[tuple[Variant, str], list[str]]) -> Iterator[str]:
    for (variant, why), drivers in unusable.items():
        yield f"{', '.join(drivers)} (iptables-{variant}): {why}"


def _iptables_drivers(facts: HostFacts, request: BackendRequest) -> Iterator[tuple[str, Variant]]:
    """Yield driver and variant, the best first, as far as the request allows."""
    # First those with our rules, then those with any, then nft.
    order = sorted(VARIANTS, key=lambda variant: (not facts.uses(variant, own=True), not facts.uses(variant)))
    for variant in order:
        for driver in DRIVERS["iptables"]:
            fits = request.driver in ("", driver) and request.variant in ("", variant)
            if fits and variant in VARIANTS_BY_DRIVER[driver]:
                yield driver, variant


def _why_variant(facts: HostFacts, request: BackendRequest, variant: Variant) -> str:
    if request.variant:
        return "requested"
    if facts.uses(variant, own=True):
        return f"our rules are in iptables-{variant}"
    if facts.uses(variant):
        return f"rules are in iptables-{variant}"
    has_rules = any(map(facts.uses, VARIANTS))  # in the other variant, which cannot be used
    return f"iptables-{variant} can be used{'' if has_rules else ', and the other variant has no rules'}"


def _missing_feature(facts: HostFacts, variant: Variant, *, certain: bool) -> str | None:
    """Return what a variant of iptables needs, and the kernel lacks; None if it has all.

    ``certain``: a kernel that might have legacy tables does not count as one that has.
    """
    if variant in facts.lacking:
        return facts.lacking[variant].message
    if variant == "nft" and facts.has_nf_tables is False:
        return "this kernel has no nf_tables"
    if variant == "nft" and facts.has_nft_compat is False:
        return "nf_tables of this kernel takes no matches of iptables (module nft_compat, or xt_owner)"
    if variant == "legacy" and facts.legacy == "absent":
        return "this kernel has no legacy tables (modules ip_tables, iptable_nat)"
    if variant == "legacy" and facts.legacy == "unknown" and certain and facts.has_nf_tables is not False:
        return "cannot tell whether this kernel supports legacy tables: none is loaded, and /lib/modules is missing"
    return None


def _missing_program(facts: HostFacts, driver: str, variant: Variant) -> str | None:
    """Return what a driver of iptables needs, and is not installed; None if all is."""
    if driver == "iptc" and not facts.has_python_iptables:
        return "the package python-iptables is not installed"
    for family in (FAMILIES if facts.ipv6 else (IPV4,)) if driver == "restore" else ():
        for purpose in PURPOSES:
            if (variant, family, purpose) not in facts.programs:
                return f"{'iptables' if family == IPV4 else 'ip6tables'}-{variant}-{purpose} is not installed"
    return None


OTHER_USERS_REASON = (
    "this network namespace belongs to another user namespace (a pod with hostUsers: false); nftables can be written"
    " from here, while iptables takes its owner match only from a process in that one"
)
"""``owner_check`` in net/netfilter/xt_owner.c; nft's ``meta skuid`` has no such condition."""


def _choose_nftables(facts: HostFacts, request: BackendRequest, reason: str) -> BackendChoice:
    driver = request.driver or "netlink"
    if "nftables" in facts.lacking:
        raise facts.lacking["nftables"]
    if facts.has_nf_tables is False:
        raise MissingFeatureError("this kernel has no nf_tables", "Load the module nf_tables, or use iptables-legacy.")
    if driver == "libnftables" and not facts.has_libnftables:
        raise UnsupportedError(
            "the bindings of libnftables are not installed",
            "Install python3-nftables or the extra [libnftables]; the driver netlink needs neither.",
        )
    return BackendChoice("nftables", driver, "", reason)


def live_sets_in(facts: HostFacts) -> tuple[SetLocation, ...]:
    """Return the places that have sets of our own or of upstream's, in either spelling; pure."""
    live_sets = []
    for flavour in FLAVOURS_BY_PREFERENCE:
        own = [chain.family for chain in facts.chains if chain.flavour == flavour and chain.is_own]
        families = tuple(dict.fromkeys(own))
        if families:
            has_programs = all(
                (flavour, family, purpose) in facts.programs for family in families for purpose in PURPOSES
            )
            by_program = "iptc" if not has_programs and facts.has_python_iptables else "restore"
            choice = BackendChoice("nftables", "netlink", "")
            if flavour != "nftables":
                choice = BackendChoice("iptables", by_program if flavour == "legacy" else "netlink", flavour)
            live_sets.append(SetLocation(choice, families))
    return tuple(live_sets)
