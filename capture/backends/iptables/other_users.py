"""Drivers of iptables in the network namespace of another user namespace: a pod with ``hostUsers: false``.

They read from where we are, since ids in rules are the pod's for every reader. They write from a child in the
pod's user namespace: the kernel checks every owner match of what is written, and whose process writes it.
"""

from __future__ import annotations

from capture.state.user_namespace import act_as_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends import Driver
    from capture.model.ruleset import Ruleset


class DriverForOtherUsers:
    """A driver (see ``capture.backends``) whose writing is done by the owner of the network namespace."""

    def __init__(self, driver: Driver) -> None:
        self.backend, self.name = driver.backend, driver.name
        self.render, self.holds, self.read = driver.render, driver.holds, driver.read
        self._driver = driver
        self._starts_programs = driver.name != "netlink"

    def write(self, desired: Ruleset, live: Ruleset, recorded: Ruleset | None) -> None:
        act_as_owner(lambda: self._driver.write(desired, live, recorded), starts_programs=self._starts_programs)

    def clean(self, live: Ruleset, recorded: Ruleset | None) -> None:
        """Remove all that is ours; tables that are written whole have owner matches of others in them, too."""
        act_as_owner(lambda: self._driver.clean(live, recorded), starts_programs=self._starts_programs)
