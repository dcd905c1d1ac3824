"""A part of the kernel tests, in a guest that has all modules: every driver writes, reads back and captures."""

import sys

import pytest

from vm.guest import Guest
from vm.image import CHECKOUT

pytestmark = pytest.mark.timeout(600)

SLOW = ("many_networks", "same_time", "bindings", "drift", "200000", "Lookup", "PolicyRouting")
PARTS = {
    "every driver and real packets": ["test_agreement.py"],
    "every driver and TPROXY": ["test_tproxy_traffic.py"],
    "every driver and the commands": ["test_cli_dump.py", "-k", "known_table"],
    "choices and refusals": ["test_detect.py", "test_iptables_refusals.py"],
    "iptables": ["test_iptables_cases.py", "test_core_namespaces.py"],
    "nftables": ["test_nftables_drivers.py", "test_netlink.py", "-k", f"not ({' or '.join(SLOW)})"],
}
"""What an emulated processor does in a minute each; left out is what takes long, or needs other programs."""

ENVIRONMENT = {
    "CI": "1",  # what cannot run is a failure
    "AGREEMENT_CAPTURES": "2",
    "AGREEMENT_PATIENCE": "2.0",
}


@pytest.mark.parametrize("part", PARTS)
def test_kernel_tests_pass(guest: Guest, part: str) -> None:
    guest.hide_modules()
    files = [f"tests/kernel/{word}" if word.endswith(".py") else word for word in PARTS[part]]
    options = ["-m", "kernel and not long", "-o", "timeout=300", "-p", "no:cacheprovider"]
    quiet = ["-q", "--color=no", "--tb=short"]

    command = [sys.executable, "-m", "pytest", *options, *quiet, *files]
    done = guest.run(command, environment=ENVIRONMENT, directory=str(CHECKOUT), timeout=500.0)

    assert done.status == 0, str(done)
