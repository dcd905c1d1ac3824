from __future__ import annotations

from typing import Any

import pytest

from capture.errors import CaptureError, ConfigurationError
from capture.operations import apply, trace_packet
from capture.settings.settings import Settings


@pytest.mark.parametrize(
    ("name", "packet"),
    [
        ("destination", {"destination": "example.org", "port": 80}),
        ("destination", {"destination": None, "port": 80}),
        ("source", {"destination": "10.0.0.1", "port": 80, "source": "nobody"}),
        ("port", {"destination": "10.0.0.1", "port": 65536}),
        ("port", {"destination": "10.0.0.1", "port": "80"}),
        ("uid", {"destination": "10.0.0.1", "port": 80, "uid": -1}),
        ("gid", {"destination": "10.0.0.1", "port": 80, "gid": 2**32}),
    ],
)
def test_a_packet_that_cannot_be_is_refused_by_the_argument(name: str, packet: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        trace_packet(**packet)

    assert caught.value.origin == f"the argument {name}"


@pytest.mark.parametrize("path", [b"/run/netns/pod", "/run/netns/p\0d", 5, ""])
def test_what_is_no_path_of_a_namespace_is_a_capture_error(path: Any) -> None:
    with pytest.raises(CaptureError, match="network namespace"):
        apply(Settings({}), path)
