"""Errors, as a tree; each carries facts, and its class writes the sentence.

CaptureError                    exit code 1: the operation failed
├── ConfigurationError          2: a value, option or combination is wrong
├── HostNamespaceError          2: the namespace is the host's own
├── UnsupportedError            3: this kernel or host cannot
│   └── MissingFeatureError     3: this kernel cannot
├── PrivilegeError              3: a capability is missing
├── NamespaceError              1: the namespace is not there or cannot be entered
├── StateDirectoryError         1: others could have written our records
├── KernelError                 1: the kernel refused a message
├── ToolError                   1: a program we started failed
├── ValidationError           126: the rules are in place, but traffic does not go their way
└── NotProvenError            125: whether it does could not be proven, though that was required
"""

from __future__ import annotations

from capture.model.text import shortened

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNSUPPORTED = 3
EXIT_DRIFT = 4
EXIT_UNKNOWN = 5
EXIT_NOT_PROVEN = 125
EXIT_VALIDATION = 126

EXIT_MEANINGS = {
    EXIT_DONE: "done",
    EXIT_FAILED: "failed",
    EXIT_USAGE: "wrong usage or configuration",
    EXIT_UNSUPPORTED: "this kernel or host cannot",
    EXIT_DRIFT: "drift or a cause was found",
    EXIT_UNKNOWN: "cannot be told",
    EXIT_NOT_PROVEN: "not everything proven",
    EXIT_VALIDATION: "validation failed",
}
"""What the codes mean, in the words of the help."""


def exit_codes_text(but: tuple[int, ...]) -> str:
    """Return what the exit codes mean, apart from some that a program does not have."""
    return f"Exit codes: {', '.join(f'{code} {means}' for code, means in EXIT_MEANINGS.items() if code not in but)}."


class CaptureError(Exception):
    """The operation failed. ``remedy`` says what to do about it."""

    exit_code = EXIT_FAILED
    task = ""
    """What the kernel refused to do; "" if it refused nothing."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


def os_error(error: OSError) -> CaptureError:
    """Return the error for a system call that failed, such as for want of descriptors."""
    return CaptureError(f"{error.filename or 'a call of the kernel failed'}: {error.strerror or error}")


class ConfigurationError(CaptureError):
    """A value that cannot be used: which option, the value, where it came from, what is expected."""

    exit_code = EXIT_USAGE

    def __init__(self, option: str, value: str, origin: str, expected: str, short: str = "") -> None:
        typed = f"-{short}, {option}" if short else option
        named = f"{option} ({origin})" if origin != "command line" else typed
        named = origin if origin.endswith(f" {option}") else named  # "environment NAME" names both
        super().__init__(f"{named}: invalid value {shortened(value)!r}: expected {expected}")
        self.option = option
        self.value = value
        self.origin = origin
        self.expected = expected


def argument_error(function: str, name: str, value: object, expected: str) -> ConfigurationError:
    """Return the error for an argument that a function of the library cannot use."""
    return ConfigurationError(f"{function}()", shown_value(value), f"the argument {name}", expected)


def shown_value(value: object) -> str:
    """Return a value of Python as an error shows it."""
    try:
        return value if isinstance(value, str) else repr(value)
    except ValueError:  # an int of more than 4,300 digits (sys.set_int_max_str_digits)
        return type(value).__name__


class HostNamespaceError(CaptureError):
    """The target is the host's own network namespace. Capturing a node cuts it off; ``verb`` may be "clean"."""

    exit_code = EXIT_USAGE

    def __init__(self, evidence: str = "", verb: str = "capture") -> None:
        is_capture = verb == "capture"
        owner = f"that of a node, since {evidence}" if evidence else "the host's own"
        danger = "capturing the host's network namespace would cut the node off"
        reason = danger if is_capture else f"pass --allow-host to {verb} it"
        host_network = ". A pod with hostNetwork has none of its own, and cannot be captured"
        or_allow = f", or pass --allow-host if you mean the host{host_network}" if is_capture else ""
        super().__init__(
            f"refused: this network namespace is {owner}; {reason}",
            f"Name the pod's namespace with --netns PATH or --pid N (istio-init: --network-namespace PATH){or_allow}.",
        )


class UnsupportedError(CaptureError):
    """This kernel or host lacks something we need."""

    exit_code = EXIT_UNSUPPORTED


class MissingFeatureError(UnsupportedError):
    """This kernel lacks a feature: perhaps for want of a module, which ``with_missing_modules`` looks for."""


class PrivilegeError(CaptureError):
    """The kernel refused: a capability is missing."""

    exit_code = EXIT_UNSUPPORTED

    def __init__(self, action: str, remedy: str = "") -> None:
        usual = "Run as root, or with the capabilities NET_ADMIN and NET_RAW in the namespace"
        super().__init__(f"not permitted to {action}", remedy or f"{usual} (and SYS_ADMIN to enter another one).")


class NamespaceError(CaptureError):
    """The network namespace is not there, or is no network namespace."""

    def __init__(self, path: str, reason: str, look: str = "`ls /run/netns` or `lsns -t net`") -> None:
        super().__init__(
            f"network namespace {path}: {reason}", f"Look with {look}; a pod's namespace ends with its last process."
        )
        self.path = path


class StateDirectoryError(CaptureError):
    """The directory of our records is not private: other users may have written them."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(
            f"state directory {path}: {problem}",
            "Others may have written there, so it is neither read nor written. Check what is in it, then remove it, or"
            f" make it private: `chown root: {path} && chmod 0700 {path}`",
        )
        self.path = path


class KernelError(CaptureError):
    """The kernel refused a netlink message: which one, its errno, and the kernel's own message."""

    def __init__(self, task: str, errno: int, kernel_message: str = "") -> None:
        import os

        kernel_words = f" ({kernel_message})" if kernel_message else ""
        super().__init__(f"{task}: {os.strerror(errno)}{kernel_words}")
        self.errno = errno


class ToolError(CaptureError):
    """A program we started failed: its command line, exit status and last words."""

    def __init__(self, command: str, status: int, stderr: str, remedy: str = "") -> None:
        words = stderr.strip() or "it printed no error"
        super().__init__(f"`{command}` ended with status {status}: {words}", remedy)
        self.status = status
        self.stderr = stderr


class ValidationError(CaptureError):
    """Rules are in place, or should be, but a connection did not go where they send it."""

    exit_code = EXIT_VALIDATION


class NotProvenError(CaptureError):
    """Not everything could be validated, and that was required; ``unproven`` has a line for each."""

    exit_code = EXIT_NOT_PROVEN

    def __init__(self, unproven: tuple[str, ...]) -> None:
        super().__init__(
            f"validation incomplete: {'; '.join(unproven)}",
            "Give the container the missing capabilities, or do without --require-proof.",
        )
        self.unproven = unproven
