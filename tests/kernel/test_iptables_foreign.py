"""Foreign rules stay where they are, byte for byte, when we write, replace, clean or are killed."""

import os
import random
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture.analysis.compare import differences
from capture.model.ruleset import Ruleset
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from pytest_netns import Namespace, NamespaceFactory
from support.generators.configurations import configs
from support.rules.iptables_drivers import DRIVERS, DriverCase
from support.rules.iptables_foreign import write_foreign_rules

FOREIGN_RULES = 50
EXAMPLES = {"netlink": 8, "restore-nft": 4, "restore-legacy": 4, "iptc": 2}
"""python-iptables takes a third of a second for what the others do in ten milliseconds."""

each_driver = pytest.mark.parametrize("case", DRIVERS, ids=lambda case: case.name)


def is_recognisable(config: CaptureConfig) -> bool:
    """Return whether our rules can be distinguished from foreign ones without a record.

    A rerouted interface without a network that its traffic is captured for is ``-i eth1 -j RETURN`` alone, which may
    be a rule of any program; one that is also left alone is the same rule twice.
    """
    rerouted = set(config.rerouted_interfaces)
    named = {network.family for network in config.outbound_networks.entries}
    captured = config.outbound_networks.is_everything or named.issuperset(config.families)
    return not rerouted or (captured and not rerouted.intersection(config.excluded_interfaces))


def write(case: DriverCase, desired: Ruleset, recorded: Ruleset | None = None) -> None:
    """Make our rules those of ``desired`` in the namespace of this thread, and check that it is."""
    driver = case.driver()
    driver.write(desired, driver.read(), recorded)
    assert not differences(desired, driver.read())


def clean(case: DriverCase, recorded: Ruleset | None = None) -> None:
    driver = case.driver()
    driver.clean(driver.read(), recorded)


def in_kernel(case: DriverCase, namespace: Namespace) -> list[list[str]]:
    """Return all that is live in the namespace, as the variant's programs list it, and the tables of nf_tables."""
    nf_tables = namespace.run(["nft", "list", "chains"]).stdout.splitlines() if case.variant == "nft" else []
    return [*case.saved_in_both(namespace), nf_tables]


@each_driver
def test_random_settings_are_read_as_they_were_written_and_leave_nothing(
    netns: NamespaceFactory, case: DriverCase
) -> None:
    """Nor does what is cleaned without a record."""

    @settings(max_examples=EXAMPLES[case.name])
    @given(configs, configs, configs.filter(is_recognisable), st.integers(0, 2**32))
    def check(first: CaptureConfig, second: CaptureConfig, third: CaptureConfig, seed: int) -> None:
        with netns() as namespace, namespace.entered():
            write_foreign_rules(case, namespace, FOREIGN_RULES, seed)
            before = in_kernel(case, namespace)

            write(case, build_ruleset(first))
            write(case, build_ruleset(second), build_ruleset(first))
            clean(case, build_ruleset(second))
            assert in_kernel(case, namespace) == before

            write(case, build_ruleset(third))
            clean(case)
            assert in_kernel(case, namespace) == before

    check()


@each_driver
def test_a_namespace_without_a_capture_is_not_touched(netns: NamespaceFactory, case: DriverCase) -> None:
    with netns() as namespace, namespace.entered():
        write_foreign_rules(case, namespace, FOREIGN_RULES, 7)
        before = in_kernel(case, namespace)

        clean(case)

        assert in_kernel(case, namespace) == before


@pytest.mark.parametrize("case", [case for case in DRIVERS if case.variant == "nft"], ids=lambda case: case.name)
def test_a_namespace_without_tables_is_as_empty_as_it_was(netns: NamespaceFactory, case: DriverCase) -> None:
    with netns() as namespace, namespace.entered():
        write(case, build_ruleset(CaptureConfig(captures_dns=True, captures_all_dns=True, drops_invalid=True)))
        clean(case)

        assert namespace.run(["nft", "list", "ruleset"]).stdout == ""


@each_driver
def test_killed_at_any_moment_the_next_run_succeeds(netns: NamespaceFactory, case: DriverCase) -> None:
    chosen = random.Random(15001)  # noqa: S311  # no secret
    rulesets = [
        build_ruleset(config)
        for config in (
            CaptureConfig(captures_dns=True, captures_all_dns=True, drops_invalid=True),
            CaptureConfig(mode="TPROXY", profile="1.30", chain_names="underscore", excluded_interfaces=("eth7",)),
            CaptureConfig(chain_names="underscore"),
        )
    ]
    with netns() as namespace, namespace.entered():
        write_foreign_rules(case, namespace, FOREIGN_RULES, 1)
        before = in_kernel(case, namespace)
        started = time.monotonic()
        write(case, rulesets[-1])
        took = time.monotonic() - started
        for attempt in range(EXAMPLES[case.name] + 3):
            _write_and_be_killed(case, rulesets[attempt % 3], after=chosen.uniform(0, took))
            if attempt % 3 == 0:
                write(case, rulesets[chosen.randrange(3)])
        clean(case)

        assert in_kernel(case, namespace) == before


def _write_and_be_killed(case: DriverCase, desired: Ruleset, after: float) -> None:
    """Write in a process that is killed with all that it started, after some seconds."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            driver = case.driver()
            driver.write(desired, driver.read(), None)
        finally:
            os._exit(0)
    time.sleep(after)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # killed before it had a group of its own
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
