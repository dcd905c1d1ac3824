"""A container runtime whose answers are none."""

from collections.abc import Callable
from typing import Any

import pytest

from cni.agent import protobuf, runtime
from cni.agent.grpc_call import CallError
from cni.agent.runtime import RuntimeAnswerError, RuntimeClient, RuntimeSilentError

QUESTIONS: dict[str, Callable[[RuntimeClient], Any]] = {
    "Status": RuntimeClient.loaded,
    "ListPodSandbox": RuntimeClient.sandboxes,
    "PodSandboxStatus": lambda client: client.network_namespace("cafe01"),
}


@pytest.mark.parametrize("answer", [b"\xff", protobuf.message(f1=b"\xff", f2=b"\xff")])
@pytest.mark.parametrize("method", QUESTIONS)
def test_an_answer_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, method: str, answer: bytes) -> None:
    monkeypatch.setattr(runtime, "call", lambda *_: answer)
    with pytest.raises(RuntimeSilentError, match=f"/socket: {method}: its answer is not understood"):
        QUESTIONS[method](RuntimeClient("/socket"))


SILENCE = ("DEADLINE_EXCEEDED", "UNAVAILABLE")


@pytest.mark.parametrize("code", ["NOT_FOUND", *SILENCE])
def test_a_refusal_is_an_answer_and_silence_is_none(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    def refuse(*_: object) -> bytes:
        raise CallError(code, "no")

    monkeypatch.setattr(runtime, "call", refuse)
    with pytest.raises(RuntimeSilentError, match=f"PodSandboxStatus: {code}: no") as raised:
        RuntimeClient("/socket").network_namespace("cafe01")
    assert isinstance(raised.value, RuntimeAnswerError) == (code not in SILENCE)
