"""The user namespace that a network namespace belongs to: which ids it knows, and how to act as one of its processes.

A pod with ``hostUsers: false`` has one of its own. Its network namespace takes the owner match of iptables only
from a process in that user namespace (``owner_check`` in net/netfilter/xt_owner.c), and ids in rules are the pod's.

A process enters a user namespace for good, and only with a single thread (setns(2)). So a forked child enters, and
keeps the files, and the user id, of the caller: the caller's user is none of the pod's, but has all capabilities there.
"""

from __future__ import annotations

from capture.errors import CaptureError, PrivilegeError
from capture.model.values import Value
from capture.system.child import decode_error, encode_error, run_in_child
from capture.system.files import content_of, names_in
from capture.system.netns import CLONE_NEWUSER, call_setns, is_own_user_namespace, open_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from capture.model.ruleset import Span
    from capture.settings.config import CaptureConfig
    from capture.settings.options import Option
    from capture.settings.settings import Settings

CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
OVERFLOW_ID = 65534
"""The kernel's number for a user that a user namespace lacks (/proc/sys/kernel/overflowuid)."""
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2  # linux/prctl.h


class IdRange(Value):
    """Ids that follow each other: the first one as the user namespace's own processes see it, and as we do."""

    inside: int
    outside: int
    count: int

    def __str__(self) -> str:
        return f"{self.inside}-{self.inside + self.count - 1}"


class Ids(Value):
    """The users, or the groups, that a user namespace has."""

    ranges: tuple[IdRange, ...]

    def has(self, span: Span) -> bool:
        """Return whether the ends of a span are ids there; that is what the kernel requires."""
        return all(any(0 <= end - ids.inside < ids.count for ids in self.ranges) for end in (span.first, span.last))

    def inside(self, outside: int) -> int:
        """Return the pod's number of one of our ids; the kernel's "nobody" for one that the pod has not."""
        mapped = (ids.inside + outside - ids.outside for ids in self.ranges if 0 <= outside - ids.outside < ids.count)
        return next(mapped, OVERFLOW_ID)

    def __str__(self) -> str:
        return ", ".join(map(str, self.ranges)) or "none"


class IdMaps(Value):
    """The ids that the user namespace has."""

    users: Ids
    groups: Ids


def read_id_maps() -> IdMaps:
    """Return the ids of the user namespace that the network namespace we are in belongs to (user_namespaces(7))."""
    text = _run_as_owner(
        lambda: "".join(content_of(f"/proc/self/{kind}_map").decode() + "\0" for kind in ("uid", "gid"))
    )
    users, groups, _ = text.split("\0")
    return IdMaps(_parsed_ids(users), _parsed_ids(groups))


def foreign_ids() -> IdMaps | None:
    """Return the ids of the network namespace's owner; None if that is our own user namespace, or cannot be entered."""
    if is_own_user_namespace():
        return None
    try:
        return read_id_maps()
    except PrivilegeError:
        return None


def _parsed_ids(text: str) -> Ids:
    """Return the ids of a map: each line has the first id inside, the first outside, and how many."""
    return Ids(tuple(IdRange(*map(int, line.split())) for line in text.splitlines()))


def act_as_owner(work: Callable[[], None], *, starts_programs: bool) -> None:
    """Do the work in a child process that is in the owner's user namespace.

    Raises what the work raises, as far as it is a CaptureError: with its kind, message, remedy and errno.
    """

    def run_work() -> str:
        if starts_programs:
            _keep_capabilities_for_programs()
        work()
        return ""

    _run_as_owner(run_work)


def _run_as_owner(work: Callable[[], str]) -> str:
    def enter_and_work() -> str:
        try:
            call_setns(open_owner(), CLONE_NEWUSER)
        except PermissionError:
            raise PrivilegeError("enter the user namespace that this network namespace belongs to") from None
        except OSError as error:
            raise _cannot_enter(error) from None
        return work()

    status, answer = run_in_child(enter_and_work, encode_error)
    if status == 0:
        return answer
    if answer:
        raise decode_error(answer)
    raise CaptureError(
        f"the process in the pod's user namespace ended with status {status}",
        "Something killed it: `dmesg` has the reason if that was for want of memory. Run the command again.",
    )


def _cannot_enter(error: OSError) -> CaptureError:
    names = [content_of(f"/proc/self/task/{thread}/comm").decode().strip() for thread in names_in("/proc/self/task")]
    if len(names) < 2:
        return CaptureError(f"the pod's user namespace cannot be entered: {error.strerror}")
    return CaptureError(
        "the pod's user namespace cannot be entered: the kernel takes a process with a single thread only (setns(2)),"
        f" and a library starts threads in forked ones ({', '.join(names[1:])})",
        "Call `capture` as a program, or turn that off; for grpc: GRPC_ENABLE_FORK_SUPPORT=false.",
    )


def _keep_capabilities_for_programs() -> None:
    """Let started programs have the capabilities: the user of this process is none there, so exec(2) would take them.

    Ambient capabilities (capabilities(7), Linux 4.3) are those that programs get anyway.
    """
    import ctypes

    from capture.system.capabilities import CAPABILITY_NUMBERS

    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then the upper halves
    library.capget(header, sets)
    numbers = [CAPABILITY_NUMBERS[name] for name in ("NET_ADMIN", "NET_RAW")]
    sets[2] |= sum(1 << number for number in numbers) & sets[1]
    library.capset(header, sets)
    for number in numbers:
        library.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0)


def require_known_ids(settings: Settings, config: CaptureConfig) -> None:
    """Raise ConfigurationError for the first id that the owner of the network namespace we are in does not have.

    iptables refuses such ids with "Invalid argument"; nftables takes them, and the proxy's own traffic goes in circles.
    """
    from capture.settings import options

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
                raise settings.error_for(option, expected, str(span))
