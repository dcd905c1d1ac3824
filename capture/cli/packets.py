"""Packets on the command line: ``tcp 10.1.2.3:80 --uid 1000``, ``udp [fd00::1]:53 --in eth0``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from capture.cli.options import OF_PROCESS_ALONE, namespace_of_process
from capture.cli.parameter_types import ParameterType, number_type, word_type
from capture.model.addresses import FAMILY_NAMES, Network, parse_address
from capture.model.conventions import APP_ID, MAX_ID
from capture.model.packet import LOOPBACK, Packet
from capture.model.ruleset import CONNECTION_STATES
from capture.report.output import warn
from capture.settings.config_warnings import missing_interface
from capture.settings.parsers import interface, packet_mark, port
from capture.system.netns import InNamespace
from capture.system.pod_host import PodFromInside
from capture.system.pod_network import with_route


def _parse_endpoint(text: str) -> tuple[Network, int]:
    host, port_text = _split_endpoint(text)
    return _parse_host(host), port(port_text)


def _parse_source(text: str) -> tuple[Network, int | None]:
    host, port_text = _split_endpoint(text)
    return _parse_host(host), port(port_text) if port_text else None


def _parse_host(text: str) -> Network:
    if "%" in text:
        raise click.UsageError(f"{text}: expected an address without a zone: name the interface by --in or --out")
    address = parse_address(text)
    if address.unmapped != address:
        warn([f"{text}: connections to it are IPv4, to {address.unmapped.shown}"])
    return address.unmapped


ID_TYPE = number_type(0, MAX_ID)
PROTOCOLS = ("tcp", "udp")
PROTOCOL_TYPE = ParameterType(str, "tcp or udp, before the address", PROTOCOLS.__contains__, PROTOCOLS)
ENDPOINT_TYPE = ParameterType(_parse_endpoint, "an address with a port (1-65535), such as 10.1.2.3:80 or [fd00::1]:80")
SOURCE_TYPE = ParameterType(_parse_source, "an address, such as 10.1.2.3, 10.1.2.3:45000 or fd00::1")
INTERFACE_TYPE = ParameterType(
    interface, "an interface name (at most 15 bytes, no blank, no '/')", lambda name: not name.endswith("+")
)
MARK_TYPE = ParameterType(packet_mark, "a number from 0 to 4294967295, decimal or 0x...")


def _split_endpoint(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    host, _, port_text = text.partition(":")
    return host, port_text


PROCESS = "capture.packets.pid"
"""Where a click context keeps the number of the process that sends the packet."""
AS_PROCESS = "capture.packets.process"
"""Where a click context keeps user and group of the process that sends the packet."""


def _set_sender_process(ctx: click.Context, _param: click.Parameter, pid: int | None) -> None:
    """Take user, group and namespace of a process: the ids by which sockets are owned are those of files (proc(5))."""
    if pid is None:
        return
    if ctx.params.get("namespace") is not None:
        raise click.UsageError(OF_PROCESS_ALONE, ctx)
    path = namespace_of_process("--as-pid", pid)
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    ctx.meta[PROCESS] = pid
    ctx.meta[AS_PROCESS] = tuple(int(fields[name].split()[-1]) for name in ("Uid", "Gid"))
    ctx.params["namespace"] = path


def packet_options() -> list[click.Parameter]:
    """Return the arguments and options that describe a packet."""
    return [
        click.Argument(["protocol"], type=PROTOCOL_TYPE, metavar="PROTOCOL"),
        click.Argument(["destination"], type=ENDPOINT_TYPE, metavar="ADDRESS:PORT"),
        click.Option(["--uid"], type=ID_TYPE, metavar="UID",
                     help=f"Id of the user that sends it.  [default: {APP_ID}]"),
        click.Option(["--gid"], type=ID_TYPE, metavar="GID",
                     help="Id of the group that sends it.  [default: the number of --uid]"),
        click.Option(["--in", "in_interface"], type=INTERFACE_TYPE, metavar="NAME",
                     help="The packet comes in through this interface."),
        click.Option(["--out", "out_interface"], type=INTERFACE_TYPE, metavar="NAME",
                     help="The packet leaves through this interface.  [default: what the routes say]"),
        click.Option(["--src", "source"], type=SOURCE_TYPE, metavar="ADDRESS[:PORT]", help="Its source."),
        click.Option(["--as-pid"], type=number_type(1), metavar="N", expose_value=False, callback=_set_sender_process,
                     help="Take user, group and network namespace from this process."),
        click.Option(["--mark"], type=MARK_TYPE, metavar="MARK", default="0", help="The packet's mark."),
        click.Option(["--connection-mark"], type=MARK_TYPE, metavar="MARK", default="0",
                     help="The mark of its connection."),
        click.Option(["--state"], type=word_type(*CONNECTION_STATES, spelled=str.upper), default="NEW",
                     show_default=True, help="State of its connection."),
    ]  # fmt: skip


def packet_from(options: dict[str, Any], ctx: click.Context) -> Packet:
    """Return the packet that the options of ``packet_options`` describe.

    Warn of an interface that the namespace does not have, unless the rules are those of options.
    """
    destination, port_number = options["destination"]
    source, source_port = options["source"] or (None, None)
    of_process = ctx.meta.get(AS_PROCESS, (None, None))
    uid, gid = (
        known if own is None else own for own, known in zip((options["uid"], options["gid"]), of_process, strict=True)
    )
    comes_in = options["in_interface"]
    if comes_in and (options["out_interface"] or uid is not None or gid is not None):
        raise click.UsageError("--in is for packets that come in: they have no --out, --uid or --gid", ctx)
    if source is not None and source.family != destination.family:
        families = f"--src is {FAMILY_NAMES[source.family]}, and the destination is {FAMILY_NAMES[destination.family]}"
        raise click.UsageError(f"{families}: expected one family", ctx)
    if not comes_in:
        uid = APP_ID if uid is None else uid
        gid = uid if gid is None else gid
    decoded = {"destination": destination, "port": port_number, "source": source, "source_port": source_port}
    packet = Packet(**{**options, **decoded, "uid": uid, "gid": gid})
    if not ctx.params.get("from_options"):
        with InNamespace(ctx.params["namespace"]):
            warn(_interface_warnings(packet))
    if comes_in == LOOPBACK:
        warn(["--in: what comes in over lo was sent by the pod, where nat decides on it: trace it without --in, too"])
    return packet


def _interface_warnings(packet: Packet) -> Iterator[str]:
    """Yield why the interface that was named for a packet cannot be its own."""
    flag, name = ("--in", packet.in_interface) if packet.in_interface else ("--out", packet.out_interface or LOOPBACK)
    if missing := missing_interface(name, PodFromInside().interface_names()):
        yield f"{flag}: {missing}"
    elif name != LOOPBACK and with_route(packet.replace(out_interface=None)).out_interface == LOOPBACK:
        yield f"{flag}: the pod's routes lead to {packet.destination.shown} by lo, whatever is named"
