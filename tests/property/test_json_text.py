"""The json package is the oracle: same values, same refusals, and what we write it reads back."""

import json
from typing import NoReturn

from hypothesis import given
from hypothesis import strategies as st

from capture.model.json_text import JsonError, decode_json, encode_json

# Lone surrogates are characters of a JSON string too, when they are escaped.
characters = st.characters() | st.characters(categories=["Cs"])
strings = st.text(characters, max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(strings, inner, max_size=5))
objects = st.dictionaries(strings, values, max_size=6)
layouts = st.sampled_from([None, 0, 1, 4])
almost_json = st.text('{}[]",:\\u0123dE+-. \t\n\rtruefalsnNaIity\u0663\ud800', max_size=30)


@given(values)
def test_the_oracle_reads_what_we_write(value: object) -> None:
    assert json.loads(encode_json(value)) == value
    assert encode_json(value).isascii()
    assert "\n" not in encode_json(value)


@given(value=values, indent=layouts, ascii_only=st.booleans())
def test_we_read_what_the_oracle_writes(value: object, indent: int | None, *, ascii_only: bool) -> None:
    assert decode_json(json.dumps(value, indent=indent, ensure_ascii=ascii_only)) == value


@given(values)
def test_what_we_read_is_written_as_it_was(value: object) -> None:
    assert encode_json(decode_json(json.dumps(value))) == json.dumps(value)


@given(almost_json)
def test_we_refuse_exactly_what_the_oracle_refuses(text: str) -> None:
    assert _outcome(decode_json, text) == _outcome(_oracle, text)


@given(objects, st.data())
def test_a_text_cut_short_is_refused(value: dict[str, object], data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    assert _outcome(decode_json, cut) == "refused"


def _oracle(text: str) -> object:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def _outcome(read: object, text: str) -> object:
    try:
        return repr(read(text))  # type: ignore[operator]  # any of the readers
    except (JsonError, json.JSONDecodeError):
        return "refused"
    except ValueError as constant:
        return "refused" if str(constant) in {"NaN", "Infinity", "-Infinity"} else "something else"
