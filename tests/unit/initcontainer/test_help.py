from __future__ import annotations

from capture.settings.options import OPTIONS
from initcontainer.help import usage


def test_every_option_is_explained() -> None:
    text = usage()
    words = " ".join(text.split())

    for option in OPTIONS:
        assert option.name in text
        assert option.help in words
        for variable in option.variables:
            assert variable in words
    assert max(map(len, text.splitlines())) <= 120
