"""Commands in messages, with the pod that they are about."""

from __future__ import annotations

import re
from shlex import quote
from typing import Any

COMMAND_WITHOUT_TARGET = re.compile(
    r"`(capture (?:apply|clean|explain|trace|verify|why)(?![^`]* --(?:netns|pid)\b)[^`]*)`"
)
"""A command that acts on a namespace, and names none."""
INSIDE = re.compile(
    r"`((?:ip (?:-6 )?(?:addr|link|neigh|route|rule|xfrm)|nft list |sysctl -w |tc )[^`]*)`(?: in the pod's namespace)?"
)
"""A command for within the namespace."""


def with_target(value: Any, namespace: str | None) -> Any:
    """Return a text, or plain values for JSON, whose commands name the namespace at a path; None is that we are in."""
    if namespace is None:
        return value
    if isinstance(value, str):
        process = re.fullmatch(r"/proc/(\d+)/ns/net", namespace)
        option = f"--pid {process[1]}" if process else f"--netns {quote(namespace)}"
        value = INSIDE.sub(lambda matched: f"`nsenter --net={quote(namespace)} {matched[1]}`", value)
        return COMMAND_WITHOUT_TARGET.sub(lambda matched: f"`{matched[1]} {option}`", value)
    if isinstance(value, dict):
        return {key: with_target(each, namespace) for key, each in value.items()}
    return [with_target(each, namespace) for each in value] if isinstance(value, list | tuple) else value
