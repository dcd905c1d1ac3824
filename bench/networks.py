"""Long lists: loading, verifying and dumping thousands of excluded networks, against nft with the same set."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from cold import BUNDLE
from measure import Command, Namespace, Result, interleaved, run


def networks(count: int) -> list[str]:
    """Return so many networks that neither overlap nor touch each other, the same ones every time."""
    source = random.Random(7)
    blocks = source.sample(range(11 << 15, 126 << 15), count)  # every other /24 of 11.0.0.0 to 125.255.254.0
    return [f"{block >> 15}.{block >> 7 & 255}.{(block & 127) << 1}.0/{source.randint(24, 28)}" for block in blocks]


def measure(count: int, rounds: int) -> dict[str, Result]:
    """Return what each way takes to load, to verify and to list so many networks."""
    with tempfile.TemporaryDirectory() as directory:
        return interleaved(variants(Path(directory), count), rounds, f"{count} networks")


def variants(directory: Path, count: int) -> dict[str, Callable[[Namespace], Command]]:
    """Return the ways that are compared."""
    excluded = ",".join(networks(count))
    variables = {"ISTIO_SERVICE_EXCLUDE_CIDR": excluded, "ISTIO_DUAL_STACK": "true"}
    init = [str(BUNDLE / "istio-init"), "--backend", "nftables"]
    capture = str(BUNDLE / "capture")
    script = directory / "rules.nft"
    with Namespace() as scratch:
        run(Command(init, environment=variables), scratch)
        script.write_text(scratch.run(["nft", "list", "ruleset"], timeout=60).stdout)

    def loaded(namespace: Namespace) -> Callable[[], object]:
        return lambda: run(Command(init, environment=variables), namespace)

    return {
        "load: nft -f": lambda _: Command(["nft", "-f", str(script)]),
        "load: capture apply": lambda _: Command([capture, "apply", "--backend", "nftables"], environment=variables),
        "read: nft list ruleset": lambda ns: Command(["nft", "list", "ruleset"], before=loaded(ns)),
        "read: capture verify": lambda ns: Command([capture, "verify"], before=loaded(ns)),
        "read: capture dump": lambda ns: Command([capture, "dump", "--format", "json"], before=loaded(ns)),
    }
