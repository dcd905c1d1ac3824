"""The CNI specification: what a runtime sends, what it gets back.

This file does not know what the plugin does: no kernel, no rules, no pods. It does no input or output either:
the environment and the bytes of standard input go in, the bytes for standard output and an exit status come out.

    runtime ── CNI_* variables ──┐                    ┌── result, or error object ──> runtime
            └─ JSON on stdin ────┴─> Request ─> handler

Sources: SPEC.md of containernetworking/cni in the versions 0.3.0 to 1.1.0, sections "Parameters", "Errors" and
"CNI operations"; CONVENTIONS.md for CNI_ARGS.
"""

from __future__ import annotations

from capture.model.json_text import JsonError, decode_json, encode_json
from capture.model.text import printable, shortened
from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping
    from typing import Any

    Handlers = Mapping[str, Callable[["Request"], None]]

SUPPORTED_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST_VERSION = SUPPORTED_VERSIONS[-1]
IMPLIED_VERSION = "0.1.0"
"""Of a configuration without cniVersion (SPEC 0.2.0, "Network Configuration")."""

# The first version of the specification that has the command.
SINCE_VERSION = {"ADD": "0.3.0", "DEL": "0.3.0", "CHECK": "0.4.0", "STATUS": "1.1.0", "GC": "1.1.0", "VERSION": "0.3.0"}

# A network configuration is some kilobytes; with all annotations of a pod (Kubernetes allows 256 KiB) still small.
MAX_STDIN_BYTES = 8 * 1024 * 1024

# Error codes of the specification. Those from 100 on are a plugin's own (cni/codes.py).
INCOMPATIBLE_VERSION = 1
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIGURATION = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
NOT_AVAILABLE_LIMITED = 51

# An event of Kubernetes holds 1,024 characters, and kubelet and runtime put words before our message.
MAX_MESSAGE_LENGTH = 700
MAX_DETAILS_LENGTH = 8000
CALLED_BY_HAND = "A container runtime sets the variables. When you call the plugin by hand, set what the message names."
WRONG_FILE = "Look at the network configuration list, a file in /etc/cni/net.d on the node, and at what wrote it."
WHAT_TO_DO = {INVALID_ENVIRONMENT: CALLED_BY_HAND, DECODING_FAILURE: WRONG_FILE, INVALID_CONFIGURATION: WRONG_FILE}
"""Details of an error that has none of its own, by its code."""
EXPECTED_ID = "expected letters, digits, _ . and -, with a letter or digit first"


class CniError(Exception):
    """A command failed. ``message`` is one line; ``details`` may be long, with what to do."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = shortened(one_line(message), MAX_MESSAGE_LENGTH)
        self.details = shortened(printable(details or WHAT_TO_DO.get(code, ""), "\n\t"), MAX_DETAILS_LENGTH)


class Request(Value):
    """The runtime's request, checked as far as its command takes it."""

    command: str
    version: str
    """The version of the specification that the configuration is written in, and the answer has to be."""
    network: str
    container_id: str
    namespace: str
    """Path of the network namespace; DEL may come without."""
    interface: str
    arguments: dict[str, str]
    """CNI_ARGS, in the order of the runtime."""
    configuration: dict[str, Any]
    """The plugin's part of the network configuration, as decoded JSON."""
    previous_result: dict[str, Any] | None
    """The result of the plugins before this one in the list, or of ADD."""
    valid_attachments: tuple[tuple[str, str], ...]
    """GC: container id and interface of what exists; everything else of this network is gone."""


class Response(Value):
    """The output of the process and its exit status; ``error`` is that of ``stdout``, for the log."""

    stdout: bytes
    exit_status: int
    error: CniError | None = None


# --- the environment -------------------------------------------------------------------------------------------


def _container_id_problem(value: str) -> str:
    """Return what is wrong with a container id, "" if nothing.

    SPEC, "Parameters": it starts with an alphanumeric character, then also underscore, dot and hyphen.
    """
    plain = value.replace("_", "a").replace(".", "a").replace("-", "a")
    if value[0] in "_.-" or not value.isascii() or not plain.isalnum():
        return EXPECTED_ID
    return ""


