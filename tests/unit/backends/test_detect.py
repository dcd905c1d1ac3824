"""Backend, driver and variant are chosen by what is requested, what has rules and what this kernel can."""

from __future__ import annotations

import itertools

import pytest

from capture.backends.detect import choose, choose_without_kernel, live_sets_in
from capture.backends.host_facts import HostFacts, LiveChain
from capture.backends.missing_modules import cannot_load, remedy_for
from capture.backends.request import BackendRequest
from capture.errors import ConfigurationError, MissingFeatureError, UnsupportedError
from capture.model.addresses import IPV4, IPV6
from support.captures.hosts import WITH_EVERYTHING, programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.host_facts import LegacySupport
    from capture.backends.needed_modules import Flavour

ANYTHING = BackendRequest()
LEGACY: tuple[LegacySupport, ...] = ("present", "loadable", "absent", "unknown")


WITHOUT_NF_TABLES = WITH_EVERYTHING.replace(has_nf_tables=False, has_nft_compat=False)
NATIVE = ("nftables", "netlink", "")
WITH_NOTHING = HostFacts({}, True, False, False, "absent", (), (), False, False)


def chain(flavour: Flavour, name: str = "OUTPUT", uses: int = 1, table: str = "nat", family: str = IPV4) -> LiveChain:
    """Return a chain of the namespace."""
    return LiveChain(flavour, family, table, name, uses)


def way(facts: HostFacts, request: BackendRequest = ANYTHING) -> tuple[str, str, str]:
    choice = choose(facts, request)
    assert choice.reason
    return choice.backend, choice.driver, choice.variant


class TestOtherUsers:
    """The namespace of a pod with ``hostUsers: false``."""

    FACTS = WITH_EVERYTHING.replace(has_own_users=False)

    def test_auto_takes_nftables_and_says_why(self) -> None:
        choice = choose(self.FACTS, ANYTHING)
        assert way(self.FACTS) == NATIVE
        assert choice.reason.count("hostUsers: false") == 1

    @pytest.mark.parametrize(
        "request_", [BackendRequest("iptables"), BackendRequest(driver="restore"), BackendRequest(variant="legacy")]
    )
    def test_iptables_is_taken_where_it_is_named(self, request_: BackendRequest) -> None:
        assert choose(self.FACTS, request_).backend == "iptables"

    def test_iptables_is_taken_where_our_sets_are_in_it(self) -> None:
        facts = self.FACTS.replace(chains=(chain("nft", "ISTIO-OUTPUT", 9),))
        assert way(facts) == ("iptables", "netlink", "nft")

    def test_iptables_is_taken_where_there_is_no_nf_tables(self) -> None:
        facts = self.FACTS.replace(has_nf_tables=False, has_nft_compat=False)
        assert way(facts) == ("iptables", "restore", "legacy")


