"""``render``: what would be sent to a kernel, without one."""

from __future__ import annotations

from capture.backends import detect, load_driver
from capture.backends.detect import BackendChoice
from capture.errors import argument_error
from capture.model.addresses import FAMILIES, IPV6, Family
from capture.operations.arguments import host_or_default, request_of
from capture.rules import build_ruleset
from capture.settings.config import Host, resolve
from capture.settings.settings import Settings, require_settings
from capture.system.pod_host import AnyPod


def render(
    settings: Settings,
    host: Host | None = None,
    families: tuple[Family, ...] = FAMILIES,
    choice: BackendChoice | None = None,
) -> list[tuple[str, str]]:
    """Return what would be sent into an empty namespace, as titled texts; touches no kernel.

    Without a choice, the backend and driver are those that most hosts take. Raises ConfigurationError.
    """
    config, _ = resolve(require_settings(settings, "render"), host_or_default(host, AnyPod(), "render"))
    if not isinstance(families, tuple) or not all(family in FAMILIES for family in families):
        raise argument_error("render", "families", families, "a tuple with some of 'ipv4', 'ipv6'")
    if choice is not None and not isinstance(choice, BackendChoice):
        raise argument_error("render", "choice", choice, "what Applied.choice is")
    config = config.replace(families=tuple(family for family in config.families if family in families))
    texts = load_driver(choice or detect.choose_without_kernel(request_of(settings))).render(build_ruleset(config))
    if not config.rejects_ipv6 or IPV6 not in families:
        return texts
    from capture.backends.nf_tables.render import table_text  # few captures reject anything
    from capture.backends.other_family import written_table

    return [*texts, ("nft -f -", table_text(written_table(), with_counters=False))]
