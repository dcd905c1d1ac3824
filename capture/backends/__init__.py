"""Backends: how rules reach a kernel. They know the model, never the configuration.

A *backend* is a place in the kernel where rules live (``iptables``, ``nftables``); a *driver* is a
way to write and read there. Every driver offers the same five calls, documented here once:

``render(ruleset)``  pure; what would be sent into an empty namespace, as titled texts
``has_exactly(desired)``   quick: whether the kernel holds exactly what ``write`` makes; False means "read it"
``read()``           everything in the tables we may touch, foreign chains and rules included
``write(desired, live, recorded)``   make our rules those of ``desired``; what is foreign stays
``clean(live, recorded)``            remove everything of the capture; what is foreign stays

All of them act on the network namespace of the calling thread. ``recorded`` is the rule set that we
remember to have applied there, if any: in shared chains it distinguishes our rules from look-alikes.
``write`` may be called with equal rules (``--force-apply``), and is one kernel transaction where the
driver can do that (netlink and libnftables: all of it; the others: each table of each family).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from capture.backends.detect import BackendChoice
    from capture.model.ruleset import Ruleset

    class Driver(Protocol):
        """See the module's description."""

        backend: str
        name: str

        def render(self, ruleset: Ruleset) -> list[tuple[str, str]]: ...
        def has_exactly(self, desired: Ruleset) -> bool: ...
        def read(self) -> Ruleset: ...
        def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None: ...
        def clean(self, live: Ruleset, recorded: Ruleset | None) -> None: ...


def load_driver(choice: BackendChoice, *, has_own_users: bool = True) -> Driver:
    """Return the driver of a choice; only its module is imported.

    Who writes says whether the network namespace belongs to our user namespace (``has_own_users``).
    """
    if choice.driver == "libnftables":
        from capture.backends.nftables.libnftables import LibnftablesDriver

        return LibnftablesDriver()
    if choice.backend == "nftables":
        from capture.backends.nftables import netlink as nftables

        return nftables.NftablesNetlinkDriver()
    driver: Driver
    if choice.driver == "iptc":
        from capture.backends.iptables.iptc_driver import IptcDriver

        driver = IptcDriver()
    elif choice.driver == "netlink":
        from capture.backends.iptables import netlink

        driver = netlink.IptablesNetlinkDriver()
    else:
        from capture.backends.iptables.restore import RestoreDriver

        driver = RestoreDriver(choice.variant)
    return driver if has_own_users else DriverForOtherUsers(driver)


class DriverForOtherUsers:
    """A driver of iptables in the network namespace of another user namespace: a pod with ``hostUsers: false``.

    It reads from where we are, since ids in rules are the pod's for every reader. It writes from a child in the pod's
    user namespace: the kernel checks every owner match of what is written, and whose process writes it.
    """

    def __init__(self, driver: Driver) -> None:
        self.backend, self.name = driver.backend, driver.name
        self.render, self.has_exactly, self.read = driver.render, driver.has_exactly, driver.read
        self._driver = driver

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        self._act_as_owner(lambda: self._driver.write(desired, live, recorded))

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Remove everything of the capture; tables that are written whole hold foreign owner matches, too."""
        self._act_as_owner(lambda: self._driver.clean(live, recorded))

    def _act_as_owner(self, work: Callable[[], None]) -> None:
        from capture.system.user_namespace import act_as_owner  # few pods have users of their own

        act_as_owner(work, starts_programs=self._driver.name != "netlink")
