"""Options that commands share."""

import click
import pytest

from capture.cli.options import namespace_options


@pytest.mark.parametrize(
    ("value", "path"), [("pod", "/run/netns/pod"), ("/proc/7/ns/net", "/proc/7/ns/net"), ("./pod", "./pod")]
)
def test_a_namespace_is_a_path_or_a_name_of_ip_netns(value: str, path: str) -> None:
    command = click.Command("x", params=namespace_options(), callback=lambda namespace: namespace)

    assert command.main(["--netns", value], standalone_mode=False) == path
