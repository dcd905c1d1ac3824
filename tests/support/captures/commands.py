"""Commands that capture a namespace: by every backend and driver; and what they leave there."""

import sys
from pathlib import Path

from capture.backends import request
from pytest_netns import Namespace

PROGRAMS = Path(sys.executable).parent
VARIANTS = {"restore": ("nft", "legacy"), "netlink": ("nft",), "iptc": ("legacy",)}
DRIVERS = [
    (backend, driver, variant)
    for backend, drivers in request.DRIVERS.items()
    for driver in drivers
    for variant in (VARIANTS[driver] if backend == "iptables" else ("",))
]


def state(namespace: Namespace) -> str:
    """Return everything that rules can be in, without counters."""
    nft = namespace.run(["nft", "--stateless", "list", "ruleset"]).stdout
    legacy = namespace.run(["cat", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"]).stdout
    addresses = namespace.run(["ip", "-brief", "address", "show", "lo"]).stdout
    rules = namespace.run(["ip", "rule"]).stdout + namespace.run(["ip", "-6", "rule"]).stdout
    return nft + legacy + addresses + rules


def choice(backend: str, driver: str, variant: str) -> list[str]:
    """Return the flags that choose a driver."""
    return ["--backend", backend, "--driver", driver, *(["--force-iptables-binary", variant] if variant else [])]
