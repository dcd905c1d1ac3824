"""Requests, results and errors of the CNI specification, in each of its versions."""

import json
from collections.abc import Mapping

import pytest

from cni import protocol
from cni.protocol import CniError, Request, Response, dispatch, parse_arguments

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "cafe01",
    "CNI_NETNS": "/var/run/netns/cni-1",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0",
    "CNI_PATH": "/opt/cni/bin",
}
KNOWN = frozenset({"K8S_POD_NAME", "K8S_POD_NAMESPACE"})
RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth0", "sandbox": "/var/run/netns/cni-1"}],
    "ips": [{"address": "10.1.2.3/24", "interface": 0}, {"address": "fd00::3/64", "interface": 0}],
}
CONFIGURATION = {"cniVersion": "1.0.0", "name": "pods", "type": "capture-cni", "prevResult": RESULT}
ATTACHMENTS = [{"containerID": "cafe01", "ifname": "eth0"}]


class Recorder:
    """A handler that remembers its requests."""

    def __init__(self, error: Exception | None = None) -> None:
        self.requests: list[Request] = []
        self.error = error

    def handle(self, request: Request) -> None:
        self.requests.append(request)
        if self.error:
            raise self.error


def call(
    environ: dict[str, str] | None = None,
    configuration: Mapping[str, object] | bytes | None = None,
    error: Exception | None = None,
) -> tuple[Response, Request | None]:
    """Call the plugin with ENVIRON and CONFIGURATION, and these changes."""
    stdin = configuration if isinstance(configuration, bytes) else json.dumps(CONFIGURATION | dict(configuration or {}))
    recorder = Recorder(error)
    answer = dispatch(
        ENVIRON | (environ or {}),
        stdin if isinstance(stdin, bytes) else stdin.encode(),
        dict.fromkeys(protocol.SINCE_VERSION, recorder.handle),
        KNOWN,
    )
    return answer, recorder.requests[0] if recorder.requests else None


def error_of(answer: Response) -> dict[str, object]:
    assert answer.exit_status == 1
    content = json.loads(answer.stdout)
    assert set(content) <= {"cniVersion", "code", "msg", "details"}
    assert "\n" not in content["msg"]
    assert isinstance(answer.error, CniError)
    return dict(content)


# --- success ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", protocol.SUPPORTED_VERSIONS)
def test_add_prints_prevresult_with_every_digit(version: str) -> None:
    text = f'{{"cniVersion": "{version}", "ips": [{{"address": "10.0.0.1/8", "mtu": 1500.00}}], "x": 1e2, "y": 1e999}}'
    stdin = f'{{"cniVersion":"{version}","name":"n","prevResult":{text},"type":"capture-cni"}}'
    answer, request = call(configuration=stdin.encode())
    assert answer == Response(text.encode() + b"\n", 0)
    assert request is not None
    assert request.version == version


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
def test_the_other_commands_print_nothing(command: str) -> None:
    answer, request = call({"CNI_COMMAND": command}, {"cniVersion": "1.1.0", "cni.dev/valid-attachments": ATTACHMENTS})
    assert answer == Response(b"", 0)
    assert request is not None
    assert request.command == command


def test_a_request_holds_what_the_runtime_sent() -> None:
    _, request = call()
    assert request == Request(
        command="ADD",
        version="1.0.0",
        network="pods",
        container_id="cafe01",
        namespace="/var/run/netns/cni-1",
        interface="eth0",
        arguments={"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web-0"},
        configuration=CONFIGURATION,
        previous_result=RESULT,
        valid_attachments=(),
    )


@pytest.mark.parametrize(
    ("result_version", "requested", "addresses"),
    [
        ("1.0.0", "0.4.0", [{"version": "4", "address": "10.1.2.3/24"}, {"version": "6", "address": "fd00::3/64"}]),
        ("0.4.0", "1.1.0", [{"address": "10.1.2.3/24"}, {"address": "fd00::3/64"}]),
        (None, "0.3.1", [{"version": "4", "address": "10.1.2.3/24"}, {"version": "6", "address": "fd00::3/64"}]),
    ],
)
def test_a_result_in_another_version_comes_back_in_the_requested_one(
    result_version: str | None, requested: str, addresses: list[dict[str, str]]
) -> None:
    old = {"version": "x"} if result_version == "0.4.0" else {}
    result = {
        "cniVersion": result_version,
        "ips": [{"address": "10.1.2.3/24"} | old, {"address": "fd00::3/64"} | old],
        "dns": {"search": ["shop"]},
    }
    if result_version is None:
        del result["cniVersion"]
    answer, _ = call(configuration={"cniVersion": requested, "prevResult": result})
    assert json.loads(answer.stdout) == {"cniVersion": requested, "ips": addresses, "dns": {"search": ["shop"]}}


