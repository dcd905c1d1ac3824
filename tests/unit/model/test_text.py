"""Names that are close, and numbers with their nouns."""

import pytest

from capture.model.text import closest_name, duration, enumerated, plural, shortened


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("exclude-inbound-ports", "exclude-inbound-cidrs"),
        ("include-inbound-ports", "exclude-inbound-ports"),
        ("include-outbound-cidrs", "exclude-outbound-cidrs"),
        ("exclude-outbound-ports", "exclude-inbound-ports"),
    ],
)
def test_a_name_that_means_something_else_is_not_close(name: str, other: str) -> None:
    assert closest_name(name, [other]) == ""
    assert closest_name(name + "s", [other, name]) == name


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (shortened("a" * 80), "a" * 80),
        (shortened("a" * 81), "a" * 61 + "... (81 characters)"),
        (shortened("a" * 300, 30), "a" * 10 + "... (300 characters)"),
        (plural(0, "rule"), "0 rules"),
        (plural(1, "rule"), "1 rule"),
        (enumerated(["netlink"]), "netlink"),
        (enumerated(["netlink", "restore", "iptc"]), "netlink, restore or iptc"),
        (duration(0.4), "0 s"),
        (duration(119), "119 s"),
        (duration(120), "2 min"),
        (duration(7200), "2 h"),
        (duration(2 * 86400), "2 days"),
        (duration(-120), "-2 min"),
    ],
)
def test_words_for_a_person(shown: str, text: str) -> None:
    assert shown == text
