"""Every value on the command line is checked by a kind, and every error about one has the same words."""

from collections.abc import Iterator

import click
import pytest

from capture.cli.group import BadUsageError, capture, run_click
from capture.cli.packets import ENDPOINT_TYPE, SOURCE_TYPE
from capture.cli.parameter_types import ParameterType, name_of, number_type, word_type
from capture.errors import CaptureError, ConfigurationError
from cni.agent.kubectl import capture_pod

FREE_TEXT = (click.STRING, click.UNPROCESSED)
UNLIKELY = ("//", "", "a/b/c", "é")
"""Texts of which each kind refuses one."""
GOOD = {"PROTOCOL": "tcp", "NAMESPACE/NAME": "shop/web"}


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield words, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from commands(found, (*words, name))


ALL = [
    pytest.param(command, words, param, id=f"{'-'.join(words)} {name_of(param)}")
    for root, first in ((capture, ()), (capture_pod, ("kubectl",)))
    for words, command in commands(root, first)
    for param in command.params
    if param.type not in FREE_TEXT and not getattr(param, "is_flag", False)
]


@pytest.mark.parametrize(("command", "words", "param"), ALL)
def test_a_value_that_does_not_fit_is_named_with_what_is_expected(
    command: click.Command, words: tuple[str, ...], param: click.Parameter
) -> None:
    assert isinstance(param.type, ParameterType), "take a type of capture.cli.parameter_types, not of click"
    name = name_of(param)
    bad = next((text for text in UNLIKELY if refuses(param.type, text)), None)
    assert bad is not None or param.type.expected.startswith("options of the capture")
    if bad is None:
        return
    before = [GOOD.get(name_of(each), "") for each in command.params if isinstance(each, click.Argument)]
    line = [f"{name}={bad}"] if name.startswith("-") else [*before[: index_of(command, param)], bad]

    with pytest.raises(ConfigurationError) as raised:
        run_click(command, line, " ".join(words))

    assert raised.value.message == f"{name}: invalid value {bad!r}: expected {param.type.expected}"
    assert raised.value.exit_code == 2


def test_a_value_of_the_environment_is_named_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTURE_DAEMON_SET", "agents")

    with pytest.raises(ConfigurationError, match=r"^--daemon-set \(environment CAPTURE_DAEMON_SET\): invalid value"):
        run_click(capture, ["node", "uninstall"])


def refuses(kind: ParameterType, text: str) -> bool:
    try:
        kind.convert(text, None, None)
    except CaptureError:
        return True
    return False


def index_of(command: click.Command, param: click.Parameter) -> int:
    arguments: list[click.Parameter] = [each for each in command.params if isinstance(each, click.Argument)]
    return arguments.index(param)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (word_type("NEW", "OLD", spelled=str.upper), "old", "OLD"),
        (word_type("a", "b"), "B", None),
        (number_type(1), "1", 1),
        (number_type(1), "0", None),
        (number_type(1), "1.5", None),
        (number_type(1), "9" * 30, None),
        (number_type(1), "1_0", None),
        (number_type(0, kind=float), "0.5", 0.5),
        (number_type(0, kind=float), "nan", None),
        (number_type(0, kind=float), "inf", None),
    ],
)
def test_words_and_numbers(kind: ParameterType, text: str, value: object) -> None:
    assert refuses(kind, text) == (value is None)
    if value is not None:
        assert kind.convert(text, None, None) == value


def test_a_missing_argument_is_named_with_what_is_expected() -> None:
    with pytest.raises(BadUsageError, match=r"^missing argument PROTOCOL: expected tcp or udp, before the address\n"):
        run_click(capture, ["trace"])


def test_an_ipv4_address_in_the_form_of_ipv6_is_one_of_ipv4() -> None:
    """As ss(8) shows those of sockets of both families, which Java and Go open."""
    assert ENDPOINT_TYPE("[::ffff:10.1.2.3]:80") == ENDPOINT_TYPE("10.1.2.3:80")
    assert SOURCE_TYPE("::ffff:10.1.2.3") == SOURCE_TYPE("10.1.2.3")
    assert ENDPOINT_TYPE("[fd00::1]:80") != ENDPOINT_TYPE("[::ffff:0:1]:80")
