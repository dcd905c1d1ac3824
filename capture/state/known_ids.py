"""Ids that a pod with ``hostUsers: false`` has: others can be in no rule there, or would match nothing.

iptables refuses them with "Invalid argument"; nftables takes them, and then the proxy's own traffic goes in circles.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from capture.settings.options import EXCLUDED_OWNER_GROUPS, OWNER_GROUPS, PROXY_GID, PROXY_UID, UID_PORT_EXCLUSIONS
from capture.state.user_namespace import read_id_maps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from capture.model.ruleset import Span
    from capture.settings.config import CaptureConfig
    from capture.settings.options import Option
    from capture.settings.settings import Settings


def require_known_ids(settings: Settings, config: CaptureConfig) -> None:
    """Raise ConfigurationError for the first id that the owner of the network namespace we are in does not have."""
    maps = read_id_maps()
    for ids, named in ((maps.users, _users(config)), (maps.groups, _groups(config))):
        for option, span in named:
            if not ids.has(span):
                expected = f"ids of the pod's own user namespace (hostUsers: false), which has {ids}"
                raise ConfigurationError(option.name, str(span), settings.origin(option), expected)


def _users(config: CaptureConfig) -> Iterator[tuple[Option[Any], Span]]:
    for span in config.proxy_uids:
        yield PROXY_UID, span
    for exclusion in config.uid_port_exclusions:
        for span in exclusion.uids:
            yield UID_PORT_EXCLUSIONS, span


def _groups(config: CaptureConfig) -> Iterator[tuple[Option[Any], Span]]:
    for span in config.proxy_gids:
        yield PROXY_GID, span
    for span in config.owner_groups.entries:
        yield OWNER_GROUPS, span
    for span in config.excluded_owner_groups:
        yield EXCLUDED_OWNER_GROUPS, span
