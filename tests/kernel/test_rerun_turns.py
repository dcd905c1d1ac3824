"""Runs at the same time, runs that fail, and what is left of unrecorded runs."""

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from capture import operations
from capture.backends import detect
from capture.errors import CaptureError
from capture.rules import build_ruleset
from capture.settings import options as option
from capture.state import record, routes
from capture.state.lock import LOCK_NAME, NamespaceLock
from pytest_netns import Namespace, NamespaceFactory, Pod, PodPair
from support.captures.settings import DRIVERS, VARIANTS, Texts, arguments, settings
from support.processes.namespace_state import namespace_state
from support.processes.waiting import wait_until

ISTIO_INIT = Path(sys.executable).with_name("istio-init")
TPROXY: Texts = {option.INTERCEPTION_MODE: "TPROXY"}


# --- one after the other -----------------------------------------------------------------------------


def test_runs_at_the_same_time_leave_one_whole_set(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    drivers = ["nftables-netlink", "iptables-nft", "iptables-legacy", "nftables-netlink"]
    variants = ["classic", "TPROXY by other numbers", "current", "DNS"]
    for _ in range(3):
        runs = [
            pod.popen([ISTIO_INIT, *arguments(VARIANTS[variant], DRIVERS[driver])])
            for driver, variant in zip(drivers, variants, strict=True)
        ]
        assert [run.wait(30) for run in runs] == [0] * len(runs), [run.output() for run in runs]
        with pod.entered():
            assert len(detect.find_live_sets()) == 1
            verified = operations.verify()
            assert verified.holds, verified


def test_a_warning_names_the_holder_of_the_lock(netns: NamespaceFactory) -> None:
    pod = netns.pod()
    with pod.entered():
        squatter = socket.socket(socket.AF_UNIX)
        squatter.bind(LOCK_NAME)
    with squatter, pod.entered():
        applied = operations.apply(settings({}), lock_timeout=0.1)
        words: list[str] = []
        operations.clean(lock_timeout=0.1, warn=words.append)
    for (warning,) in (applied.warnings, words):
        assert "@istio-capture) was not released within 0.1 s" in warning
        assert f"process {os.getpid()} (" in warning
        assert warning.endswith("holds it; continued without the lock: check with `capture verify`")


def test_a_turn_is_waited_for(netns: NamespaceFactory) -> None:
    namespace, other = netns(), netns()
    with namespace.entered():
        with NamespaceLock():
            began = time.monotonic()
            with NamespaceLock(timeout=0.1) as second:
                assert time.monotonic() - began > 0.1
                assert second.warnings != ()
            with other.entered(), NamespaceLock(timeout=0.0) as elsewhere:
                assert elsewhere.warnings == ()
        with NamespaceLock(timeout=0.0) as later:
            assert later.warnings == ()


def test_a_program_that_a_killed_run_has_started_is_waited_for(pod_pair: PodPair) -> None:
    """It still has rules to write: what it inherits shows that to the next run."""
    pod = pod_pair.pod
    script = (
        "import os, sys\n"
        "from capture.backends.iptables.programs import run_program\n"
        "from capture.state.lock import NamespaceLock\n"
        "with NamespaceLock():\n"
        "    print('begun', flush=True)\n"
        "    run_program(['/bin/sleep', '1.5'])\n"
    )
    began = time.monotonic()
    process = pod.popen([sys.executable, "-c", script])
    wait_until(lambda: "begun" in process.output())
    time.sleep(0.1)  # until that program runs
    os.kill(process.pid, 9)
    process.wait()
    with pod.entered(), NamespaceLock():
        assert time.monotonic() - began > 1.4


def test_a_process_that_holds_the_lock_for_ever_cannot_keep_a_pod_uncaptured(pod_pair: PodPair) -> None:
    """An app may, by chance or by intent."""
    pod = pod_pair.pod
    with pod.entered(), socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(LOCK_NAME)
        applied = operations.apply(settings(), lock_timeout=0.05)
        assert (applied.changed, "continued without the lock" in applied.warnings[0]) == (True, True)
        assert operations.verify().conclusion == "in sync"


# --- runs that fail -----------------------------------------------------------------------------------


ROUTE_IN_THE_WAY = "route add blackhole default table 133"
"""With it the route of TPROXY cannot be added."""


def test_a_run_that_fails_leaves_rules_and_record_as_they_were(netns: NamespaceFactory) -> None:
    pod = netns.pod(ipv6=None)
    with pod.entered():
        operations.apply(settings(VARIANTS["lists"], DRIVERS["nftables-netlink"]))
    before = namespace_state(pod)
    pod.ip(ROUTE_IN_THE_WAY)
    with pod.entered():
        kept = record.read()
        with pytest.raises(CaptureError, match="table 133"):
            operations.apply(settings(TPROXY, DRIVERS["nftables-netlink"]))
        found = record.read()
        assert kept is not None
        assert found is not None
        assert found.replace(stale_routes=()) == kept
        assert operations.verify().holds
    assert namespace_state(pod)["nft"] == before["nft"]


def test_a_first_run_that_fails_leaves_no_record(netns: NamespaceFactory) -> None:
    pod = netns.pod(ipv6=None)
    pod.ip(ROUTE_IN_THE_WAY)
    with pod.entered():
        with pytest.raises(CaptureError):
            operations.apply(settings(TPROXY))
        assert record.read() is None


# --- unrecorded runs -----------------------------------------------------------------------------------


def routes_of(pod: Pod) -> list[str]:
    """Return the lines of policy rules, of routes and of addresses that a capture may need."""
    seen = namespace_state(pod)
    lines = [line for name, text in seen.items() if name.startswith("ip -") for line in text.splitlines()]
    return [line for line in lines if "fwmark" in line or "dev lo table 133" in line or " ::6" in line]


@pytest.mark.parametrize("driver", ["nftables-netlink", "iptables-nft"])
@pytest.mark.parametrize("then", ["apply", "clean"])
def test_routes_of_a_run_that_was_killed_before_its_rules_were_live(pod_pair: PodPair, driver: str, then: str) -> None:
    pod = pod_pair.pod
    with pod.entered():
        desired = build_ruleset(operations.apply(settings(TPROXY, DRIVERS[driver])).config)
        operations.clean()
        routes.add_missing(desired)
        record.forget()
    assert len(routes_of(pod)) > 4
    with pod.entered():
        if then == "apply":
            assert operations.apply(settings(DRIVERS[driver])).changed
            assert [line for line in routes_of(pod) if " ::6" not in line] == []
        assert operations.clean()
    assert routes_of(pod) == []


def test_half_of_a_policy(pod_pair: PodPair) -> None:
    """A policy rule whose route is not there yet, or any more."""
    pod = pod_pair.pod
    pod.ip("rule add fwmark 1337 lookup 133")
    with pod.entered():
        assert operations.clean()
    assert routes_of(pod) == []


def test_a_family_that_is_captured_no_more(netns: NamespaceFactory) -> None:
    pod = netns.pod(ipv6=None)
    for driver in ("nftables-netlink", "iptables-nft"):
        with pod.entered():
            operations.apply(settings({option.DUAL_STACK: "true"}, TPROXY, DRIVERS[driver]))
            record.forget()
            operations.apply(settings({option.IP_FAMILIES: "ipv4"}, DRIVERS[driver]))
        assert routes_of(pod) == []
        assert "ISTIO" not in pod.run(["ip6tables-nft-save"]).stdout


def test_routes_with_other_numbers_are_found_by_the_rules(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    for then in ("classic", "TPROXY"):
        with pod.entered():
            operations.apply(settings(VARIANTS["TPROXY by other numbers"]))
            record.forget()
            operations.apply(settings(VARIANTS[then]))
        assert "0x4d" not in pod.run(["ip", "rule"]).stdout
        assert pod.run(["ip", "route", "show", "table", "88"], check=False).stdout == ""


def test_a_table_that_two_marks_lead_to(pod_pair: PodPair) -> None:
    """The route stays under settings that change the mark alone."""
    pod = pod_pair.pod
    with pod.entered():
        operations.apply(settings(TPROXY, {option.TPROXY_MARK: "77"}))
        operations.apply(settings(TPROXY))
        assert operations.verify().holds
    assert "0x4d" not in pod.run(["ip", "rule"]).stdout


def test_other_policies_stay(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    pod.ip(
        "rule add fwmark 1337/0xfff lookup 133",
        "rule add fwmark 1337 lookup 134",
        "rule add fwmark 1337 uidrange 0-5 lookup 133",
        "rule add from 10.9.9.9 fwmark 1337 lookup 133",
        "route add local default dev lo table 134",
    )
    before = namespace_state(pod)
    run_and_clean(pod)
    assert namespace_state(pod) == before


def run_and_clean(namespace: Namespace) -> None:
    with namespace.entered():
        operations.apply(settings(DRIVERS["nftables-netlink"]))
        operations.clean()
