"""Kernel modules, taken away one at a time: what is missing gets a name, and nothing waits for it.

What needs which module is known to ``capture.backends.needed_modules``. The first test holds that against the
kernel: what it loads for a rule set is what we list for that rule set. The others rely on it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from capture.backends import request
from capture.backends.needed_modules import FLAVOUR_NAMES, REQUIRES, needed_modules
from capture.model.addresses import FAMILIES
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.settings import from_environment
from capture.system.pod_host import AnyPod
from vm.guest import Finished, Guest, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.backends.needed_modules import Flavour

pytestmark = pytest.mark.timeout(300)

PRINTED = {
    "ISTIO_INBOUND_INTERCEPTION_MODE": "TPROXY",
    "REDIRECT_DNS": "true",
    "CAPTURE_ALL_DNS": "true",
    "DROP_INVALID": "true",
    "CAPTURE_PROFILE": "current",
    "RULE_COMMENTS": "true",
    "RULE_LOGS": "true",
}
"""A configuration that needs every module there is a use for; as an environment, so that all programs take it."""

DESIRED = build_ruleset(resolve(from_environment(PRINTED), AnyPod())[0])
NEEDED = {flavour: needed_modules(DESIRED, FAMILIES, flavour) for flavour in FLAVOUR_NAMES}
MODULES = sorted({module for modules in NEEDED.values() for module in modules})

VARIANTS: dict[str, tuple[Flavour, ...]] = {"restore": ("nft", "legacy"), "netlink": ("nft",), "iptc": ("legacy",)}
DRIVERS: list[tuple[Flavour, str]] = [
    *(("nftables", driver) for driver in request.DRIVERS["nftables"]),
    *((flavour, driver) for driver in request.DRIVERS["iptables"] for flavour in VARIANTS[driver]),
]

FIRST = dict(reversed(DRIVERS))

FORBIDDEN: list[tuple[Flavour, str, str]] = [
    ("nft", "netlink", "xt_owner"),
    ("legacy", "restore", "xt_REDIRECT"),
    ("legacy", "restore", "nf_log_syslog"),
]

WITHOUT_MEANING = {"libcrc32c"}
"""What code of the kernel needs in this release, and in others not."""
LOOKED_AT = {"nf_tables", "nfnetlink", "nft_compat", "x_tables", "xt_owner", "xt_tcpudp"}
"""What detection requests on every flavour, and what iptables-nft requests and can do without."""

UNSUPPORTED = 3
"""The exit code for: this kernel or host cannot."""

PATIENCE = 60.0
"""Seconds after which a program hangs, also where the guest gets a fraction of a processor; they take two."""
POD = "/run/netns/pod"


def new_pod(guest: Guest) -> None:
    """Make a new pod, without addresses, so that both families are captured."""
    guest.run(["ip", "netns", "delete", "pod"])
    guest.run(["ip", "netns", "add", "pod"], check=True)
    guest.run(["ip", "-n", "pod", "link", "set", "lo", "up"], check=True)


def new_pod_with_ipv6(guest: Guest) -> None:
    """Make a new pod with a global IPv6 address: without one, a kernel that cannot capture IPv6 is no error."""
    new_pod(guest)
    guest.run(["ip", "-n", "pod", "link", "add", "eth0", "type", "veth", "peer", "name", "peer"], check=True)
    guest.run(["ip", "-n", "pod", "address", "add", "2001:db8::7/64", "dev", "eth0", "nodad"], check=True)


def flags(flavour: Flavour, driver: str) -> list[str]:
    backend = ["--backend", "nftables"] if flavour == "nftables" else ["--backend", "iptables"]
    variant = [] if flavour == "nftables" else ["--force-iptables-binary", flavour]
    return [*backend, *variant, "--driver", driver]


def capture(guest: Guest, *arguments: str) -> Finished:
    command = ["capture", *arguments]
    return guest.run(command, environment=PRINTED, timeout=PATIENCE, entry="capture.cli:main")


def apply(guest: Guest, flavour: Flavour, driver: str) -> Finished:
    return capture(guest, "apply", "--netns", POD, *flags(flavour, driver))


def istio_init(guest: Guest) -> Finished:
    command = ["istio-init", "--network-namespace", POD]
    return guest.run(command, environment=PRINTED, timeout=PATIENCE, entry="initcontainer.__main__:main")


def findings(guest: Guest) -> dict[str, dict[str, Any]]:
    """Return what doctor finds, by name."""
    return {
        finding["name"]: finding
        for finding in json.loads(capture(guest, "doctor", "--format", "json").stdout)["findings"]
    }


@pytest.mark.parametrize(("flavour", "driver"), DRIVERS)
def test_the_kernel_loads_the_needed_modules(guest: Guest, flavour: Flavour, driver: str) -> None:
    guest.hide_modules()
    new_pod(guest)

    done = apply(guest, flavour, driver)

    assert done.status == 0, str(done)
    assert guest.loaded_modules() - WITHOUT_MEANING - LOOKED_AT == NEEDED[flavour].keys() - LOOKED_AT
    verified = capture(guest, "verify", "--netns", POD)
    assert verified.status == 0, str(verified)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_missing_is_named(guest: Guest, module: str) -> None:
    guest.hide_modules(module)

    finding = findings(guest)[module]
    assert finding["state"] == "warning"
    assert guest.kernel.release in finding["remedy"]

    for flavour, driver in drivers_that_need(module):
        new_pod_with_ipv6(guest)
        refused = apply(guest, flavour, driver)
        assert refused.status == UNSUPPORTED, str(refused)
        assert is_named(module, refused.stderr), str(refused)
        assert guest.kernel.release in refused.stderr, f"no word of what has it: {refused}"

    new_pod_with_ipv6(guest)
    done = istio_init(guest)
    if any(module not in modules for modules in NEEDED.values()):
        assert done.status == 0, f"there is a flavour without {module}: {done}"
        verified = capture(guest, "verify", "--netns", POD)
        assert verified.status == 0, str(verified)
    else:
        assert done.status == UNSUPPORTED, str(done)
        assert is_named(module, done.stderr), str(done)


def is_named(module: str, text: str) -> bool:
    """Return whether a text names this module as one that the kernel cannot have, and no other."""
    named = re.findall(f"{CANNOT} module (.+?){END}", text, re.MULTILINE)
    return set(named) == {module}


CANNOT = "(?:kernel has no|kernel cannot load the|loading)"
END = r"(?: \(for [^)]+\), which| \(for [^)]+\) is forbidden|;|$)"


def drivers_that_need(module: str) -> list[tuple[Flavour, str]]:
    """Return the drivers that need a module; one for each flavour if rules do not request it themselves."""
    needing = [(flavour, driver) for flavour, driver in DRIVERS if module in NEEDED[flavour]]
    if module not in {required for modules in REQUIRES.values() for required in modules}:
        return needing
    return [(flavour, driver) for flavour, driver in needing if driver == FIRST[flavour]]


@pytest.mark.parametrize(
    ("flavour", "driver", "module"), [("nftables", "netlink", "nft_redir"), ("nft", "restore", "xt_owner")]
)
def test_the_module_is_named_in_a_container_too(guest: Guest, flavour: Flavour, driver: str, module: str) -> None:
    """An init container has two capabilities, and no /lib/modules to look into."""
    guest.hide_modules(module)
    new_pod(guest)
    setpriv = "/usr/bin/setpriv --bounding-set=-all,+net_admin,+net_raw"
    container = f'mount -t tmpfs none /lib/modules && exec {setpriv} -- "$@"'
    init = [str(Path(sys.prefix) / "bin" / "istio-init"), *flags(flavour, driver)]
    command = ["ip", "netns", "exec", "pod", "/bin/busybox", "sh", "-euc", container, "init", *init]

    refused = guest.run(command, environment=PRINTED, timeout=PATIENCE)

    assert refused.status == UNSUPPORTED, str(refused)
    assert module in refused.stderr, str(refused)


@pytest.mark.parametrize(("flavour", "driver", "module"), [("nftables", "netlink", "nft_redir"), *FORBIDDEN])
def test_a_module_that_may_not_be_loaded_is_named(guest: Guest, flavour: Flavour, driver: str, module: str) -> None:
    """As a hardened host has it: the module is there, and modprobe's configuration forbids it."""
    guest.hide_modules()
    new_pod(guest)
    forbid(guest, module)

    refused = apply(guest, flavour, driver)
    finding = findings(guest)[module]
    done = istio_init(guest)
    forbid(guest)

    assert refused.status == UNSUPPORTED, str(refused)
    assert is_named(module, refused.stderr), str(refused)
    assert finding["state"] == "warning"
    for remedy in (refused.stderr, finding["remedy"]):
        assert "/etc/modprobe.d/forbidden.conf" in remedy
    is_everywhere = all(module in modules for modules in NEEDED.values())
    assert done.status == (UNSUPPORTED if is_everywhere else 0), str(done)


def forbid(guest: Guest, *modules: str) -> None:
    """Keep modprobe from loading these modules, and no others."""
    lines = "".join(f"install {module} /bin/false\n" for module in modules)
    write = ["/bin/busybox", "sh", "-euc", "mkdir -p /etc/modprobe.d && cat > /etc/modprobe.d/forbidden.conf"]
    guest.run(write, stdin=lines, check=True)


def test_a_kernel_that_loads_no_more_modules() -> None:
    with Guest(kernel()) as closed:
        closed.run(["sysctl", "-w", "kernel.modules_disabled=1"], check=True)
        new_pod(closed)

        finding = findings(closed)["modules"]
        refused = istio_init(closed)

    assert (finding["state"], "nft_redir" in finding["says"]) == ("warning", True)
    assert refused.status == UNSUPPORTED, str(refused)
    for explicit in (finding["says"], refused.stderr):
        assert "kernel.modules_disabled=1" in explicit
    for explicit in (finding["remedy"], refused.stderr):
        assert "/etc/modules-load.d" in explicit
