"""Reads values of the network configuration by key, and checks their kind; null is as good as absent.

A value that cannot be used is an error (SPEC, "Error", code 7) that names the key, the value and what is expected.
"""

from __future__ import annotations

from cni.protocol import INVALID_CONFIGURATION, CniError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


def text(configuration: Mapping[str, Any], key: str, expected: str) -> str:
    """Return a text; "" without one."""
    value = configuration.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise invalid_value(key, value, expected)
    return value


def texts(configuration: Mapping[str, Any], key: str, expected: str) -> tuple[str, ...] | None:
    """Return a list of texts; None without one."""
    value = configuration.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise invalid_value(key, value, expected)
    return tuple(value)


def path(configuration: Mapping[str, Any], key: str) -> str:
    """Return an absolute path, of characters that can be printed; "" without one."""
    value = text(configuration, key, "an absolute path")
    if value and not (value.startswith("/") and value.isprintable()):
        raise invalid_value(key, value, "an absolute path")
    return value


def invalid_value(key: str, value: object, expected: str) -> CniError:
    """Return the error for a value that cannot be used."""
    return CniError(
        INVALID_CONFIGURATION,
        f"network configuration: {key!r}: invalid value {shown(value)}: expected {expected}",
        f"Look at the plugin's entry in the network configuration list on the node; {key!r} may also be left out.",
    )
