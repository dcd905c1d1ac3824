"""The record of what was applied to a namespace, kept under /run for later calls.

A record holds the settings and the facts that they were resolved with; both together give the rule set
again. People read it, too: JSON, one file per namespace, in a directory that only root sees. Where it
cannot be written, nothing fails, and a warning tells; a directory that is not private is an error.
"""

from __future__ import annotations

from capture.errors import ConfigurationError
from capture.model.addresses import FAMILIES, parse_address
from capture.model.json_text import JsonError, decode_json, encode_json
from capture.model.routing import PolicyRoute
from capture.model.values import Value
from capture.rules import build_ruleset
from capture.settings.config import resolve
from capture.settings.options import RULE_OPTIONS
from capture.settings.settings import ExplicitValue, Settings
from capture.state.directory import STATE_DIRECTORY, make_private, require_private
from capture.state.host_answers import HostAnswers
from capture.system.files import content_of, read_file, remove_file, write_whole
from capture.system.netns import namespace_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.model.addresses import Family
    from capture.model.ruleset import Ruleset
    from capture.state.sysctls import Sysctl

RECORD_VERSION = 1
MAX_RECORD = 16 * 1024 * 1024
"""Bytes; with all annotations of a pod a record has half a megabyte."""
KNOWN_WRITERS = {
    "backend": ("iptables", "nftables"),
    "driver": ("netlink", "restore", "iptc", "libnftables"),
    "variant": ("", "nft", "legacy"),
}
"""How rules were written, in the words of this version; a record with others is set aside."""
OPTIONS_BY_NAME = {option.name: option for option in RULE_OPTIONS}