class TestAuto:
    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            (WITH_EVERYTHING, ("iptables", "netlink", "nft")),
            (WITH_EVERYTHING.replace(programs={}), ("iptables", "netlink", "nft")),
            (WITH_EVERYTHING.replace(has_nft_compat=False), ("iptables", "restore", "legacy")),
            (WITHOUT_NF_TABLES, ("iptables", "restore", "legacy")),
            (WITH_EVERYTHING.replace(has_nft_compat=False, legacy="loadable"), ("iptables", "restore", "legacy")),
            (WITH_EVERYTHING.replace(has_nft_compat=False, legacy="absent"), NATIVE),
            (WITH_EVERYTHING.replace(has_nft_compat=False, programs={}), ("iptables", "iptc", "legacy")),
            (
                WITH_EVERYTHING.replace(has_nft_compat=False, programs={}, has_python_iptables=False),
                ("nftables", "netlink", ""),
            ),
            # a kernel that might have legacy tables is second to one that has nf_tables, and better than nothing
            (WITH_EVERYTHING.replace(has_nft_compat=False, legacy="unknown"), NATIVE),
            (
                WITH_EVERYTHING.replace(has_nf_tables=False, has_nft_compat=False, legacy="unknown"),
                ("iptables", "restore", "legacy"),
            ),
            # what a missing privilege hides is tried
            (WITH_EVERYTHING.replace(has_nf_tables=None, has_nft_compat=None), ("iptables", "netlink", "nft")),
        ],
    )
    def test_iptables_where_it_can_be_used(self, facts: HostFacts, expected: tuple[str, str, str]) -> None:
        assert way(facts) == expected

    @pytest.mark.parametrize(
        ("live", "variant"),
        [
            ((), "nft"),
            ((chain("legacy"),), "legacy"),
            ((chain("nft"),), "nft"),
            ((chain("nft"), chain("legacy")), "nft"),
            ((chain("nft"), chain("legacy", "ISTIO_OUTPUT")), "legacy"),
            ((chain("legacy"), chain("nft", "ISTIO-OUTPUT")), "nft"),
            ((chain("legacy", "ISTIO_OUTPUT"), chain("nft", "ISTIO-OUTPUT")), "nft"),
            ((chain("legacy", uses=0),), "nft"),
            ((chain("nftables", table="istio-proxy-nat", family="inet"),), "nft"),
        ],
    )
    def test_within_iptables_where_rules_are(self, live: tuple[LiveChain, ...], variant: str) -> None:
        assert way(WITH_EVERYTHING.replace(chains=live))[2] == variant

    def test_a_legacy_table_without_rules_says_nothing(self) -> None:
        listed_once = WITH_EVERYTHING.replace(legacy_tables=((IPV4, "nat"), (IPV6, "nat")))

        assert way(listed_once) == way(WITH_EVERYTHING)

    def test_rules_in_a_variant_that_cannot_be_used_do_not_decide(self) -> None:
        facts = WITH_EVERYTHING.replace(
            programs=programs("nft"), has_python_iptables=False, chains=(chain("legacy", "DOCKER"),)
        )

        assert way(facts) == ("iptables", "netlink", "nft")

    def test_the_programs_of_a_family_that_the_kernel_lacks_are_not_needed(self) -> None:
        facts = WITH_EVERYTHING.replace(has_nft_compat=False, programs=programs("legacy", families=[IPV4]), ipv6=False)

        assert way(facts) == ("iptables", "restore", "legacy")
        assert way(facts.replace(ipv6=True)) == ("iptables", "iptc", "legacy")

    @pytest.mark.parametrize(
        ("facts", "reason"),
        [
            (WITH_EVERYTHING.replace(chains=(chain("legacy", "ISTIO_OUTPUT"),)), "our rules are in iptables-legacy"),
            (WITH_EVERYTHING.replace(chains=(chain("nft"),)), "rules are in iptables-nft"),
            (WITH_EVERYTHING.replace(has_nft_compat=False, legacy="absent"), "takes no matches of iptables"),
            (WITH_EVERYTHING, "the other variant has no rules"),
        ],
    )
    def test_a_decision_says_its_reason(self, facts: HostFacts, reason: str) -> None:
        assert reason in choose(facts, ANYTHING).reason

    def test_a_variant_with_rules_that_cannot_be_used_does_have_rules(self) -> None:
        facts = WITH_EVERYTHING.replace(has_nft_compat=False, chains=(chain("nft"),))

        assert way(facts)[2] == "legacy"
        assert "no rules" not in choose(facts, ANYTHING).reason

    def test_where_nothing_works_everything_that_is_missing_is_named(self) -> None:
        with pytest.raises(MissingFeatureError, match=r"neither backend can be used") as caught:
            choose(WITH_NOTHING, ANYTHING)

        for missing in ("no nf_tables", "no legacy tables", "nftables:"):
            assert missing in caught.value.message

    def test_nf_tables_is_always_enough(self) -> None:
        possible = itertools.product(
            [{}, programs("nft"), programs("legacy"), programs("nft", "legacy"), programs("nft", families=[IPV4])],
            [True, False],
            [True, False, None],
            LEGACY,
            [(), (chain("legacy"),), (chain("nft"),)],
            [True, False],
        )
        for installed, ipv6, nft_compat, legacy, live, packages in possible:
            assert way(HostFacts(installed, ipv6, True, nft_compat, legacy, (), live, packages, packages))


