"""JSON is read and written as the module json does it, or refused with the place."""

import subprocess
import sys

import pytest

from capture.model.json_text import JsonError, decode_json, encode_json

# text, why it is no JSON, line, column
NOT_JSON = [
    ("", "expected a value", 1, 1),
    ("  ", "expected a value", 1, 3),
    ("nul", "expected a value", 1, 1),
    ("1 2", "expected the end", 1, 3),
    ("[1 2]", "delimiter", 1, 4),
    ('{"a" 1}', "", 1, 6),
    ('{"a":1', "", 1, 7),
    ('{"a":\n  tru}', "expected a value", 2, 3),
    ("01", "expected the end", 1, 2),
    ("+1", "expected a value", 1, 1),
    (".5", "expected a value", 1, 1),
    ("'a'", "expected a value", 1, 1),
    ('"a\nb"', "Invalid control character", 1, 3),
    ('"\\x41"', "Invalid \\escape", 1, 2),
    ('"\\u12"', "", 1, 3),
    ('"open', "Unterminated string", 1, 1),
    ("NaN", "NaN is no JSON number", 1, 1),
    ("Infinity", "Infinity is no JSON number", 1, 1),
    ("[-Infinity]", "-Infinity is no JSON number", 1, 1),
    ("\u0663", "expected a value", 1, 1),  # ARABIC-INDIC DIGIT THREE
    ("1\u0663", "expected the end", 1, 2),
    ("\ufeff{}", "expected a value", 1, 1),  # a byte order mark
    ("9" * 5000, "5000 digits", 1, 1),
]


@pytest.mark.parametrize(("text", "reason", "line", "column"), NOT_JSON)
def test_a_text_that_is_no_json_is_refused_with_its_place(text: str, reason: str, line: int, column: int) -> None:
    with pytest.raises(JsonError) as refused:
        decode_json(text)
    assert reason in refused.value.reason
    assert not refused.value.reason.endswith((" at", " "))
    assert (refused.value.line, refused.value.column) == (line, column)


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_nesting_without_end_is_refused(opening: str) -> None:
    with pytest.raises(JsonError, match="nested too deeply"):
        decode_json(opening * 100_000)


@pytest.mark.parametrize("text", ["1.10", "1e400", "-0.0", "1E+2", "1500.00", "12345678901234567890.5"])
def test_a_number_is_written_as_it_was_read(text: str) -> None:
    value = decode_json(text)
    assert value == float(text)
    assert encode_json(value) == text


def test_of_members_with_one_name_the_last_counts() -> None:
    assert decode_json('{"a": 1, "a": 2}') == {"a": 2}


def test_half_a_surrogate_pair_survives() -> None:
    assert encode_json(decode_json('"\\ud83d"')) == '"\\ud83d"'
    assert decode_json('"\\ud83d\\ude00"') == "\U0001f600"


def test_a_value_that_json_cannot_express_is_not_written() -> None:
    for number in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="no JSON number"):
            encode_json([number])
    for value in (b"bytes", {1, 2}, object()):
        with pytest.raises(TypeError, match="type"):
            encode_json({"a": value})
    with pytest.raises(TypeError, match="names"):
        encode_json({1: "a"})


IMPORTS = """
import sys
from capture.model.json_text import JsonError, decode_json, encode_json
encode_json(decode_json('{"a": [1, 2.5, "x"]}'))
print(*sorted({"re", "json", "json.decoder", "enum", "functools"} & set(sys.modules)))
try:
    decode_json('{"a": 1')  # the C scanner looks for its exception in json.decoder, and finds nothing up to Python 3.12
except JsonError as refused:
    print(refused)
"""


def test_valid_texts_need_neither_json_nor_re_and_bad_ones_still_have_a_reason() -> None:
    loaded, refused = _run(IMPORTS)
    assert loaded == ""
    assert refused == "line 1 column 8: expected ',' delimiter"


def _run(program: str) -> list[str]:
    import capture

    root = capture.__path__[0].rpartition("/")[0]
    program = f"import sys; sys.path.insert(0, {root!r})\n{program}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
