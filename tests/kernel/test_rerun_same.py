"""A second run with equal rules writes nothing: not to the kernel, and not to a file."""

import os

import pytest

from capture import operations
from capture.netlink.nfnetlink import open_nfnetlink, read_generation
from capture.state.record import record_path
from capture.system.netns import namespace_id
from pytest_netns import PodPair
from support.captures.settings import APP_PORT, DRIVERS, OUTSIDE, VARIANTS, Texts, settings
from support.processes.namespace_state import namespace_state

FEW = ("classic", "TPROXY by other numbers", "long lists")
"""For the driver that imports a package of a third of a second, in a child for each family."""


def generation() -> int:
    """Return the number of the ruleset of nf_tables here; each transaction has its own, also an empty one."""
    with open_nfnetlink() as netfilter:
        return read_generation(netfilter)


def counters(pair: PodPair) -> dict[str, int]:
    """Return how many packets each rule of legacy tables has seen: a rule that is written anew counts from zero.

    What is written to nf_tables is seen by ``generation``.
    """
    seen = {}
    for program_name in ("iptables-legacy-save", "ip6tables-legacy-save"):
        for number, line in enumerate(pair.pod.run([program_name, "-c"]).stdout.splitlines()):
            if line.startswith("["):
                packets, _, rest = line[1:].partition(":")
                seen[f"{program_name} {number} {rest.partition(']')[2]}"] = int(packets)
    return seen


def are_kept(before: dict[str, int], after: dict[str, int]) -> bool:
    """Return whether all rules still count: stray packets may come meanwhile, but none can be unseen."""
    return before.keys() == after.keys() and all(after[rule] >= before[rule] for rule in before)


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_same_again_writes_nothing(pod_pair: PodPair, driver: str) -> None:
    """By one driver every third variant, by the next ones the rest: what is read back is compared."""
    pod = pod_pair.pod
    looked_at = namespace_state(pod)
    turn = list(DRIVERS).index(driver) % 3
    for variant in FEW if driver == "iptables-iptc" else list(VARIANTS)[turn::3]:
        require_nothing_written(pod_pair, VARIANTS[variant], DRIVERS[driver])
    with pod.entered():
        operations.clean()
    if "legacy" not in driver and "iptc" not in driver:
        assert namespace_state(pod) == looked_at


def require_nothing_written(pair: PodPair, *texts: Texts) -> None:
    pod, peer = pair
    with pod.entered():
        assert operations.apply(settings(*texts)).changed
    for address, port in OUTSIDE:
        pod.client(uid=1000).connect(address, port, timeout=0.05)  # something to count
    peer.client().connect(pod.ipv4, APP_PORT, timeout=0.05)
    before, old_state = counters(pair), namespace_state(pod)
    with pod.entered():
        record = record_path(namespace_id())
        stamped = generation(), os.stat(record).st_mtime_ns

        assert not operations.apply(settings(*texts)).changed

        assert (generation(), os.stat(record).st_mtime_ns) == stamped, texts
    assert are_kept(before, counters(pair))
    assert namespace_state(pod) == old_state


def test_the_tests_can_see_that_something_is_written(pod_pair: PodPair) -> None:
    pod = pod_pair.pod
    with pod.entered():
        operations.apply(settings(DRIVERS["nftables-netlink"]))
        written = generation()
        assert operations.apply(settings(DRIVERS["nftables-netlink"]), force=True).changed
        assert generation() > written
        operations.apply(settings(DRIVERS["iptables-legacy"]))
        pod.client(uid=1000).connect(pod.ipv4, 9, timeout=0.05)
        before = counters(pod_pair)
        operations.clean()
        operations.apply(settings(DRIVERS["iptables-legacy"]))
    assert not are_kept(before, counters(pod_pair))


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver != "iptables-iptc"])
def test_looking_writes_nothing(pod_pair: PodPair, driver: str) -> None:
    pod = pod_pair.pod
    with pod.entered():
        pristine = namespace_state(pod), generation()
        operations.verify(settings(DRIVERS[driver]))
        operations.dump()
        assert not operations.clean()
        assert (namespace_state(pod), generation()) == pristine