def _interface_problem(value: str) -> str:
    """Return what is wrong with an interface's name, "" if nothing.

    SPEC, "Parameters": the rules of Linux, which counts bytes (IFNAMSIZ in ``linux/if.h`` is 16, with the NUL).
    """
    if len(value.encode("utf-8", "surrogateescape")) > 15:  # a number, since VERSION loads no conventions
        return "expected at most 15 bytes"
    if value in {".", ".."} or any(character in "/:" or character.isspace() for character in value):
        return "expected a name of a network interface: not . or .., without / : or blanks"
    return ""


# variable, what is wrong with a value, the commands that cannot do without it
REQUIREMENTS: tuple[tuple[str, Callable[[str], str], tuple[str, ...]], ...] = (
    ("CNI_CONTAINERID", _container_id_problem, ("ADD", "CHECK", "DEL")),
    ("CNI_IFNAME", _interface_problem, ("ADD", "CHECK", "DEL")),
    (
        "CNI_NETNS",
        lambda path: "" if path[0] == "/" else "expected the absolute path of a network namespace",
        ("ADD", "CHECK"),
    ),
)


def _check_environment(command: str, environ: Mapping[str, str]) -> None:
    problems = []
    for variable, problem_of, commands in REQUIREMENTS:
        value = environ.get(variable, "")
        if command in commands and not value:
            problems.append(f"{variable} is missing")
        elif command in commands and (problem := problem_of(value)):
            problems.append(f"{variable}: invalid value {shortened(value)!r}: {problem}")
    if problems:
        raise CniError(INVALID_ENVIRONMENT, "; ".join(problems))


def parse_arguments(text: str, known: Container[str]) -> dict[str, str]:
    """Return CNI_ARGS, ``K8S_POD_NAME=web-0;IgnoreUnknown=1``, by key.

    Names outside ``known`` are an error unless IgnoreUnknown is true (CONVENTIONS.md, "CNI_ARGS"): a misspelt key
    would otherwise leave the pod without capture.
    """
    arguments: dict[str, str] = {}
    ignores_unknown = False
    for pair in text.split(";"):
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise _bad_arguments(text, f"invalid entry {shortened(pair)!r}: expected KEY=VALUE")
        if key == "IgnoreUnknown":
            ignores_unknown |= _parse_truth(text, value)  # Multus puts "true" before what it was given, which has "1"
        elif arguments.setdefault(key, value) != value:
            raise _bad_arguments(text, f"{key} has two values, {arguments[key]!r} and {value!r}")
    unknown = ", ".join(key for key in arguments if key not in known)
    if unknown and not ignores_unknown:
        raise _bad_arguments(text, f"unknown keys: {unknown}; IgnoreUnknown=1 makes the plugin ignore them")
    return arguments


def _parse_truth(text: str, value: str) -> bool:
    if value.lower() not in {"0", "1", "false", "true"}:
        raise _bad_arguments(text, f"IgnoreUnknown: invalid value {value!r}: expected 0, 1, true or false")
    return value.lower() in {"1", "true"}


def _bad_arguments(text: str, problem: str) -> CniError:
    return CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {problem}", f"CNI_ARGS={text!r}\n{CALLED_BY_HAND}")


# --- the network configuration ---------------------------------------------------------------------------------


def _decode_configuration(stdin: bytes) -> dict[str, Any]:
    if len(stdin) > MAX_STDIN_BYTES:
        raise CniError(
            IO_FAILURE,
            f"the network configuration on standard input is longer than {MAX_STDIN_BYTES} bytes",
            "Look for what a runtime or another program has added to the network configuration list.",
        )
    try:
        plain = decode_json(stdin.decode())
    except UnicodeDecodeError as wrong:
        problem, details = f"not UTF-8: byte {wrong.start}", ""
    except JsonError as wrong:
        problem = f"not a JSON object: {wrong}" if stdin.strip() else "empty"
        details = f"It starts with {stdin[:200].decode(errors='replace')!r}\n" if stdin.strip() else ""
    else:
        if isinstance(plain, dict):
            return plain
        problem, details = "not a JSON object", f"It is {shown(plain)}\n"
    raise CniError(DECODING_FAILURE, f"the network configuration on standard input is {problem}", details + WRONG_FILE)


def _version_of(configuration: dict[str, Any]) -> str:
    version = configuration.get("cniVersion", IMPLIED_VERSION)
    if not isinstance(version, str):
        raise CniError(
            DECODING_FAILURE,
            f"cniVersion: invalid value {shown(version)}: expected a string such as {NEWEST_VERSION!r}",
        )
    return version


