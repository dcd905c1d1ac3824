"""A change that the kernel refuses half-way leaves the rules that were there before, or none."""

import sys
from typing import Any

import pytest

from capture import operations
from capture.analysis.compare import differences
from capture.backends.iptables.netlink import IptablesNetlinkDriver
from capture.backends.iptables.restore import RestoreDriver
from capture.errors import CaptureError
from capture.settings import options as option
from capture.state import record
from pytest_netns import Pod, PodPair
from support.captures.settings import DRIVERS, VARIANTS, Texts, settings
from support.processes.waiting import wait_until

BY_RESTORE = DRIVERS["iptables-nft"]  # which writes one family after the other
IPV4_ONLY = {option.IP_FAMILIES: "ipv4"}
EARLIER = {
    "nothing": {},
    "other ports": {**VARIANTS["other ports"], **IPV4_ONLY},
    "a transparent capture": {**VARIANTS["TPROXY"], **IPV4_ONLY},
}


def let_another_own(pod: Pod, table: str) -> None:
    """Let a process of nft own a table: the kernel refuses it to all others (NFT_TABLE_F_OWNER, Linux 5.12)."""
    pod.popen(["sh", "-c", f"(echo 'add table {table} {{ flags owner; }}'; sleep 60) | nft -i"])
    wait_until(lambda: f"table {table}" in pod.run(["nft", "list", "tables"]).stdout)


@pytest.mark.parametrize("earlier", EARLIER.values(), ids=EARLIER.keys())
def test_the_earlier_rules_are_written_back(pod_pair: PodPair, earlier: Texts) -> None:
    pod = pod_pair.pod
    pod.listener(("0.0.0.0", 8080))  # a running pod, whose connections are tracked first
    driver = RestoreDriver("nft")
    if earlier:
        pod.call(operations.apply, settings(earlier, BY_RESTORE))
    for position in ("-I", "-A"):  # foreign rules stay, and each stays one
        pod.run(["iptables-nft", "-t", "nat", position, "OUTPUT", "-d", "198.51.100.1", "-j", "RETURN"])
    let_another_own(pod, "ip6 nat")
    before = pod.call(driver.read)

    with pod.entered(), pytest.raises(CaptureError, match="ip6tables"):
        operations.apply(settings(BY_RESTORE))

    assert not differences(before, pod.call(driver.read))


@pytest.mark.parametrize("end", [OSError(24, "Too many open files"), KeyboardInterrupt()], ids=["an error", "Ctrl-C"])
@pytest.mark.parametrize("earlier", EARLIER.values(), ids=EARLIER.keys())
def test_a_change_that_ends_after_its_rules_were_written_is_taken_back(
    pod_pair: PodPair, earlier: Texts, end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, driver = pod_pair.pod, IptablesNetlinkDriver()
    if earlier:
        pod.call(operations.apply, settings(earlier, DRIVERS["iptables-netlink"]))
    before, recorded, write = pod.call(driver.read), pod.call(record.read), IptablesNetlinkDriver.write

    def write_and_end(*arguments: Any) -> None:
        monkeypatch.undo()
        write(*arguments)
        raise end

    monkeypatch.setattr(IptablesNetlinkDriver, "write", write_and_end)
    expected = CaptureError if isinstance(end, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=r"Too many open files|^$"):
        operations.apply(settings(DRIVERS["iptables-netlink"]), pod.path)

    assert not differences(before, pod.call(driver.read))
    assert getattr(pod.call(record.read), "ruleset", None) == getattr(recorded, "ruleset", None)


WITH_FEW_DESCRIPTORS = """
import resource, sys
import capture
from capture.errors import CaptureError
settings = capture.make_settings(interception_mode=sys.argv[1])
capture.apply(settings)  # what is imported late is loaded before descriptors are few
capture.verify()
if sys.argv[2] != "clean":
    capture.clean()
call = {"apply": lambda: capture.apply(settings), "clean": capture.clean, "verify": capture.verify}[sys.argv[2]]
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    call()
except CaptureError as error:
    sys.exit(error.message)
"""


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
@pytest.mark.parametrize("verb", ["apply", "clean", "verify"])
def test_without_descriptors_a_verb_does_all_or_raises_capture_error(pod_pair: PodPair, verb: str, mode: str) -> None:
    pod = pod_pair.pod
    pod.call(operations.apply, settings({option.INTERCEPTION_MODE: mode}))
    whole = written(pod)
    pod.call(operations.clean)
    empty = written(pod)
    failures = 0
    for limit in range(3, 10):
        done = pod.run([sys.executable, "-c", WITH_FEW_DESCRIPTORS, mode, verb, f"{limit}"], check=False)
        assert done.stderr.rstrip().endswith("Too many open files") == bool(done.returncode), done.stderr
        assert "Traceback" not in done.stderr
        assert written(pod) == (whole if bool(done.returncode) == (verb == "clean") and verb != "verify" else empty)
        failures += bool(done.returncode)
    assert failures


def written(pod: Pod) -> str:
    """Return rules, routes and policy rules."""
    return pod.run(["sh", "-c", "nft -s list ruleset; ip rule; ip -6 rule; ip route show table all"]).stdout
