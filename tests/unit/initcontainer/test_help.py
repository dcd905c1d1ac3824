"""The help of `istio-init` has every option."""

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
    assert max(map(len, text.splitlines())) <= 80


def test_help_shows_the_options_of_the_program_and_names_where_the_others_are() -> None:
    text = usage(everything=False)

    assert "--dry-run" in text
    assert all(f"  -{short}, --" in text for short in "pzugmbdixo")
    assert "--redirect-dns" in text
    assert "--istio-exclude-interfaces" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("more capture options: istio-init --help-all\n")
