"""``render``: what would be sent to a kernel, without one."""

from __future__ import annotations

from capture.backends import detect, load
from capture.backends.detect import BackendChoice
from capture.errors import ConfigurationError
from capture.model.addresses import FAMILIES, IPV6, Family
from capture.operations.arguments import request_of
from capture.rules import build_ruleset
from capture.settings.config import Host, resolve
from capture.settings.settings import Settings, as_settings
from capture.state.pod_host import AnyPod


def render(
    settings: Settings,
    host: Host | None = None,
    families: tuple[Family, ...] = FAMILIES,
    choice: BackendChoice | None = None,
) -> list[tuple[str, str]]:
    """Return what would be sent into an empty namespace, as titled texts; touches no kernel.

    Without a choice, the backend and driver are those that most hosts take.
    """
    config, _ = resolve(as_settings(settings, "render"), host or AnyPod())
    if not isinstance(families, tuple) or not set(families) <= set(FAMILIES):
        raise ConfigurationError("render()", repr(families), "the argument families", f"some of {FAMILIES}")
    config = config.replace(families=tuple(family for family in config.families if family in families))
    texts = load(choice or detect.choose_without_kernel(request_of(settings))).render(build_ruleset(config))
    if not config.rejects_ipv6 or IPV6 not in families:
        return texts
    from capture.backends.nf_tables.render import table_text  # few captures reject anything
    from capture.backends.other_family import written_table

    return [*texts, ("nft -f -", table_text(written_table(), with_counters=False))]
