"""For every input of a runtime: standard output is CNI JSON or empty, and it agrees with the exit status."""

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cni import protocol
from cni.protocol import CniError, Request, Response, dispatch, one_line, parse_arguments

COMMANDS = sorted(protocol.SINCE_VERSION)

words = st.sampled_from(["", "dummy", "eth0", "cafe01", "/run/netns/a", "../x", "a b"]) | st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
)
environs = st.fixed_dictionaries(
    {"CNI_COMMAND": st.sampled_from([*COMMANDS, "", "UPDATE"])},
    optional=dict.fromkeys(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"), words),
)
configurations = st.fixed_dictionaries(
    {},
    optional={
        "cniVersion": st.sampled_from([*protocol.SUPPORTED_VERSIONS, "0.2.0", "9.9.9"]) | json_values,
        "name": st.just("pods") | json_values,
        "type": st.just("capture-cni") | json_values,
        "prevResult": st.fixed_dictionaries({}, optional={"cniVersion": words, "ips": json_values}) | json_values,
        "cni.dev/valid-attachments": json_values,
    },
)
inputs = configurations.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40)
errors = st.none() | st.builds(CniError, st.integers(100, 200), st.text(), st.text())


def run(environ: dict[str, str], stdin: bytes, error: CniError | None = None) -> Response:
    def handle(_request: Request) -> None:
        if error:
            raise error

    return dispatch(environ, stdin, dict.fromkeys(protocol.SINCE_VERSION, handle))


@given(environs, inputs, errors)
def test_standard_output_is_json_or_empty(environ: dict[str, str], stdin: bytes, error: CniError | None) -> None:
    answer = run(environ, stdin, error)
    assert answer.exit_status == (1 if answer.error else 0)
    if not answer.error and environ["CNI_COMMAND"] not in {"ADD", "VERSION"}:
        assert answer.stdout == b""
        return
    content = json.loads(answer.stdout)
    assert content["cniVersion"] in protocol.SUPPORTED_VERSIONS
    if answer.error:
        assert isinstance(content["code"], int)
        assert content["msg"].isprintable()
        assert len(content["msg"]) <= protocol.MAX_MESSAGE_LENGTH


@given(environs, configurations)
def test_del_of_a_container_succeeds_without_any_of_its_parts(
    environ: dict[str, str], configuration: dict[str, object]
) -> None:
    environ |= {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "cafe01", "CNI_IFNAME": "eth0"}
    if not isinstance(configuration.get("cniVersion", ""), str):
        del configuration["cniVersion"]
    assert run(environ, json.dumps(configuration).encode()) == Response(b"", 0)


@given(st.sampled_from(protocol.SUPPORTED_VERSIONS), json_values | st.floats(allow_nan=False, allow_infinity=False))
def test_add_hands_prevresult_on(version: str, extra: object) -> None:
    """In order, and each number as it was written."""
    result = json.dumps({"cniVersion": version, "extra": extra})
    stdin = f'{{"cniVersion": "{version}", "name": "pods", "prevResult": {result}}}'
    environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": "/n"}
    answer = run(environ, stdin.encode())
    assert (answer.exit_status, answer.error) == (0, None)
    assert _as_written(answer.stdout) == _as_written(result)


def _as_written(text: str | bytes) -> str:
    return repr(json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=list))


keys = st.text("ABC_k8s", min_size=1, max_size=8).filter(lambda key: key != "IgnoreUnknown")
values = st.text(st.characters(exclude_characters=";"), max_size=8)


@given(st.dictionaries(keys, values, max_size=6), st.randoms())
def test_arguments_mean_the_same_in_any_order(arguments: dict[str, str], random: Random) -> None:
    pairs = [f"{key}={value}" for key, value in arguments.items()] + ["IgnoreUnknown=1"]
    random.shuffle(pairs)
    assert parse_arguments(";".join(pairs), ()) == arguments


@given(st.text())
def test_one_line_is_one_line_and_says_it_once(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert one_line(line) == line
