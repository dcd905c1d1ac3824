"""The error of a probe that did not arrive."""

import errno
import os
import socket
import time

import pytest

from capture.errors import ValidationError
from capture.model.addresses import parse_address
from initcontainer.probes import Probe
from initcontainer.prover import Prover

US = (os.geteuid(), os.getegid())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def failure(probe: Probe, seconds: float) -> str:
    prover = Prover(time.monotonic() + seconds, transparent=False, error_for=lambda _, answer: ValidationError(answer))
    with pytest.raises(ValidationError) as refused:
        prover.prove([probe])
    return refused.value.message


def test_the_last_answer_to_a_probe() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        elsewhere = Probe("outbound", parse_address("127.0.0.1"), other.getsockname()[1], *US, free_port())
        assert failure(elsewhere, 0.1) == "the connection was accepted by another listener"
    refused = Probe("outbound", parse_address("127.0.0.1"), free_port(), *US, free_port())
    assert failure(refused, 0.1) == os.strerror(errno.ECONNREFUSED)


def test_time_that_is_over_before_the_first_attempt_is_a_timeout() -> None:
    probe = Probe("outbound", parse_address("203.0.113.1"), 80, *US, free_port())
    assert failure(probe, 0.0) == os.strerror(errno.ETIMEDOUT)