def _check_version(command: str, version: str) -> None:
    """Raise CniError unless a version is supported, and has the command.

    DEL does without: its answer is the same in all versions, and a pod must not hang on it.
    """
    if command == "DEL":
        return
    if version not in SUPPORTED_VERSIONS:
        implied = " (which a configuration without cniVersion has)" if version == IMPLIED_VERSION else ""
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {shortened(version, 40)!r}{implied} is not supported;"
            f" supported are {', '.join(SUPPORTED_VERSIONS)}",
            "Set cniVersion in the network configuration list to one of these.",
        )
    since = SINCE_VERSION[command]
    if version_number(version) < version_number(since):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"the command {command} exists since CNI {since}, and the network configuration is written in {version}",
            f"Set cniVersion in the network configuration list to {since} or later.",
        )


def version_number(version: str) -> tuple[int, ...]:
    """Return ``1.10.0`` as (1, 10, 0), which orders as versions do, and anything else as ()."""
    parts = version.split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
        return ()
    return tuple([int(part) for part in parts])


def _network_of(command: str, configuration: dict[str, Any]) -> str:
    """Return the network's name, which follows the rules of container ids; DEL does with none."""
    name = configuration.get("name")
    if isinstance(name, str) and name and not _container_id_problem(name):
        return name
    if command == "DEL":
        return ""
    problem = "missing" if name in (None, "") else f"invalid value {shown(name)}"
    raise CniError(INVALID_CONFIGURATION, f"network configuration: 'name': {problem}: {EXPECTED_ID}")


def _previous_result_of(command: str, configuration: dict[str, Any]) -> dict[str, Any] | None:
    """Return prevResult; None without one, as when Multus calls the plugin for a network of its own."""
    previous_result = configuration.get("prevResult")
    if previous_result is None or isinstance(previous_result, dict):
        return previous_result
    if command not in {"ADD", "CHECK"}:
        return None
    raise CniError(
        INVALID_CONFIGURATION,
        f"prevResult: invalid value {shown(previous_result)}: expected a JSON object",
        "Look at the plugin before this one in the network configuration list: its result is wrong.",
    )