def test_a_result_without_addresses_or_with_strange_ones_passes() -> None:
    answer, _ = call(configuration={"prevResult": {}})
    assert json.loads(answer.stdout) == {"cniVersion": "1.0.0"}
    answer, _ = call(configuration={"cniVersion": "0.4.0", "prevResult": {"ips": ["x", {}]}})
    assert json.loads(answer.stdout) == {"cniVersion": "0.4.0", "ips": ["x", {"version": "4"}]}


def test_a_result_too_deep_to_be_rewritten_is_an_error_in_json() -> None:
    """How deep that is differs between versions of Python; an error of the interpreter itself it never is."""
    texts = ('{"a":' * depth + "1" + "}" * depth for depth in (100, 100_000))
    stdin = '{"cniVersion":"0.4.0","name":"n","prevResult":{"cniVersion":"1.0.0","x":%s}}'
    deep, deeper = (call(configuration=(stdin % text).encode())[0] for text in texts)
    assert (deep.exit_status, deep.stdout.count(b"a")) == (0, 100)
    assert "nested too deeply" in str(error_of(deeper)["msg"])


# --- VERSION ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"1.0.0"}', "1.0.0"),
        (b'{"cniVersion":"0.3.0"}', "0.3.0"),
        (b'{"cniVersion":"9.0.0"}', "1.1.0"),
        (b'{"cniVersion":7}', "1.1.0"),
        (b"{}", "1.1.0"),
        (b"", "1.1.0"),
        (b"\xff", "1.1.0"),
    ],
)
def test_version_is_always_answered(stdin: bytes, version: str) -> None:
    dummy = dict.fromkeys(["CNI_IFNAME", "CNI_NETNS", "CNI_PATH", "CNI_ARGS"], "dummy")
    for environ in ({"CNI_COMMAND": "VERSION"}, {"CNI_COMMAND": "VERSION"} | dummy):
        answer = dispatch(environ, stdin, {})
        assert answer.exit_status == 0
        assert json.loads(answer.stdout) == {
            "cniVersion": version,
            "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        }


# --- requirements: variable x command ---------------------------------------------------------------------------

BAD_VALUES = {
    "CNI_CONTAINERID": ["", "../etc", "-x", ".x", "_x", "a b", "a/b", "é", "a\n", "a;b", "a:b"],
    "CNI_IFNAME": ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters-", "ééééééééb", "a\u00a0b"],
    "CNI_NETNS": ["", "relative/path", "dummy"],
}
REQUIRED_BY = {
    "CNI_CONTAINERID": {"ADD", "CHECK", "DEL"},
    "CNI_IFNAME": {"ADD", "CHECK", "DEL"},
    "CNI_NETNS": {"ADD", "CHECK"},
    "CNI_ARGS": set(),
    "CNI_PATH": set(),
}


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "STATUS", "GC"])
@pytest.mark.parametrize("variable", REQUIRED_BY)
def test_each_command_needs_its_variables(command: str, variable: str) -> None:
    configuration = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": ATTACHMENTS}
    for value in BAD_VALUES.get(variable, [""]):
        answer, request = call({"CNI_COMMAND": command, variable: value}, configuration)
        if command in REQUIRED_BY[variable]:
            error = error_of(answer)
            assert error["code"] == protocol.INVALID_ENVIRONMENT
            assert variable in str(error["msg"])
            assert request is None
        else:
            assert answer.exit_status == 0
            assert request is not None


def test_the_table_covers_what_these_tests_cover() -> None:
    assert {variable: set(commands) for variable, _, commands in protocol.REQUIREMENTS} == {
        variable: commands for variable, commands in REQUIRED_BY.items() if commands
    }


def test_all_bad_variables_are_named_at_once() -> None:
    answer = dispatch({"CNI_COMMAND": "ADD", "CNI_IFNAME": "a/b"}, json.dumps(CONFIGURATION).encode(), {})
    message = str(error_of(answer)["msg"])
    assert "CNI_CONTAINERID is missing" in message
    assert "CNI_NETNS is missing" in message
    assert "CNI_IFNAME: invalid value 'a/b': expected" in message


