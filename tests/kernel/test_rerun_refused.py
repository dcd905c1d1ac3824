"""A change that the kernel refuses half-way leaves the rules that were there before, or none."""

import pytest

from capture import operations
from capture.analysis.compare import differences
from capture.backends.iptables.restore import RestoreDriver
from capture.errors import CaptureError
from capture.settings import options as option
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
