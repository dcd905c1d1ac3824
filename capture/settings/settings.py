"""Settings: the text given for each option, and its origin. An option without a text has its default."""

from __future__ import annotations

from capture.errors import ConfigurationError, argument_error
from capture.model.addresses import Network, PrefixError, network_parts, parse_network
from capture.model.text import closest_name, shortened
from capture.model.values import Value
from capture.settings import parsers
from capture.settings.options import LOG_OUTPUT_LEVEL, NETWORK_OPTIONS, OPTIONS, OWN_PREFIX, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")


class ExplicitValue(Value):
    """The text that was given for one option, and where: ``command line``, ``environment ISTIO_INBOUND_PORTS``, ..."""

    text: str
    origin: str


def require_settings(value: object, caller: str) -> Settings:
    """Return a value that is to be settings; ConfigurationError if it is something else, such as a dict."""
    if isinstance(value, Settings):
        return value
    raise argument_error(caller, "settings", value, "what make_settings() returns")


_LAST_PARSED: dict[str, tuple[str, Any]] = {}
"""The value of the last text of each option: it is read several times, and may be a list of thousands."""


class Settings(Value):
    """The given texts by option; an option without one has its default."""

    not_compared = ("warnings",)

    explicit: Mapping[Option[Any], ExplicitValue]
    warnings: tuple[str, ...] = ()
    """Given texts that do not count, in words."""
    knows_proxy_environment: bool = True
    """False where the source of facts about a pod does not know the environment of its proxy."""

    def __getitem__(self, option: Option[T]) -> T:
        """Return the value of an option; ConfigurationError if its text cannot be used."""
        text = self.text(option)
        last = _LAST_PARSED.get(option.name)
        if last is not None and last[0] == text:
            return last[1]  # type: ignore[no-any-return]  # it is what this option's parser made of the text
        value = _LAST_PARSED[option.name] = text, self._parsed_value(option, text)
        return value[1]

    def _parsed_value(self, option: Option[T], text: str) -> T:
        if not text.isprintable():
            raise self.error_for(option, f"{option.expected}; no control characters{_bad_entry(option, text)}")
        try:
            return option.parse(text)
        except ValueError as error:
            reason = f"; {error}" if isinstance(error, PrefixError) else ""
            raise self.error_for(option, f"{option.expected}{_bad_entry(option, text)}{reason}") from None

    def error_for(self, option: Option[Any], expected: str, text: str | None = None) -> ConfigurationError:
        """Return the error for the text of an option, or for a part of it."""
        value = self.text(option) if text is None else text
        return ConfigurationError(option.name, value, self.origin(option), expected, option.short)

    def checked(self) -> Settings:
        """Return these settings if every given value can be used; ConfigurationError if one cannot."""
        for option in self.explicit:
            self[option]
        return self

    def text(self, option: Option[Any]) -> str:
        """Return the text that counts for an option."""
        explicit = self.explicit.get(option)
        if explicit is None or (not explicit.text and option.empty_means_default):
            return option.default
        return explicit.text

    def origin(self, option: Option[Any]) -> str:
        """Return where the text of an option comes from, in words."""
        explicit = self.explicit.get(option)
        return explicit.origin if explicit else "default"

    def lines(self) -> list[str]:
        """Return a line for each option that was given: the text that counts, and where it comes from."""
        chosen = (option for option in OPTIONS if option in self.explicit)
        return [f"{option.name} {self.text(option)!r} ({self.origin(option)})" for option in chosen]

    def with_option(self, option: Option[Any], text: str, origin: str) -> Settings:
        return self.replace(explicit={**self.explicit, option: ExplicitValue(text, origin)})

    def without(self, option: Option[Any]) -> Settings:
        return self.replace(explicit={each: value for each, value in self.explicit.items() if each != option})