def _valid_attachments_of(configuration: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the attachments that GC keeps.

    SPEC 1.1.0 has two names for the key (containernetworking/cni, number 1101); libcni sends both, and what is in one
    of them stays. A list that is not there is an error, since it would mean that all are gone; null is how Go writes an
    empty one.
    """
    keys = [key for key in ("cni.dev/valid-attachments", "cni.dev/attachments") if key in configuration]
    valid: dict[tuple[str, str], None] = {}
    for key in keys:
        entries = configuration[key]
        if entries is not None and not isinstance(entries, list):
            raise _bad_attachments(f"{key}: invalid value {shown(entries)}: expected a list")
        valid |= dict.fromkeys([_parsed_attachment(key, entry) for entry in entries or ()])
    if keys:
        return tuple(valid)
    raise _bad_attachments("cni.dev/valid-attachments is missing: without it GC would take all attachments for gone")


def _bad_attachments(problem: str) -> CniError:
    remedy = "The runtime adds this key to the configuration for GC (libcni 1.2 or later does): check its version."
    return CniError(INVALID_CONFIGURATION, problem, remedy)


def _parsed_attachment(key: str, entry: object) -> tuple[str, str]:
    if isinstance(entry, dict):
        container_id, interface = entry.get("containerID"), entry.get("ifname")
        if isinstance(container_id, str) and isinstance(interface, str):
            return container_id, interface
    expected = '{"containerID": "…", "ifname": "…"}'
    raise _bad_attachments(f"{key}: invalid entry {shown(entry)}: expected {expected}")


# --- a command, from request to answer -------------------------------------------------------------------------


def dispatch(
    environ: Mapping[str, str], stdin: bytes, handlers: Handlers, known_arguments: Container[str] = ()
) -> Response:
    """Return the answer to one call of the plugin.

    ``handlers`` has a function for each command but VERSION; it does the work or raises ``CniError``. Other
    exceptions are defects and pass through. ``known_arguments`` are the keys of CNI_ARGS that the plugin knows.
    """
    command = environ.get("CNI_COMMAND", "")
    if command == "VERSION":  # podman sends the word "dummy" in the other variables
        return Response(_version_result(stdin), 0)
    version = NEWEST_VERSION
    try:
        if command not in SINCE_VERSION:
            raise _unknown_command(command)
        configuration = _decode_configuration(stdin)
        version = _version_of(configuration)
        request = _request(command, version, environ, configuration, known_arguments)
        # Before the work: a result that cannot be written must not be noticed when the rules are there.
        result = _add_result(request) if command == "ADD" else b""
        handlers[command](request)
        return Response(result, 0)
    except CniError as error:
        return error_response(error, version)


def _request(
    command: str,
    version: str,
    environ: Mapping[str, str],
    configuration: dict[str, Any],
    known_arguments: Container[str],
) -> Request:
    _check_version(command, version)
    _check_environment(command, environ)
    return Request(
        command=command,
        version=version,
        network=_network_of(command, configuration),
        container_id=environ.get("CNI_CONTAINERID", ""),
        namespace=environ.get("CNI_NETNS", ""),
        interface=environ.get("CNI_IFNAME", ""),
        arguments=_parsed_arguments(command, environ.get("CNI_ARGS", ""), known_arguments),
        configuration=configuration,
        previous_result=_previous_result_of(command, configuration),
        valid_attachments=_valid_attachments_of(configuration) if command == "GC" else (),
    )


def _parsed_arguments(command: str, text: str, known: Container[str]) -> dict[str, str]:
    if command in {"ADD", "CHECK"}:
        return parse_arguments(text, known)
    try:
        return parse_arguments(text, known) if command == "DEL" else {}
    except CniError:  # DEL needs no argument, so none may stop it
        return {}


def _unknown_command(command: str) -> CniError:
    if not command:
        return CniError(
            INVALID_ENVIRONMENT,
            "CNI_COMMAND is missing: this is a CNI plugin, which container runtimes call",
            "To put it into a node's network configuration, run `capture cni install`.",
        )
    *commands, last = SINCE_VERSION
    expected = f"{', '.join(commands)} or {last}"
    problem = f"CNI_COMMAND: invalid value {shortened(command, 40)!r}: expected {expected}"
    return CniError(INVALID_ENVIRONMENT, problem)


def _version_result(stdin: bytes) -> bytes:
    """Return the answer to VERSION, in the version of the request if it is supported."""
    try:
        version = _version_of(_decode_configuration(stdin))
    except CniError:
        version = NEWEST_VERSION
    return encode_json({"cniVersion": _supported(version), "supportedVersions": SUPPORTED_VERSIONS}).encode() + b"\n"


def _supported(version: str) -> str:
    return version if version in SUPPORTED_VERSIONS else NEWEST_VERSION


def error_response(error: CniError, version: str) -> Response:
    """Return the answer with ``error`` (SPEC, "Errors"), in ``version`` if it is supported."""
    content: dict[str, object] = {"cniVersion": _supported(version), "code": error.code, "msg": error.message}
    if error.details:
        content["details"] = error.details
    return Response(encode_json(content).encode() + b"\n", 1, error)


def _add_result(request: Request) -> bytes:
    """Return the result of ADD: prevResult, as it is if it is written in the version of the request.

    Without prevResult it is empty: we make no interface and give no address.
    """
    result = request.previous_result or {}
    if result.get("cniVersion") != request.version:
        result = _converted_result(result, request.version)
    try:
        return encode_json(result).encode() + b"\n"
    except RecursionError:
        raise CniError(INVALID_CONFIGURATION, "prevResult is nested too deeply") from None


def _converted_result(result: dict[str, Any], version: str) -> dict[str, Any]:
    """Return ``result`` in another version of the specification.

    From 0.3.0 on results differ in one point that a plugin has to care for: until 0.4.0 each address has whether
    it is of version "4" or "6", and from 1.0.0 on it does not.
    """
    result = result | {"cniVersion": version}
    if isinstance(result.get("ips"), list):
        explicit = version_number(version) < (1, 0, 0)
        result["ips"] = [_converted_address(address, explicit=explicit) for address in result["ips"]]
    return result


def _converted_address(address: Any, *, explicit: bool) -> Any:
    if not isinstance(address, dict):
        return address
    plain = {key: value for key, value in address.items() if key != "version"}
    return {"version": "6" if ":" in str(address.get("address")) else "4"} | plain if explicit else plain


# --- texts -----------------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """Return a decoded value as JSON again, short enough for a message."""
    try:
        return shortened(encode_json(value))
    except RecursionError:
        return "nested too deeply to show"


def one_line(text: str) -> str:
    """Return ``text`` with blanks and line breaks as single spaces, and what cannot be printed escaped."""
    return printable(" ".join(text.split()))
