"""Where a verb acts: the host whose facts count, the recorded settings, the backend that is requested."""

from __future__ import annotations

from capture.backends.request import BackendRequest
from capture.errors import CaptureError, argument_error
from capture.settings.families import global_addresses
from capture.settings.options import (
    ALLOW_HOST,
    BACKEND,
    BACKEND_OPTIONS,
    DRIVER,
    FORCE_APPLY,
    FORCE_IPTABLES_BINARY,
    NATIVE_NFTABLES,
)
from capture.settings.settings import ExplicitValue
from capture.state import record
from capture.state.directory import STATE_DIRECTORY
from capture.system.netns import Path
from capture.system.pod_host import PodFromInside, PodFromOutside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capture.model.addresses import Network
    from capture.settings.config import Host
    from capture.settings.settings import Settings

Namespace = Path | None
"""The path of a network namespace; None is the one of the calling thread."""


MAX_LOCK_TIMEOUT = 86_400


def host_of(namespace: Namespace, servers: tuple[Network, ...] = ()) -> Host:
    """Return the host that knows users and name servers: by files without a namespace, else by ``servers`` alone."""
    return PodFromInside(servers=servers) if namespace is None else PodFromOutside(servers=servers)


def host_or_default(host: Host | None, default: Host, caller: str) -> Host:
    """Return the host that a caller gives, or the default. Raises ConfigurationError for what is no host."""
    answers = [name for name in vars(PodFromInside) if not name.startswith("_")]
    if host is not None and (isinstance(host, type) or not all(hasattr(host, answer) for answer in answers)):
        raise argument_error(caller, "host", host, "PodFromInside() or PodFromOutside()")
    return default if host is None else host


def require_seconds(lock_timeout: float, caller: str) -> None:
    """Raise ConfigurationError unless the value is a number of seconds to wait for the lock."""
    is_number = isinstance(lock_timeout, int | float) and not isinstance(lock_timeout, bool)
    if not is_number or not 0 <= lock_timeout <= MAX_LOCK_TIMEOUT:
        raise argument_error(caller, "lock_timeout", lock_timeout, f"a number of seconds from 0 to {MAX_LOCK_TIMEOUT}")


def recorded_request(changes: Settings, host: Host) -> tuple[Settings, Host]:
    """Return the recorded settings of the namespace we are in with these changed, and the recorded facts.

    Backend and driver are the recorded ones, unless one of them changes. What the changed settings need to know and
    the record lacks, such as a user's number, is what the host tells. Raises CaptureError without a record that can be
    used.
    """
    recorded = record.read()
    if recorded is None:
        raise CaptureError(
            f"there are no recorded settings to apply: {record.why_unusable() or 'nothing is recorded here'}",
            f"Run `capture apply` with the pod's settings, or recreate the pod. Records are in {STATE_DIRECTORY} of the"
            " machine or the container that applied them.",
        )
    explicit = dict(recorded.settings.explicit)
    written_by = {BACKEND: recorded.backend, FORCE_IPTABLES_BINARY: recorded.variant, DRIVER: recorded.driver}
    if any(option in changes.explicit for option in BACKEND_OPTIONS):
        is_other_backend = BACKEND in changes.explicit or NATIVE_NFTABLES in changes.explicit
        explicit = {option: value for option, value in explicit.items() if option not in BACKEND_OPTIONS}
        written_by = {} if is_other_backend else {BACKEND: recorded.backend}
    explicit |= {option: ExplicitValue(text, "the record") for option, text in written_by.items() if text}
    reached = (address.family for address in global_addresses(PodFromOutside().pod_addresses()))
    late = (family for family in reached if family in recorded.ruleset.families)  # whose address came after the capture
    families = (*recorded.answers.families, *late)
    is_changed = any(option not in (ALLOW_HOST, FORCE_APPLY) for option in changes.explicit)
    return (
        recorded.settings.replace(explicit={**explicit, **changes.explicit}),
        recorded.answers.replace(families=tuple(dict.fromkeys(families)), fallback=host if is_changed else None),
    )


def request_of(settings: Settings) -> BackendRequest:
    """Return the backend and driver that the settings request; ConfigurationError if they contradict."""
    backend = settings[BACKEND]
    if settings[NATIVE_NFTABLES]:
        if backend == "iptables":
            expected = f"nftables, because {NATIVE_NFTABLES.name} is set ({settings.origin(NATIVE_NFTABLES)})"
            raise settings.error_for(BACKEND, expected)
        backend = "nftables"
    variant = settings[FORCE_IPTABLES_BINARY].removeprefix("iptables-")
    decisive = NATIVE_NFTABLES if settings[NATIVE_NFTABLES] else BACKEND
    origins = map(settings.origin, (decisive, DRIVER, FORCE_IPTABLES_BINARY))
    return BackendRequest(backend, settings[DRIVER], variant, *origins)
