"""Nothing foreign belongs in our native tables: a base chain that another program adds there is drift."""

import pytest

from capture.analysis.compare import differences
from capture.backends.nftables.netlink import NftablesNetlinkDriver
from capture.errors import CaptureError
from capture.operations.applying import ensure_written
from capture.rules import build_ruleset
from capture.settings.config import CaptureConfig
from pytest_netns import NamespaceFactory


def test_a_foreign_base_chain_in_our_table(netns: NamespaceFactory) -> None:
    pod = netns.pod()
    desired = build_ruleset(CaptureConfig())
    driver = NftablesNetlinkDriver()
    with pod.entered():
        driver.write(desired, driver.read(), None)
        assert driver.has_exactly(desired)
    pod.run(["nft", "add chain inet istio-proxy-nat early { type nat hook output priority -101 ; }"])
    pod.run(["nft", "add rule inet istio-proxy-nat early tcp dport 80 accept"])

    with pod.entered():
        live = driver.read()
        assert not driver.has_exactly(desired)
        with pytest.raises(
            CaptureError, match=r"drift right after the rules were written: 2 differences, the first: .* \(unexpected: "
        ):
            ensure_written(driver, desired)

    assert [difference.kind for difference in differences(desired, live)] == ["unexpected", "unexpected"]
