"""``capture host``: a machine that is itself in the mesh, such as a virtual machine, and is no node of a cluster."""

from __future__ import annotations

import os
import select
import signal
import sys
from types import FrameType
from typing import NoReturn

import click

from capture import operations
from capture.cli.apply import print_applied
from capture.cli.clean import clean_namespace
from capture.cli.options import CommandGroup, capture_options, command, format_option, settings_of
from capture.cli.parameter_types import number_type
from capture.cli.why import print_diagnosis
from capture.errors import CaptureError
from capture.model.conventions import SSH_PORT
from capture.report.applied_text import print_start_line
from capture.report.output import print_on_stderr
from capture.settings.options import ALLOW_HOST, EXCLUDED_INBOUND_PORTS, INBOUND_CAPTURE_PORT, PROXY_PORT
from capture.settings.settings import Settings
from capture.system.node import evidence_of_node
from capture.system.pod_facts import listening_tcp_ports

ENDING_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
"""The signals of a lost terminal, of Ctrl-C, and of a shutdown."""


@click.group("host", cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
def host_group() -> None:
    """Capture this machine itself: a virtual machine of the mesh, which is no node of a cluster."""


@command(
    """
    capture host apply -u istio-proxy --profile current
    capture host apply -u istio-proxy --keep    # in a script: nothing is to be confirmed
    """,
    *capture_options(),
    click.Option(["--keep"], is_flag=True, help="Keep the capture without a confirmation."),
    click.Option(["--confirm-within", "seconds"], type=number_type(1, 3600), metavar="SECONDS", default=60,
                 show_default=True, help="Remove the capture if Enter is not pressed in this time."),
    format_option("text", "json"),
    group=host_group,
)  # fmt: skip
@click.pass_context
def apply(ctx: click.Context, *, keep: bool, seconds: int, form: str) -> int:
    """Capture this machine, and undo that unless it is confirmed.

    The proxy has to listen already: without it, the machine would be cut off. Connections to the SSH server are not
    captured. If Enter is not pressed in time, or the terminal is lost, everything of the capture is removed.
    """
    if not keep and not (sys.stdin and sys.stdin.isatty()):
        raise click.UsageError("there is no terminal to confirm at; --keep captures without a confirmation", ctx)
    refuse_cluster_node()
    settings = without_ssh(settings_of(ctx)).with_option(ALLOW_HOST, "true", "capture host apply")
    require_proxy(settings)
    if not keep:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)  # no end between the rules and the way back
    applied = operations.apply(settings)
    if applied.changed and not keep:
        keep_if_confirmed(seconds)
    return print_applied(applied, form)


@command("", format_option("table", "json"), group=host_group)
def status(form: str) -> int:
    """Print what is wrong with the capture of this machine.

    As `capture why` does: exit code 0 if nothing is, 4 if a cause was found, 5 if that is unknown.
    """
    diagnosed = operations.why(is_machine=True)
    print_start_line(operations.read_reference(), form)
    return print_diagnosis(diagnosed, form, "this machine")


@command("", format_option("text", "json"), group=host_group)
def clean(form: str) -> int:
    """Remove the capture of this machine.

    That is: rules, routes and addresses. Foreign rules stay.
    """
    return clean_namespace(None, form, allow_host=True)


def refuse_cluster_node() -> None:
    """Raise CaptureError on a node of a cluster: its own traffic is that of kubelet and of every pod."""
    evidence = evidence_of_node()
    if evidence:
        raise CaptureError(
            f"refused: this machine is a node, since {evidence}", "`capture cni install` captures its pods."
        )


def without_ssh(settings: Settings) -> Settings:
    """Return the settings with the ports of SSH excluded: 22, and the one that this session came in by (ssh(1))."""
    session = os.environ.get("SSH_CONNECTION", "").split()
    ports = dict.fromkeys([str(SSH_PORT), *session[3:4]])
    excluded = [port for port in (settings.text(EXCLUDED_INBOUND_PORTS), *ports) if port]
    return settings.with_option(EXCLUDED_INBOUND_PORTS, ",".join(excluded), "capture host apply").checked()


def require_proxy(settings: Settings) -> None:
    """Raise CaptureError unless captured connections, also those from outside, would find a listening socket."""
    for option, from_outside in ((PROXY_PORT, False), (INBOUND_CAPTURE_PORT, True)):
        if settings[option] not in listening_tcp_ports(from_outside=from_outside):
            where = f"port {settings[option]}{' for connections from outside' if from_outside else ''}"
            raise CaptureError(
                f"nothing listens on {where}: without its proxy, a captured machine is cut off",
                "Start the proxy first, on all addresses, as the user that -u names.",
            )


def keep_if_confirmed(seconds: int) -> None:
    """Return when the person at the terminal confirms the capture; else remove it, and raise CaptureError."""
    for ending in ENDING_SIGNALS:
        signal.signal(ending, _raise_not_confirmed)
    is_confirmed = False
    signalled, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wakeup)  # select(2) is not interrupted by a signal that comes just before it
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        print_on_stderr(f"captured. Connect to this machine once more, then press Enter within {seconds} s to keep it.")
        readable, _, _ = select.select([sys.stdin, signalled], [], [], seconds)
        is_confirmed = sys.stdin in readable and bool(sys.stdin.readline())
    finally:
        for ending in ENDING_SIGNALS:
            signal.signal(ending, signal.SIG_DFL if is_confirmed else signal.SIG_IGN)  # a second one does not stop it
        if not is_confirmed:
            operations.clean(allow_host=True)
    if not is_confirmed:
        _raise_not_confirmed()


def _raise_not_confirmed(_signal: int = 0, _frame: FrameType | None = None) -> NoReturn:
    remedy = "If the second connection failed, apply with --keep at the console, and run `capture why` there; else use"
    raise CaptureError("the capture was not confirmed, and was removed", f"{remedy} a longer --confirm-within.")