class Record(Value):
    """The record of a namespace: the settings, the facts at that time, and how the rules were written.

    It is written before anything else is, so that what was begun is known if it never comes to an end;
    ``stale_routes`` are those of what was there before, as long as they may be there.
    """

    settings: Settings
    answers: HostAnswers
    ruleset: Ruleset
    """The rule set that settings and facts give, which was applied."""
    backend: str
    driver: str
    variant: str = ""
    stale_routes: tuple[PolicyRoute, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    """The kernel's switches that we changed, with the values of before."""

    @property
    def routes(self) -> tuple[PolicyRoute, ...]:
        """Return our policy routes that may be in the namespace."""
        return (*self.ruleset.policy_routes, *self.stale_routes)


def as_json(record: Record) -> str:
    """Return the record as JSON."""
    answers = record.answers
    return encode_json(
        {
            "version": RECORD_VERSION,
            **{how: getattr(record, how) for how in KNOWN_WRITERS},
            "settings": {
                option.name: [explicit.text, explicit.origin]
                for option, explicit in record.settings.explicit.items()
                if option.name in OPTIONS_BY_NAME
            },
            "facts": {
                **{fact: getattr(answers, fact) for fact in HostAnswers.__match_args__ if fact != "servers"},
                "knows_proxy_environment": record.settings.knows_proxy_environment,
                "name_servers": [server.shown for server in answers.servers],
            },
            "stale_routes": [[route.family, route.mark, route.table] for route in record.stale_routes],
            "sysctls": {sysctl.path: sysctl.value for sysctl in record.sysctls},
        }
    )


def from_json(text: str) -> Record | str:
    """Return the record that a text holds, or what is wrong with it, such as that it gives no rule set (any more).

    Pods of one template have the same text, and an agent that looks at many reads it once.
    """
    if known := _recent_records.get(text):
        return known
    try:
        plain = decode_json(text)
        if plain["version"] != RECORD_VERSION:
            return f"it is of version {plain['version']!r}, and this program reads version {RECORD_VERSION}"
        settings, answers, others = _decoded_parts(plain)
    except JsonError as error:
        return f"it is not JSON ({error})"
    except KeyError as error:
        return f"{error.args[0]!r} in it is missing or unknown"
    except (AttributeError, TypeError, ValueError):
        return "a value in it is unknown or of the wrong type"
    try:
        config, _ = resolve(settings, answers)
    except ConfigurationError as error:
        return error.message
    record = Record(settings, answers, build_ruleset(config), **others)
    for oldest in list(_recent_records)[: 1 - MAX_RECENT_RECORDS]:  # threads share them: one step, no iteration
        _recent_records.pop(oldest, None)
    _recent_records[text] = record
    return record


_recent_records: dict[str, Record] = {}
MAX_RECENT_RECORDS = 16


def _decoded_parts(plain: dict[str, Any]) -> tuple[Settings, HostAnswers, dict[str, Any]]:
    """Return what a rule set is made of, and the other fields of a record."""
    settings = Settings(
        {
            OPTIONS_BY_NAME[name]: ExplicitValue(*map(_require_text, explicit))
            for name, explicit in plain["settings"].items()
        },
        knows_proxy_environment=plain["facts"].get("knows_proxy_environment") is not False,
    )
    return (
        settings,
        _decoded_answers(plain["facts"]),
        {
            "stale_routes": tuple(_decoded_route(*route) for route in plain.get("stale_routes", ())),
            "sysctls": _decoded_sysctls(plain.get("sysctls", {})),
            **{how: words[words.index(plain[how])] for how, words in KNOWN_WRITERS.items()},
        },
    )


def _decoded_answers(plain: dict[str, Any]) -> HostAnswers:
    return HostAnswers(
        users=_decoded_ids(plain["users"]),
        groups=_decoded_ids(plain["groups"]),
        proxy_user=_require_text(plain["proxy_user"]),
        families=tuple(map(_require_family, plain["families"])),
        ipv6=plain["ipv6"],
        servers=tuple(parse_address(server) for server in plain["name_servers"]),
        primary=None if plain.get("primary") is None else _require_family(plain["primary"]),
    )


def _decoded_ids(values: dict[str, Any]) -> dict[str, int | None]:
    return {name: None if value is None else int(value) for name, value in values.items()}


def _decoded_sysctls(values: dict[str, object]) -> tuple[Sysctl, ...]:
    if not values:
        return ()
    from capture.state.sysctls import Sysctl  # few captures change any

    return tuple(Sysctl(_require_text(path), _require_text(value)) for path, value in values.items())


def _decoded_route(family: Any, mark: object, table: object) -> PolicyRoute:
    if not isinstance(mark, int) or not isinstance(table, int):
        raise ValueError(mark, table)  # noqa: TRY004  # what is wrong with a record is a ValueError
    return PolicyRoute(_require_family(family), mark, table)


def _require_family(value: Any) -> Family:
    if value not in FAMILIES:
        raise KeyError(value)
    return FAMILIES[FAMILIES.index(value)]


def _require_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


# --- files ---------------------------------------------------------------------------------------


def record_path(namespace: str, directory: str = STATE_DIRECTORY) -> str:
    """Return where the record of a namespace is kept."""
    return f"{directory}/{namespace}.json"


def read(directory: str = STATE_DIRECTORY) -> Record | None:
    """Return the record of the namespace we are in; None without a usable one (``why_unusable`` has the reason).

    Raises StateDirectoryError if others could have written it.
    """
    require_private(directory)
    parsed = _record_in_file(record_path(namespace_id(), directory))
    return None if isinstance(parsed, str) else parsed


def why_unusable(directory: str = STATE_DIRECTORY) -> str:
    """Return why the record of the namespace we are in cannot be used; "" if there is none, or it can be used."""
    path = record_path(namespace_id(), directory)
    parsed = _record_in_file(path)
    return f"the record {path} cannot be used: {parsed}" if parsed and isinstance(parsed, str) else ""


def _record_in_file(path: str) -> Record | str:
    try:
        return from_json(read_file(path, MAX_RECORD).decode())
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeDecodeError:
        return "it is not UTF-8"


def write(record: Record, directory: str = STATE_DIRECTORY) -> str:
    """Keep the record of the namespace we are in; return why that was not possible, nothing if it was.

    Readers see the old record or the new one, whole; of two writers the last one's stays. What is kept already is not
    written again. Raises StateDirectoryError if others could write there, too.
    """
    try:
        make_private(directory)
        path = record_path(namespace_id(), directory)
        content = as_json(record).encode()
        if content_of(path) != content:
            write_whole(path, content)
    except OSError as error:
        return error.strerror or str(error)
    return ""


class Journal:
    """The record of one change, from before it begins until nothing of what it replaced is left."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._to_turn_off = record.sysctls
        self._problem = ""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return, in at most one line, that nothing is recorded, and what follows."""
        if not self._problem:
            return ()
        effect = "`dump` and `verify` will not know the applied configuration; name the options when you verify"
        return (f"{STATE_DIRECTORY} cannot be written ({self._problem}): {effect}",)

    def begin(self, stale: Ruleset, recorded: Record | None) -> None:
        """Keep the record, with the routes that are there until the change is over, and switches changed earlier."""
        changed = {sysctl.path: sysctl for sysctl in self._record.sysctls}
        changed |= {sysctl.path: sysctl for sysctl in (recorded.sysctls if recorded else ())}
        self._record = self._record.replace(sysctls=tuple(changed.values()))
        self._problem = write(self._record.replace(stale_routes=stale.policy_routes))

    def turn_off_sysctls(self) -> bool:
        """Turn off the switches that the record names; return whether any was on."""
        if not self._to_turn_off:
            return False
        from capture.state.sysctls import switch_off  # TPROXY only

        return switch_off(self._to_turn_off)

    def roll_back(self, recorded: Record | None, desired: Ruleset) -> None:
        """Keep what was recorded before, because the change failed; routes of the desired set may be there already."""
        restore_sysctls(self._to_turn_off)
        if recorded is None:
            forget()
        else:
            write(recorded.replace(stale_routes=(*recorded.stale_routes, *desired.policy_routes)))

    def commit(self) -> None:
        """Keep the record without stale routes: they are gone."""
        self._problem = write(self._record)

    def restore_sysctls(self) -> bool:
        """Restore switches that the rules no longer need; return whether we had changed any."""
        remembered = self._record.sysctls
        self._record = self._record.replace(sysctls=())
        return restore_sysctls(remembered)


def restore_sysctls(sysctls: tuple[Sysctl, ...]) -> bool:
    """Give recorded switches the values that they had before; return whether any was still as we left it."""
    if not sysctls:
        return False
    from capture.state.sysctls import restore  # TPROXY only

    return restore(sysctls)


def forget(directory: str = STATE_DIRECTORY) -> None:
    """Remove the record of the namespace we are in, if there is one."""
    remove_file(record_path(namespace_id(), directory))
