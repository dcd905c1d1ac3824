"""Long lists: an ADD with thousands of excluded networks, CHECK and listings, against nft with the same set."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cold import BUNDLE, plugin
from measure import Command, Namespace, Result, interleaved, run

EXCLUDE = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
RULES = """
table inet pod {{
    chain output {{
        type nat hook output priority -100
        meta l4proto tcp counter jump captured
    }}
    chain captured {{
        ip daddr {{ {networks} }} counter return
    }}
}}
"""


def networks(count: int) -> list[str]:
    """Return so many networks that neither overlap nor touch each other, the same ones every time, in no order."""
    source = random.Random(7)
    blocks = source.sample(range(1 << 15, 10 << 15), count)  # every other /24 of 1.0.0.0 to 9.255.254.0
    return [f"{block >> 15}.{block >> 7 & 255}.{(block & 127) << 1}.0/{source.randint(24, 28)}" for block in blocks]


def measure(count: int, rounds: int) -> dict[str, Result]:
    """Return what each way takes to load, to verify and to list so many networks."""
    with tempfile.TemporaryDirectory() as directory:
        return interleaved(variants(Path(directory), count), rounds, f"{count} networks")


def excluding(command: Command, excluded: str) -> Command:
    """Return a call of the plugin for a pod whose annotations exclude these networks."""
    configuration = json.loads(command.stdin)
    configuration["runtimeConfig"]["io.kubernetes.cri.pod-annotations"][EXCLUDE] = excluded
    return replace(command, stdin=json.dumps(configuration))


def variants(directory: Path, count: int) -> dict[str, Callable[[Namespace], Command]]:
    """Return the ways that are compared. The plugin does all that it does for a pod; nft only makes the one set."""
    excluded = ",".join(networks(count))
    script = directory / "rules.nft"
    script.write_text(RULES.format(networks=excluded))

    def call(namespace: Namespace, command: str) -> Command:
        return excluding(plugin(namespace, command, "nftables", "netlink"), excluded)

    def loaded(namespace: Namespace) -> Callable[[], object]:
        return lambda: run(call(namespace, "ADD"), namespace)

    def capture(*words: str) -> Callable[[Namespace], Command]:
        return lambda namespace: Command([str(BUNDLE / "capture"), *words], before=loaded(namespace))

    return {
        "load: nft -f": lambda _: Command(["nft", "-f", str(script)]),
        "load: ADD": lambda namespace: call(namespace, "ADD"),
        "read: nft list ruleset": lambda namespace: Command(["nft", "list", "ruleset"], before=loaded(namespace)),
        "read: CHECK": lambda namespace: replace(call(namespace, "CHECK"), before=loaded(namespace)),
        "read: capture verify": capture("verify"),
        "read: capture dump": capture("dump", "--format", "json"),
    }