def _bad_entry(option: Option[Any], text: str) -> str:
    """Return which entry of a list is wrong, for the end of its error: the list itself may be cut there."""
    entries = parsers.split_list(text)
    bad = next((entry for entry in entries if _is_bad(option, entry)), "") if len(entries) > 1 else ""
    return f"; invalid entry {shortened(bad)!r}" if bad else ""


def _is_bad(option: Option[Any], entry: str) -> bool:
    if entry == "*" or not entry.isprintable():  # '*' is for everything, and alone
        return True
    try:
        option.parse(entry)
    except ValueError:
        return True
    return False


def from_environment(
    environ: Mapping[str, str], options: Iterable[Option[Any]] = OPTIONS, whose: str = "", *, own_names: bool = True
) -> Settings:
    """Return the values of the environment; truth values that cannot be read, and Service links, count as absent.

    ``whose`` names the owner of the environment in errors. Without ``own_names``, names that are made from flags do not
    count: in other programs they may mean something else.
    """
    explicit = {}
    warnings = []
    for option in options:
        for variable in option.variables if own_names else option.environment:
            text, origin = environ.get(variable), f"environment {variable}{whose}"
            if text is None:
                continue
            if is_service_link(variable, text):
                warnings.append(f"{origin}: {text!r} is ignored: Kubernetes sets it for a Service of that name")
            elif is_readable(option, text):
                explicit[option] = ExplicitValue(text, origin)
            elif text:
                warnings.append(f"{origin}: {shortened(text)!r} is ignored: expected {option.expected}")
    if own_names:
        warnings += _misspelt_variables(environ)
    return Settings(explicit, tuple(warnings))


def _misspelt_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable with our prefix that has no effect, and resembles one that has."""
    known = [name for option in OPTIONS for name in option.variables if name.startswith(OWN_PREFIX)]
    for name in (name for name in environ if name.startswith(OWN_PREFIX) and name not in known):
        similar = closest_name(name.removeprefix(OWN_PREFIX), [each.removeprefix(OWN_PREFIX) for each in known])
        if similar:
            yield f"environment {name} has no effect; did you mean {OWN_PREFIX}{similar}?"


def is_service_link(variable: str, text: str) -> bool:
    """Return whether Kubernetes has set a variable for a Service: ``ENVOY_PORT=tcp://10.0.0.1:80`` for one named envoy.

    Every container of its namespace gets it (core/v1, PodSpec, enableServiceLinks).
    """
    return variable.endswith("_PORT") and text.partition("://")[0] in ("tcp", "udp", "sctp")


def is_readable(option: Option[Any], text: str) -> bool:
    """Return whether a text from the environment counts: of truth values only those that can be read.

    Upstream gives a variable to pflag's Set and drops the error (istio/istio, pkg/flag/flag.go). The level of our own
    output is treated alike: it is no reason to keep a pod from starting.
    """
    if not option.is_switch and option is not LOG_OUTPUT_LEVEL:
        return True
    try:
        option.parse(text)
    except ValueError:
        return False
    return bool(text)


def with_flags(settings: Settings, flags: Mapping[Option[Any], str]) -> Settings:
    """Return the settings with flags on top, which beat what was given before."""
    explicit = {option: ExplicitValue(text, "command line") for option, text in flags.items()}
    return settings.replace(explicit={**settings.explicit, **explicit})


def host_bits_warnings(settings: Settings) -> list[str]:
    """Return a warning for each network that was given with host bits set, and is taken as its network."""
    return [
        f"{option.name} ({settings.origin(option)}): {entry} has host bits set, and is taken as {parse_network(entry)}"
        for option in NETWORK_OPTIONS
        for entry in _with_host_bits(settings, option)
    ]


def _with_host_bits(settings: Settings, option: Option[Any]) -> tuple[str, ...]:
    value = settings[option]
    if isinstance(value, Network):
        text = settings.text(option)
        return (text,) if network_parts(text)[1] else ()
    networks = value.entries if isinstance(value, parsers.Selection) else value
    return networks.with_host_bits if isinstance(networks, parsers.Networks) else ()