@pytest.mark.parametrize("good", ["a", "A1", "default-k1", "0_.-", "a" * 300])
def test_container_ids_that_runtimes_use(good: str) -> None:
    assert call({"CNI_CONTAINERID": good})[0].exit_status == 0


@pytest.mark.parametrize("command", ["", "add", "UPDATE", "VERSION ", "\n"])
def test_an_unknown_command_is_refused(command: str) -> None:
    answer, _ = call({"CNI_COMMAND": command})
    error = error_of(answer)
    assert error["code"] == protocol.INVALID_ENVIRONMENT
    assert "CNI_COMMAND" in str(error["msg"])


# --- DEL: a pod can end in every case ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "namespace", "prev_result"),
    [
        *((version, "", RESULT) for version in (*protocol.SUPPORTED_VERSIONS, "0.2.0", "1.2.0", "2.0.0", "x")),
        *(("1.0.0", namespace, None) for namespace in ("/var/run/netns/gone", "dummy")),
        ("0.4.0", "dummy", []),
        ("0.4.0", "dummy", "x"),
        ("0.4.0", "dummy", 3),
        ("0.4.0", "dummy", {}),
    ],
)
def test_del_does_without_namespace_and_prevresult(version: str, namespace: str, prev_result: object) -> None:
    configuration = {"cniVersion": version, "prevResult": prev_result}
    answer, request = call({"CNI_COMMAND": "DEL", "CNI_NETNS": namespace}, configuration)
    assert answer == Response(b"", 0)
    assert request is not None
    assert request.namespace == namespace
    assert request.previous_result == (prev_result if isinstance(prev_result, dict) else None)


@pytest.mark.parametrize("arguments", ["K8S_POD_NAME", "=", "A=1", "A=1;A=2", ";;", "IgnoreUnknown=perhaps"])
def test_del_does_with_any_arguments(arguments: str) -> None:
    answer, request = call({"CNI_COMMAND": "DEL", "CNI_ARGS": arguments})
    assert (answer, request and request.arguments) == (Response(b"", 0), {})


@pytest.mark.parametrize("name", ["", None, 3, "../x", "a b"])
def test_del_does_without_a_usable_name_of_the_network(name: object) -> None:
    answer, request = call({"CNI_COMMAND": "DEL"}, {"name": name})
    assert (answer, request and request.network) == (Response(b"", 0), "")


# --- the network configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "STATUS", "GC"])
@pytest.mark.parametrize(
    ("stdin", "code", "words"),
    [
        (b"", protocol.DECODING_FAILURE, "is empty"),
        (b"{", protocol.DECODING_FAILURE, "line 1 column 2"),
        (b"[]", protocol.DECODING_FAILURE, "object"),
        (b'{"cniVersion": NaN}', protocol.DECODING_FAILURE, "NaN"),
        (b'{"cniVersion": "1.0.0"}\xff', protocol.DECODING_FAILURE, "byte 23"),
        (b"[" * 100_000, protocol.DECODING_FAILURE, "object"),
        (b'{"a":' * 100_000, protocol.DECODING_FAILURE, "nested too deeply"),
        (b'{"cniVersion": 1}', protocol.DECODING_FAILURE, "cniVersion: invalid value 1"),
        (b" " * (protocol.MAX_STDIN_BYTES + 1), protocol.IO_FAILURE, "longer than 8388608 bytes"),
    ],
    ids=["empty", "cut", "list", "nan", "not-utf8", "deep-list", "deep-object", "version-number", "too-long"],
)
def test_unusable_input_is_an_error_of_every_command(command: str, stdin: bytes, code: int, words: str) -> None:
    answer, request = call({"CNI_COMMAND": command}, stdin)
    error = error_of(answer)
    assert (error["code"], error["cniVersion"]) == (code, "1.1.0")
    assert words in str(error["msg"])
    assert request is None


@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS", "GC"])
@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "1.2.0", "2.0.0", "", "1.0", "one", "1.0.0\n"])
def test_an_unsupported_version_is_refused(command: str, version: str) -> None:
    answer, _ = call({"CNI_COMMAND": command}, {"cniVersion": version})
    error = error_of(answer)
    assert (error["code"], error["cniVersion"]) == (protocol.INCOMPATIBLE_VERSION, "1.1.0")
    assert "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in str(error["msg"])


