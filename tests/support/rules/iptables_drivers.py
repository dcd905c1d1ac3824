"""The drivers of iptables, each with the program that lists what it wrote."""

import dataclasses
import re
import subprocess
from collections.abc import Callable

from capture.backends.iptables.driver import IptablesDriver
from capture.backends.iptables.iptc_driver import IptcDriver
from capture.backends.iptables.netlink import IptablesNetlinkDriver
from capture.backends.iptables.restore import RestoreDriver
from capture.model.addresses import FAMILIES, IPV4, Family
from pytest_netns import Namespace


def writes_as_we_do() -> bool:
    """Return whether the iptables-nft that is installed writes the same bytes as our driver: those of 1.8.9.

    Later ones put addresses before interfaces, compare ``ip protocol`` and let base chains count: the same rules.
    """
    words = subprocess.run(["iptables-nft", "--version"], capture_output=True, text=True, check=True).stdout
    numbers = re.findall(r"\d+", words)
    return tuple(map(int, numbers[:3])) < (1, 8, 10)


@dataclasses.dataclass(frozen=True)
class DriverCase:
    """A driver, and the variant of the programs that see its rules."""

    name: str
    driver: Callable[[], IptablesDriver]
    variant: str

    def command(self, family: Family, purpose: str = "") -> str:
        """Return the name of a program: ``ip6tables-nft-save``, ``iptables-legacy``."""
        command = f"{'iptables' if family == IPV4 else 'ip6tables'}-{self.variant}"
        return f"{command}-{purpose}" if purpose else command

    def saved(self, namespace: Namespace, family: Family) -> list[str]:
        """Return what iptables-save prints, without comments and counters of policies."""
        printed = namespace.run([self.command(family, "save")]).stdout.splitlines()
        return [line.partition(" [")[0] for line in printed if not line.startswith("#")]

    def saved_in_both(self, namespace: Namespace) -> list[list[str]]:
        """Return what iptables-save prints for each family."""
        return [self.saved(namespace, family) for family in FAMILIES]

    def restore(self, namespace: Namespace, family: Family, text: str) -> None:
        """Write rules as another program."""
        namespace.run([self.command(family, "restore"), "--noflush"], stdin=text)


DRIVERS = [
    DriverCase("netlink", IptablesNetlinkDriver, "nft"),
    DriverCase("restore-nft", lambda: RestoreDriver("nft"), "nft"),
    DriverCase("restore-legacy", lambda: RestoreDriver("legacy"), "legacy"),
    DriverCase("iptc", IptcDriver, "legacy"),
]
