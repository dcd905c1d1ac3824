"""``capture node status`` in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from capture.model.text import duration
from capture.report.output import VerdictLine
from cni.agent.pod_state import GOOD_STATES

POD_HANG = 21
"""The column at which a pod begins in its line, after its state."""


def status_lines(status: Mapping[str, Any], now: float | None = None) -> Iterator[str]:
    """Yield the lines; ``status`` is what the agent answers."""
    now = time.time() if now is None else now
    ready = "ready: pods that start now are captured" if status.get("ready") else "NOT ready"
    yield f"agent {status.get('version', '?')} on node {status.get('node') or '(none)'}: {ready}"
    for part, problem in sorted((status.get("problems") or {}).items()):
        yield f"  {part}: {problem['problem']} (for {duration(now - problem['since'])})"
    if loaded := status.get("loaded"):
        yield f"runtime: network {loaded['network']} with {', '.join(loaded['plugins'])}, from {loaded['directory']}"
    if expires := status.get("token_expires"):
        yield f"token: ends in {duration(expires - now)}"
    if since := status.get("api_away_since"):
        yield f"API server: away for {duration(now - since)}: {status.get('api_problem', '')}"
    elif status.get("api_connected"):
        yield f"API server: connected, {status.get('pods_known', 0)} pods known"
    if status.get("lost"):
        yield f"entry: lost {duration(now - status['lost'])} ago to {status.get('rival', '?')}"
    for state, pods in sorted((status.get("pod_states") or {}).items()):
        named = "" if state in GOOD_STATES else f": {', '.join(pods)}"
        yield f"pods {state}: {len(pods)}{named}"


def pod_lines(pods: Iterable[Mapping[str, Any]], now: float | None = None) -> Iterator[str]:
    """Yield a line for each pod, what is wrong first."""
    now = time.time() if now is None else now
    for pod in sorted(pods, key=lambda each: (each["state"] in GOOD_STATES, each["state"], each["pod"])):
        message = f": {pod['says']}" if pod["says"] else ""
        line = f"{pod['state']:<{POD_HANG - 1}} {pod['pod']} (for {duration(now - pod['since'])}){message}"
        yield VerdictLine(line, pod["state"])
        if pod["remedy"] and pod["state"] not in GOOD_STATES:
            yield f"{'':<{POD_HANG}}{pod['remedy']}"