def test_without_a_version_it_is_the_oldest() -> None:
    answer = dispatch(ENVIRON, b'{"name": "pods", "prevResult": {}}', {})
    assert "'0.1.0' (which a configuration without cniVersion has) is not supported" in str(error_of(answer)["msg"])


@pytest.mark.parametrize(
    ("command", "since"), [("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0"), ("ADD", "0.3.0")]
)
def test_a_command_exists_from_its_version_on(command: str, since: str) -> None:
    first = protocol.SUPPORTED_VERSIONS.index(since)
    for position, version in enumerate(protocol.SUPPORTED_VERSIONS):
        answer, _ = call(
            {"CNI_COMMAND": command}, {"cniVersion": version, "cni.dev/valid-attachments": [], "prevResult": {}}
        )
        assert (answer.exit_status == 0) == (position >= first)
        if position < first:
            assert error_of(answer)["code"] == protocol.INCOMPATIBLE_VERSION
            assert error_of(answer)["cniVersion"] == version


@pytest.mark.parametrize("name", ["", None, 3, "../x", "a b", "-x"])
def test_the_network_needs_a_name(name: object) -> None:
    answer, _ = call(configuration={"name": name})
    assert error_of(answer)["code"] == protocol.INVALID_CONFIGURATION
    problem = "invalid value" if name else "missing"
    assert f"'name': {problem}" in str(error_of(answer)["msg"])


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
@pytest.mark.parametrize("prev_result", [[], "x", 3, True])
def test_a_prevresult_is_an_object(command: str, prev_result: object) -> None:
    answer, request = call({"CNI_COMMAND": command}, {"prevResult": prev_result})
    error = error_of(answer)
    assert error["code"] == protocol.INVALID_CONFIGURATION
    assert "prevResult" in str(error["msg"])
    assert request is None


@pytest.mark.parametrize("version", protocol.SUPPORTED_VERSIONS)
def test_without_a_prevresult_the_result_is_empty(version: str) -> None:
    """As when Multus calls the plugin for a network of its own, and not in a list."""
    for configuration in ({}, {"prevResult": None}):
        stdin = json.dumps({"cniVersion": version, "name": "net", "type": "capture-cni"} | configuration)
        requests: list[Request] = []
        answer = dispatch(ENVIRON | {"CNI_IFNAME": "net1", "CNI_ARGS": ""}, stdin.encode(), {"ADD": requests.append})
        assert (json.loads(answer.stdout), answer.exit_status) == ({"cniVersion": version}, 0)
        assert requests[0].previous_result is None


# --- GC ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_knows_what_is_left(key: str) -> None:
    for listed, expected in ((ATTACHMENTS, (("cafe01", "eth0"),)), ([], ()), (None, ())):
        _, request = call({"CNI_COMMAND": "GC"}, {"cniVersion": "1.1.0", key: listed})
        assert request is not None
        assert request.valid_attachments == expected


def test_gc_keeps_what_either_list_names() -> None:
    listed: dict[str, object] = {"cni.dev/valid-attachments": None, "cni.dev/attachments": ATTACHMENTS}
    _, request = call({"CNI_COMMAND": "GC"}, listed | {"cniVersion": "1.1.0"})
    assert request is not None
    assert request.valid_attachments == (("cafe01", "eth0"),)


@pytest.mark.parametrize(
    "listed", ["x", {}, 3, ["x"], [{}], [{"containerID": "a"}], [{"containerID": "a", "ifname": 1}], [None]]
)
def test_gc_with_a_broken_list_takes_nothing_for_gone(listed: object) -> None:
    answer, request = call({"CNI_COMMAND": "GC"}, {"cniVersion": "1.1.0", "cni.dev/valid-attachments": listed})
    assert error_of(answer)["code"] == protocol.INVALID_CONFIGURATION
    assert "the configuration for GC" in str(error_of(answer)["details"])  # it is in no file
    assert request is None


def test_gc_without_a_list_takes_nothing_for_gone() -> None:
    answer, request = call({"CNI_COMMAND": "GC"}, {"cniVersion": "1.1.0"})
    assert "cni.dev/valid-attachments" in str(error_of(answer)["msg"])
    assert "the configuration for GC" in str(error_of(answer)["details"])
    assert request is None