class TestRequested:
    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            (BackendRequest("nftables"), ("nftables", "netlink", "")),
            (BackendRequest("nftables", "libnftables"), ("nftables", "libnftables", "")),
            (BackendRequest(driver="libnftables"), ("nftables", "libnftables", "")),
            (BackendRequest("iptables"), ("iptables", "netlink", "nft")),
            (BackendRequest("iptables", "restore"), ("iptables", "restore", "nft")),
            (BackendRequest(driver="restore"), ("iptables", "restore", "nft")),
            (BackendRequest(driver="restore", variant="legacy"), ("iptables", "restore", "legacy")),
            (BackendRequest(variant="legacy"), ("iptables", "restore", "legacy")),
            (BackendRequest(variant="nft"), ("iptables", "netlink", "nft")),
            (BackendRequest(driver="iptc"), ("iptables", "iptc", "legacy")),
        ],
    )
    def test_a_request_is_taken(self, request_: BackendRequest, expected: tuple[str, str, str]) -> None:
        assert way(WITH_EVERYTHING, request_) == expected

    @pytest.mark.parametrize(
        ("facts", "request_", "missing"),
        [
            (WITH_EVERYTHING.replace(has_nf_tables=False), BackendRequest("nftables"), "this kernel has no nf_tables"),
            (
                WITH_EVERYTHING.replace(has_libnftables=False),
                BackendRequest(driver="libnftables"),
                "bindings of libnftables",
            ),
            (
                WITH_EVERYTHING.replace(programs={}),
                BackendRequest(driver="restore"),
                "iptables-nft-save is not installed",
            ),
            (
                WITH_EVERYTHING.replace(programs=programs("nft", families=[IPV4])),
                BackendRequest(driver="restore", variant="nft"),
                "ip6tables-nft-save is not installed",
            ),
            (
                WITH_EVERYTHING.replace(has_python_iptables=False),
                BackendRequest(driver="iptc"),
                "python-iptables is not installed",
            ),
            (WITH_EVERYTHING.replace(legacy="absent"), BackendRequest(variant="legacy"), "no legacy tables"),
            (WITH_EVERYTHING.replace(has_nft_compat=False), BackendRequest(variant="nft"), "module nft_compat"),
        ],
    )
    def test_a_request_is_refused_with_what_is_missing(
        self, facts: HostFacts, request_: BackendRequest, missing: str
    ) -> None:
        with pytest.raises(UnsupportedError) as caught:
            choose(facts, request_)

        assert missing in caught.value.message
        assert caught.value.remedy
        assert isinstance(caught.value, MissingFeatureError) is ("installed" not in caught.value.message)

    def test_an_unknown_support_of_legacy_tables_is_named(self) -> None:
        choice = choose(WITH_EVERYTHING.replace(legacy="unknown", has_nft_compat=False), ANYTHING)

        assert choice.backend == "nftables"
        assert "cannot tell whether this kernel supports legacy tables: none is loaded" in choice.reason

    def test_a_module_that_is_missing_comes_with_what_has_it(self) -> None:
        modules: dict[Flavour, str] = {"nft": "nft_compat", "legacy": "iptable_nat"}
        lacking = {each: UnsupportedError(cannot_load((name,)), remedy_for((name,))) for each, name in modules.items()}
        facts = WITH_EVERYTHING.replace(lacking=lacking)
        for variant, module in modules.items():
            with pytest.raises(UnsupportedError, match=f"this kernel cannot load the module {module}") as caught:
                choose(facts, BackendRequest(variant=variant))
            assert f"Install the package with {module} for kernel " in caught.value.remedy

    def test_a_kernel_that_may_have_legacy_tables_is_tried(self) -> None:
        facts = WITH_EVERYTHING.replace(legacy="unknown")

        assert way(facts, BackendRequest(variant="legacy")) == ("iptables", "restore", "legacy")

    def test_the_same_way_is_taken_without_a_kernel(self) -> None:
        for backend, driver, variant in itertools.product(
            ("auto", "iptables", "nftables"), ("", "restore", "iptc", "libnftables"), ("", "nft", "legacy")
        ):
            request = BackendRequest(backend, driver, variant)
            try:
                expected = choose(WITH_EVERYTHING, request)
            except ConfigurationError as error:
                with pytest.raises(ConfigurationError, match=error.value):
                    choose_without_kernel(request)
            else:
                assert choose_without_kernel(request) == expected

    @pytest.mark.parametrize(
        ("request_", "option"),
        [
            (BackendRequest("nftables", "restore"), "--driver"),
            (BackendRequest("nftables", "iptc"), "--driver"),
            (BackendRequest("iptables", "libnftables"), "--driver"),
            (BackendRequest("nftables", "", "legacy"), "--force-iptables-binary"),
            (BackendRequest("auto", "libnftables", "nft"), "--force-iptables-binary"),
            (BackendRequest("auto", "iptc", "nft"), "--driver"),
        ],
    )
    def test_a_contradictory_request_is_bad_usage(self, request_: BackendRequest, option: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            choose(WITH_EVERYTHING, request_)

        assert caught.value.option == option


class TestLeftovers:
    def test_places_and_families(self) -> None:
        facts = WITH_EVERYTHING.replace(
            chains=(
                chain("nft", "OUTPUT"),
                chain("nft", "ISTIO_OUTPUT"),
                chain("nft", "ISTIO-INBOUND", uses=0, family=IPV6),
                chain("legacy", "ISTIO_REDIRECT", family=IPV6),
                chain("nftables", "istio-output", table="istio-proxy-nat", family="inet"),
            )
        )

        assert [(*found.choice.place, found.families) for found in live_sets_in(facts)] == [
            ("iptables", "nft", (IPV4, IPV6)),
            ("iptables", "legacy", (IPV6,)),
            ("nftables", "", ("inet",)),
        ]

    def test_chains_of_others_are_none(self) -> None:
        facts = WITH_EVERYTHING.replace(chains=(chain("nft", "OUTPUT"), chain("legacy", "DOCKER")))

        assert live_sets_in(facts) == ()

    @pytest.mark.parametrize(
        ("facts", "driver"),
        [
            (WITH_EVERYTHING, "restore"),
            (WITH_EVERYTHING.replace(programs={}), "iptc"),
            (WITH_EVERYTHING.replace(programs={}, has_python_iptables=False), "restore"),
        ],
    )
    def test_the_driver_is_one_that_can_be_used(self, facts: HostFacts, driver: str) -> None:
        (found,) = live_sets_in(facts.replace(chains=(chain("legacy", "ISTIO_OUTPUT"),)))

        assert found.choice.driver == driver
