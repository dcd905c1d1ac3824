import pytest

from capture.model.text import closest_name


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
