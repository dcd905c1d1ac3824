"""What `istio-init` prints at each level, as text and as lines of Istio's log."""

import datetime as dt
import json
from collections.abc import Sequence

import pytest

from capture.errors import CaptureError, ConfigurationError
from capture.settings.options import LOG_AS_JSON, LOG_OUTPUT_LEVEL
from initcontainer.printer import Printer
from support.captures.fake_pod import explicit

ERROR = CaptureError("nothing works", "try again")


def printed(capsys: pytest.CaptureFixture[str], level: str, as_json: str = "false") -> tuple[str, str]:
    """Return what one line of each kind gives on stdout and on stderr."""
    printer = Printer()
    printer.obey(explicit({LOG_OUTPUT_LEVEL: level, LOG_AS_JSON: as_json}))
    printer.show("a line")
    printer.warn(["careful", "slowly"])
    printer.report(ERROR)
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize(
    ("levels", "shown"),
    [
        (("debug", "info", "default:info", "grpc:none", "all:none,info", ""), "a line careful slowly error"),
        (("warn", "all:warn", "default:info,default:warn"), "careful slowly error"),
        (("error", "fatal", "default:fatal,grpc:debug"), "error"),
        (("none", "all:none"), ""),
    ],
)
def test_a_level_decides_what_is_printed(capsys: pytest.CaptureFixture[str], levels: Sequence[str], shown: str) -> None:
    for level in levels:
        text = "".join(printed(capsys, level))
        words = [word for word in ("a line", "careful", "slowly", "error") if word in text]
        assert " ".join(words) == shown, level


def test_json_has_the_keys_of_istio_s_log(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(capsys, "info", "true")
    lines = [json.loads(line) for line in (out + err).splitlines()]
    assert [(line["level"], line["msg"]) for line in lines] == [
        ("info", "a line"),
        ("warn", "careful"),
        ("warn", "slowly"),
        ("error", "nothing works"),
    ]
    assert lines[-1]["remedy"] == "try again"
    for line in lines:
        time = dt.datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=dt.UTC)
        assert abs(dt.datetime.now(dt.UTC) - time) < dt.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("level", "as_json", "words"),
    [("warn", "false", "warning: so so"), ("warn", "true", "so so"), ("error", "false", "")],
)
def test_a_warning_on_stdout(capsys: pytest.CaptureFixture[str], level: str, as_json: str, words: str) -> None:
    printer = Printer()
    printer.obey(explicit({LOG_OUTPUT_LEVEL: level, LOG_AS_JSON: as_json}))
    printer.warn(["so so"], is_output=True)
    out, err = capsys.readouterr()
    assert err == ""
    assert words in out
    assert bool(out) == bool(words)


def test_text_of_several_lines_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()
    printer.obey(explicit({LOG_AS_JSON: "true"}))
    printer.show("one\ntwo\n")
    assert json.loads(capsys.readouterr().out)["msg"] == "one\ntwo"


def test_an_unknown_level(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()
    with pytest.raises(ConfigurationError) as caught:
        printer.obey(explicit({LOG_OUTPUT_LEVEL: "loud", LOG_AS_JSON: "true"}))
    printer.report(caught.value)
    assert "--log_output_level" in json.loads(capsys.readouterr().err)["msg"]
