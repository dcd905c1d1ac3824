"""Any text for any option is a value or a complete error, and no text becomes anything but its value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capture.errors import ConfigurationError
from capture.model.ruleset import Span
from capture.rules import build_ruleset
from capture.settings import options as option
from capture.settings.config import resolve
from capture.settings.options import OPTIONS, RULE_OPTIONS
from capture.settings.parsers import RESERVED_ROUTE_TABLES
from support.captures.fake_pod import POD, FakePod, explicit
from support.rules.notation import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from capture.settings.options import Option

options = st.sampled_from(OPTIONS)
blanks = st.sampled_from(["", " ", "  "])

# Letters of what people write and of what attackers do, and everything else now and then.
letters = st.sampled_from("0123456789abcdefxX.:/,*-+_ =!;'\"$`|&()<>\\%#@~") | st.characters()
texts = st.text(letters, max_size=24) | st.text(st.sampled_from("0123456789,-*."), max_size=24)

UNPRINTABLE = st.characters(categories=["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"]) | st.sampled_from(
    "\u00a0\u2003\u3000"
)


def refusal(which: Option[Any], text: str) -> ConfigurationError | None:
    """Return the error that a text gives, or None if it is taken."""
    try:
        resolve(explicit({which: text}), POD)
        explicit({which: text})[which]
    except ConfigurationError as error:
        return error
    return None


@given(options, texts)
def test_any_text_is_a_value_or_an_error_that_names_it(which: Option[Any], text: str) -> None:
    error = refusal(which, text)
    if error is not None:
        assert (error.option, error.origin) == (which.name, "command line")
        assert error.value in text
        assert str(error).startswith((f"{which.name}: ", f"-{which.short}, {which.name}: "))
        assert which.expected in str(error)
        assert str(error).isprintable()


@given(options, texts, UNPRINTABLE, texts)
def test_unprintable_characters_are_refused_everywhere(which: Option[Any], before: str, bad: str, after: str) -> None:
    with pytest.raises(ConfigurationError, match="no control characters"):
        explicit({which: before + bad + after})[which]


@given(st.sampled_from(RULE_OPTIONS), texts)
def test_a_rule_holds_values_and_never_the_text(which: Option[Any], text: str) -> None:
    """Accepted values are numbers, networks and names of a few letters."""
    try:
        config, _ = resolve(explicit({which: text}), FakePod(groups={"java": 202}, users={"java": 202}))
    except ConfigurationError:
        return
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .:/,-_+=?@>&'")
    for family in config.families:
        for line in shown(build_ruleset(config), family):
            assert set(line) <= allowed, line


# --- numbers, in every way that is not how one writes them -------------------------------------------

ports = st.integers(1, 65535)
spans = st.tuples(ports, ports).map(lambda pair: Span(min(pair), max(pair)))


@given(st.lists(spans, max_size=20), st.data())
def test_lists_of_ports_are_read_in_order(several: list[Span], data: st.DataObject) -> None:
    separators = data.draw(st.lists(st.tuples(blanks, blanks), min_size=len(several), max_size=len(several)))
    text = ",".join(f"{before}{span}{after}" for span, (before, after) in zip(several, separators, strict=True))
    assert explicit({option.OUTBOUND_PORTS: text})[option.OUTBOUND_PORTS] == tuple(dict.fromkeys(several))


@given(
    st.sampled_from([option.PROXY_PORT, option.OUTBOUND_PORTS, option.TPROXY_MARK, option.PROXY_GID]), ports, st.data()
)
def test_a_number_in_disguise_is_refused(which: Option[Any], number: int, data: st.DataObject) -> None:
    plain = str(number)
    zero = data.draw(st.sampled_from([0x0660, 0x06F0, 0x0966, 0xFF10, 0x1D7CE]))  # zeros of other scripts
    disguised = data.draw(
        st.sampled_from(
            [
                f"+{plain}",
                f"-{plain}",
                f"0{plain}",
                f"{plain}_0",
                f"{plain}.0",
                f"{plain}e0",
                f"0b{number:b}",
                f"0o{number:o}",
                f"{plain[0]} {plain[1:]}0",
                f"{plain},{plain}x",
                "".join(chr(zero + int(digit)) for digit in plain),
            ]
        )
    )
    with pytest.raises(ConfigurationError, match="invalid value"):
        explicit({which: disguised})[which]


@given(st.integers(0, 2**34))
def test_numbers_count_within_their_bounds_only(number: int) -> None:
    bounds: list[tuple[Option[Any], bool]] = [
        (option.PROXY_PORT, 1 <= number <= 65535),
        (option.PROXY_UID, number <= 2**32 - 2),
        (option.TPROXY_MARK, 1 <= number <= 2**32 - 1 and number != 1338),
        (option.TPROXY_ROUTE_TABLE, 1 <= number <= 2**32 - 1 and number not in RESERVED_ROUTE_TABLES),
    ]
    for which, good in bounds:
        if good:
            assert explicit({which: str(number)})[which] in (number, (Span(number, number),))
        else:
            with pytest.raises(ConfigurationError):
                explicit({which: str(number)})[which]


@given(st.text("abcXYZ019_.-", min_size=1, max_size=20))
def test_an_interface_of_harmless_letters_is_taken_if_a_kernel_would(name: str) -> None:
    kernel_takes_it = len(name) <= 15 and name not in (".", "..")
    if kernel_takes_it and not name.startswith("-"):
        assert explicit({option.EXCLUDED_INTERFACES: name})[option.EXCLUDED_INTERFACES] == (name,)
    else:
        with pytest.raises(ConfigurationError):
            explicit({option.EXCLUDED_INTERFACES: name})[option.EXCLUDED_INTERFACES]


@given(st.text(letters, min_size=1, max_size=12))
def test_users_that_do_not_exist_are_errors(name: str) -> None:
    error = refusal(option.PROXY_UID, name)
    if error is None:
        assert set(name) <= set("0123456789-, ")
    else:
        assert error.option == "--proxy-uid"