# --- CNI_ARGS ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("K8S_POD_NAME=web-0", {"K8S_POD_NAME": "web-0"}),
        ("IgnoreUnknown=1;K8S_POD_NAME=web-0;X=y", {"K8S_POD_NAME": "web-0", "X": "y"}),
        (
            "IgnoreUnknown=true;K8S_POD_NAME=web-0;X=y;K8S_POD_NAME=web-0;IgnoreUnknown=1",
            {"K8S_POD_NAME": "web-0", "X": "y"},
        ),
        ("X=y;K8S_POD_NAME=web-0;IgnoreUnknown=TRUE", {"K8S_POD_NAME": "web-0", "X": "y"}),
        ("K8S_POD_NAME=web-0;IgnoreUnknown=0", {"K8S_POD_NAME": "web-0"}),
        ("K8S_POD_NAME=a=b;", {"K8S_POD_NAME": "a=b"}),
        ("K8S_POD_NAME=;K8S_POD_NAMESPACE=", {"K8S_POD_NAME": "", "K8S_POD_NAMESPACE": ""}),
        ("K8S_POD_NAME=a;K8S_POD_NAME=a", {"K8S_POD_NAME": "a"}),
    ],
)
def test_arguments_are_keys_and_values(text: str, arguments: dict[str, str]) -> None:
    assert parse_arguments(text, KNOWN) == arguments


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("K8S_POD_NAME", "invalid entry 'K8S_POD_NAME': expected KEY=VALUE"),
        ("=web", "invalid entry '=web': expected KEY=VALUE"),
        ("K8S_POD_NAME=a;K8S_POD_NAME=b", "two values"),
        ("K8S_POD_NAMSPACE=shop", "unknown keys: K8S_POD_NAMSPACE"),
        ("K8S_POD_NAMSPACE=shop;IgnoreUnknown=false", "unknown keys: K8S_POD_NAMSPACE"),
        ("IgnoreUnknown=yes", "expected 0, 1, true or false"),
    ],
)
def test_arguments_that_are_refused(text: str, words: str) -> None:
    answer, _ = call({"CNI_ARGS": text})
    error = error_of(answer)
    assert error["code"] == protocol.INVALID_ENVIRONMENT
    assert str(error["msg"]).startswith("CNI_ARGS: ")
    assert words in str(error["msg"])


# --- errors -----------------------------------------------------------------------------------------------------


def test_an_error_of_the_handler_is_printed_in_the_requested_version() -> None:
    answer, _ = call(
        configuration={"cniVersion": "0.3.1"}, error=CniError(101, "pod shop/web-0: no", "Do this.\nOr that.")
    )
    assert error_of(answer) == {
        "cniVersion": "0.3.1",
        "code": 101,
        "msg": "pod shop/web-0: no",
        "details": "Do this.\nOr that.",
    }


def test_a_message_is_one_short_line_that_is_safe_for_any_terminal() -> None:
    error = CniError(100, "a\nb\tc\x1b[2J\u2028\ud800é" + "x" * 10_000, "y" * 10_000)
    assert error.message.startswith("a b c\\x1b[2J \\ud800éxxx")
    assert len(error.message) <= protocol.MAX_MESSAGE_LENGTH
    assert error.message.endswith("characters)")
    assert len(error.details) <= protocol.MAX_DETAILS_LENGTH


def test_a_defect_is_not_taken_for_an_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        call(error=ZeroDivisionError())


def test_an_error_says_what_to_do_by_its_code_or_has_no_details() -> None:
    assert "details" not in error_of(call(error=CniError(11, "later"))[0])
    assert "by hand" in str(error_of(call(environ={"CNI_COMMAND": "FOO"})[0])["details"])
    for wrong in (b"[]", b"{", b"\xff", b'{"cniVersion": 7}', b'{"cniVersion": "1.0.0", "name": "/"}'):
        assert "/etc/cni/net.d" in str(error_of(call(configuration=wrong)[0])["details"])


def test_the_codes_are_those_of_the_specification() -> None:
    assert (
        protocol.INCOMPATIBLE_VERSION,
        protocol.UNKNOWN_CONTAINER,
        protocol.INVALID_ENVIRONMENT,
        protocol.IO_FAILURE,
        protocol.DECODING_FAILURE,
        protocol.INVALID_CONFIGURATION,
        protocol.TRY_AGAIN_LATER,
        protocol.NOT_AVAILABLE,
        protocol.NOT_AVAILABLE_LIMITED,
    ) == (1, 3, 4, 5, 6, 7, 11, 50, 51)
