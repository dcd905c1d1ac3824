"""Network configurations for the runtime tests: a bridge with both families, then our plugin."""

import json
import sys
from pathlib import Path
from typing import Any

from cni.conf import ANNOTATIONS_CAPABILITY

PROGRAMS = sorted({"/usr", sys.prefix, sys.base_prefix, str(Path(__file__).parents[1])})
"""The part of the machine that containers see: programs, Python's packages, and the tests' own programs."""


def bridge(directory: Path, subnet: int) -> dict[str, Any]:
    """Return the entry of the reference plugin that gives each pod an address of both families on a bridge."""
    ipam = {
        "type": "host-local",
        "dataDir": f"{directory}/addresses",
        "ranges": [[{"subnet": f"10.123.{subnet}.0/24"}], [{"subnet": f"fd42:123:{subnet}::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    return {"type": "bridge", "bridge": f"pods{subnet}", "isGateway": True, "hairpinMode": True, "ipam": ipam}


def capture(directory: Path, **keys: object) -> dict[str, Any]:
    """Return the entry of our plugin."""
    return {
        "type": "capture-cni",
        "capabilities": {ANNOTATIONS_CAPABILITY: True},
        "log_file": f"{directory}/capture.log",
        "log_level": "debug",
    } | keys


def network(name: str, *plugins: dict[str, Any], version: str = "1.0.0") -> str:
    """Return a network configuration list."""
    return json.dumps({"cniVersion": version, "name": name, "plugins": plugins})
