"""Commands that look at the same things take the same options: docs/commands/ has them for each."""

import click
import pytest

from capture.cli.group import capture

NAMESPACE = ("--netns", "--pid")
BACKEND = ("--backend", "--driver", "--profile", "--chain-names")


def options_of(name: str) -> set[str]:
    context = click.Context(capture)
    command = capture.get_command(context, name)
    assert command is not None
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize(
    ("commands", "options"),
    [
        (("apply", "verify", "render", "trace"), ("--envoy-port", "-u", *BACKEND, *NAMESPACE)),
        (("dump", "verify", "trace"), ("--format", "--family", "--table", *NAMESPACE)),
        (("clean", "explain", "why", "watch", "doctor"), ("--format", *NAMESPACE)),
    ],
)
def test_commands_of_a_kind_share_their_options(commands: tuple[str, ...], options: tuple[str, ...]) -> None:
    assert {name: sorted(set(options) - options_of(name)) for name in commands} == {name: [] for name in commands}
