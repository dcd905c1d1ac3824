"""Ids that a pod with ``hostUsers: false`` has: others can be in no rule there, or would match nothing.

iptables refuses them with "Invalid argument"; nftables takes them, and then the proxy's own traffic goes in circles.
"""

from __future__ import annotations

from capture.settings import options
from capture.state.user_namespace import Ids, read_id_maps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from capture.model.ruleset import Span
    from capture.settings.config import CaptureConfig
    from capture.settings.options import Option
    from capture.settings.settings import Settings


def require_known_ids(settings: Settings, config: CaptureConfig) -> None:
    """Raise ConfigurationError for the first id that the owner of the network namespace we are in does not have."""
    maps = read_id_maps()
    named: list[tuple[Option[Any], Ids, Iterable[Span]]] = [
        (options.PROXY_UID, maps.users, config.proxy_uids),
        *((options.UID_PORT_EXCLUSIONS, maps.users, exclusion.uids) for exclusion in config.uid_port_exclusions),
        (options.PROXY_GID, maps.groups, config.proxy_gids),
        (options.OWNER_GROUPS, maps.groups, config.owner_groups.entries),
        (options.EXCLUDED_OWNER_GROUPS, maps.groups, config.excluded_owner_groups),
    ]
    for option, ids, spans in named:
        for span in spans:
            if not ids.has(span):
                expected = f"ids of the pod's own user namespace (hostUsers: false), which has {ids}"
                raise settings.refused(option, expected, str(span))
