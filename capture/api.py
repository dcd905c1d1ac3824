"""What programs need besides the verbs: settings from Python's values, and packets to ask about."""

from __future__ import annotations

from capture import program
from capture import settings as table
from capture.addresses import parse_address
from capture.settings import Option, Said, Settings
from capture.trace import Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from capture.config import Host
    from capture.model import ProtocolName
    from capture.trace import Trace

    Plain = str | int | bool | Iterable[str | int] | None

OPTIONS_BY_NAME: dict[str, Option[Any]] = {
    name.lower(): value for name, value in vars(table).items() if isinstance(value, Option)
}
"""The options by the names that they have in ``capture.settings``, in lower case."""


def make_settings(**options: Plain) -> Settings:
    """Return settings in which the named options say what is given; the others have their defaults.

    Names are those of docs/options.md (``proxy_port``, ``excluded_outbound_networks``). A value is the text that a
    flag would be given, or a number, a truth value, or several of them for a list; an empty list is "none", and
    None is as good as leaving the option out. Every value is looked at here.

    Raises TypeError for a name that is no option, and ConfigurationError for a value that cannot be used.
    """
    said = {}
    for name, value in options.items():
        option = OPTIONS_BY_NAME.get(name)
        if option is None:
            raise TypeError(f"make_settings() has no option {name!r}{_similar(name)}")
        if value is not None:
            said[option] = Said(_text(value), f"the argument {name}")
    return Settings(said).checked()


def _similar(name: str) -> str:
    import difflib  # only where something is wrong

    similar = difflib.get_close_matches(name, OPTIONS_BY_NAME, n=1)
    return f"; is {similar[0]!r} meant?" if similar else ""


def _text(value: str | int | Iterable[str | int]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return ",".join(map(str, value))


def trace_packet(  # noqa: PLR0913  # a packet has this many sides; all but the first two are named
    destination: str,
    port: int,
    settings: Settings | None = None,
    namespace: str | None = None,
    host: Host | None = None,
    *,
    protocol: ProtocolName = "tcp",
    uid: int = 1000,
    gid: int | None = None,
    source: str | None = None,
    in_interface: str | None = None,
) -> Trace:
    """Return what happens to the first packet of a connection: the outcome, the port, and the rule that decides.

    By the live rules of the namespace, or by those that the settings would give. With ``in_interface`` the packet
    comes in, else a process with ``uid`` and ``gid`` (default: the same number) sends it.
    """
    is_outbound = in_interface is None
    packet = Packet(
        protocol,
        parse_address(destination),
        port,
        source=parse_address(source) if source else None,
        uid=uid if is_outbound else None,
        gid=(uid if gid is None else gid) if is_outbound else None,
        in_interface=in_interface,
    )
    return program.trace(packet, settings, namespace, host)
