from __future__ import annotations

import pytest

from capture.errors import ConfigurationError
from capture.model.addresses import parse_network
from capture.model.ruleset import Span
from capture.operations import trace_packet
from capture.settings import options as table
from capture.settings.keywords import OPTIONS_BY_NAME, make_settings
from capture.settings.options import EXCLUDED_INBOUND_PORTS, OUTBOUND_NETWORKS, PROXY_PORT, REDIRECT_DNS
from capture.settings.settings import Settings


def test_values_of_python_become_what_a_flag_would_say() -> None:
    settings = make_settings(
        proxy_port=16001,
        excluded_inbound_ports=(22, "80-90"),
        outbound_networks=["10.0.0.0/8", "fd00::/8"],
        redirect_dns=True,
        capture_all_dns=None,
    )

    assert settings[PROXY_PORT] == 16001
    assert settings[EXCLUDED_INBOUND_PORTS] == (Span(22, 22), Span(80, 90))
    assert settings[OUTBOUND_NETWORKS].entries == (parse_network("10.0.0.0/8"), parse_network("fd00::/8"))
    assert settings[REDIRECT_DNS] is True
    assert len(settings.explicit) == 4


def test_nothing_said_is_nothing_said() -> None:
    assert make_settings() == Settings({})
    assert make_settings(excluded_inbound_ports=[])[EXCLUDED_INBOUND_PORTS] == ()


def test_a_value_that_cannot_be_used_names_the_argument() -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_settings(outbound_networks=["10.0.0.0/8", "nonsense"])

    assert caught.value.origin == "the argument outbound_networks"
    assert caught.value.value == "10.0.0.0/8,nonsense"


def test_a_name_that_is_no_option_is_refused_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(TypeError, match=r"no option 'proxy_prot'; is 'proxy_port' meant"):
        make_settings(proxy_prot=1)
    with pytest.raises(TypeError, match=r"no option 'zzz'$"):
        make_settings(zzz=1)


def test_every_option_of_the_table_has_a_name() -> None:
    assert set(OPTIONS_BY_NAME.values()) == set(table.OPTIONS)


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="not an IP address"):
        trace_packet("example.org", 80)
