"""``capture render``."""

from __future__ import annotations

import click

from capture import operations
from capture.cli.options import capture_options, command, family_option, format_option, namespace_options, settings_of
from capture.model.addresses import FAMILIES, FAMILY_NAMES, Family
from capture.report.applied_text import start_line
from capture.report.output import print_json, print_on_stderr, warn
from capture.settings.config import Host, resolve
from capture.settings.options import BACKEND, DRIVER, FORCE_IPTABLES_BINARY, NATIVE_NFTABLES
from capture.settings.settings import Settings
from capture.system.netns import InNamespace
from capture.system.pod_host import AnyPod


@command(
    """
    capture render -p 15001 -z 15006 -u 1337
    capture render --backend nftables --profile current | nft --check --file -
    capture render --backend iptables --family ipv6 | ip6tables-restore --test
    capture render --ip-families mesh --pid 4711
    """,
    *capture_options(),
    *namespace_options(),
    family_option(),
    format_option("text", "json"),
)
@click.pass_context
def render(ctx: click.Context, namespace: str | None, family: Family | None, form: str) -> None:
    """Print what would be sent to the kernel for an empty network namespace.

    For both backends, or for the one that --backend names. It needs no privilege and uses no kernel: users and name
    servers are those of this machine. With --netns or --pid families are those of the pod, whose users are known by
    number only. Headings are comments, so that the output for one backend (and for iptables: of one family) can be
    piped to iptables-restore, ip6tables-restore or nft.
    """
    settings = settings_of(ctx)
    host: Host = AnyPod() if namespace is None else operations.host_of(namespace)
    families = (family,) if family else FAMILIES
    with InNamespace(namespace):
        config, warnings = resolve(settings, host)
        by_backend = [operations.render(choice, host, families) for choice in _choices(settings)]
    texts = list(dict.fromkeys(text for texts in by_backend for text in texts))  # the table that rejects comes once
    if family not in (None, *config.families) and not texts:
        warnings.append(f"--family {family}: no rules: only {FAMILY_NAMES[config.families[0]]} is captured")
    warn(warnings)
    if form == "json":
        print_json({"texts": [{"title": title, "text": text} for title, text in texts], "warnings": warnings})
        return
    print_on_stderr(start_line(settings, config))
    click.echo("\n".join(f"# for: {title}\n{text.rstrip()}\n" for title, text in texts), nl=False)


def _choices(settings: Settings) -> list[Settings]:
    """Return the settings for each backend, or just them if they choose one."""
    chosen = settings[BACKEND] != "auto" or settings[NATIVE_NFTABLES]
    if chosen or settings[DRIVER] or settings[FORCE_IPTABLES_BINARY]:
        return [settings]
    return [settings.with_option(BACKEND, backend, "default") for backend in ("iptables", "nftables")]
