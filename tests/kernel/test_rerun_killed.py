"""A run that is killed leaves the pod captured, and the next run makes everything right."""

import json
import os
import random
import signal
import sys
import time
from itertools import permutations
from pathlib import Path

import pytest

from capture import operations
from pytest_netns import NamespaceFactory
from support.captures.settings import DRIVERS, VARIANTS, arguments, environment
from support.processes import killed_runs
from support.processes.killed_runs import Choice, apply_with, live_state
from support.processes.namespace_state import namespace_state
from support.processes.system_calls import run_alone
from support.traffic.steady import UnderLoad

TPROXY = "TPROXY by other numbers"
QUICK = ("nftables-netlink", "iptables-netlink")
"""Others, killed at each moment, take too long for every run: test_iptables_foreign kills them at some moments."""
CHANGES: list[tuple[Choice, Choice]] = [
    *(((driver, "classic"), (driver, TPROXY)) for driver in DRIVERS),
    *(((one, "current"), (other, "TPROXY")) for one, other in permutations(DRIVERS, 2)),
]
SHORT = [
    *(((driver, "classic"), (driver, TPROXY)) for driver in QUICK),
    (("nftables-netlink", "current"), ("iptables-legacy", "TPROXY")),
]


@pytest.fixture
def under_load(netns: NamespaceFactory) -> UnderLoad:
    return UnderLoad(netns)


@pytest.mark.parametrize(
    ("before", "killed"),
    [
        pytest.param(*change, marks=() if change in SHORT else (pytest.mark.long, pytest.mark.timeout(600)))
        for change in CHANGES
    ],
    ids=" ".join,
)
def test_killed_at_each_moment(under_load: UnderLoad, before: Choice, killed: Choice) -> None:
    pod = under_load.pod
    pristine = namespace_state(pod)
    expected = {}
    with pod.entered():
        for choice in (killed, before):
            operations.clean()
            apply_with(choice)
            expected[choice[1]] = live_state()
    under_load.begin()
    words = json.dumps({"before": before, "killed": killed, "expected": expected})
    result = run_alone(Path(killed_runs.__file__), words, through=["nsenter", f"--net={pod.path}"], timeout=600)
    outbound, inbound = under_load.end()

    assert result["wrong"] == []
    assert int(str(result["moments"])) > 5, "too few: does the killer know a change when it sees one?"
    assert set(outbound) == {"proxy, outbound"}, outbound
    assert set(inbound) == {"proxy, inbound"}, inbound
    assert under_load.escaped() == 0
    with pod.entered():
        operations.clean()
        assert operations.dump().live_sets == ()
    left = namespace_state(pod)
    assert {name: left[name] for name in left if name.startswith("ip -")} == {
        name: pristine[name] for name in pristine if name.startswith("ip -")
    }


def istio_init(*choices: Choice) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of a real run."""
    texts = [text for driver, variant in choices for text in (VARIANTS[variant], DRIVERS[driver])]
    program_path = Path(sys.executable).with_name("istio-init")
    return [str(program_path), *arguments(*texts)], {**os.environ, **environment(*texts)}


def test_killed_at_random_moments(under_load: UnderLoad) -> None:
    expect_recovery_from_kills(under_load, ["iptables-nft", "nftables-netlink"], 12)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("drivers", [[driver] for driver in DRIVERS] + [list(DRIVERS)], ids="+".join)
def test_killed_at_random_moments_for_long(under_load: UnderLoad, drivers: list[str]) -> None:
    expect_recovery_from_kills(under_load, drivers, 100)


def expect_recovery_from_kills(under_load: UnderLoad, drivers: list[str], times: int) -> None:
    """Kill ``istio-init`` at random moments, while it changes one capture for another; each time, run it again."""
    pod = under_load.pod
    chance = random.Random(0)  # noqa: S311  # no secret
    choice: Choice = (drivers[0], "classic")
    with pod.entered():
        apply_with(choice)
    under_load.begin()
    durations: list[float] = []
    for _ in range(times):
        choice = (chance.choice(drivers), chance.choice([variant for variant in VARIANTS if variant != choice[1]]))
        command, environ = istio_init(choice)
        run = pod.popen(command, env=environ)
        time.sleep(chance.uniform(0.3, 1) * (sum(durations) / len(durations) if durations else 0.2))
        os.kill(run.pid, signal.SIGKILL)

        began = time.monotonic()
        again = pod.popen(command, env=environ)
        assert again.wait(30) == 0, again.output()
        durations.append(time.monotonic() - began)
        with pod.entered():
            verified = operations.verify()
            assert verified.holds, verified
            assert len(operations.dump().live_sets) == 1
    outbound, inbound = under_load.end()
    assert set(outbound) == {"proxy, outbound"}, outbound
    assert set(inbound) == {"proxy, inbound"}, inbound
    assert under_load.escaped() == 0
