"""The help of the options of the table, by topic."""

from capture.report.option_text import by_topic, flags_text, help_text
from capture.settings.options import DRY_RUN, EXCLUDED_OUTBOUND_PORTS, OPTIONS, OWNER_GROUPS, PROXY_PORT, REDIRECT_DNS


def test_flags_and_their_help() -> None:
    assert flags_text(PROXY_PORT) == "-p, --envoy-port PORT"
    assert help_text(PROXY_PORT) == "Port to which outbound TCP is sent.  [default: 15001]  [env: ENVOY_PORT]"
    assert flags_text(DRY_RUN) == "-n, --dry-run"
    assert flags_text(OWNER_GROUPS) == "ISTIO_OUTBOUND_OWNER_GROUPS=GROUPS"
    assert "[default" not in help_text(REDIRECT_DNS) + help_text(EXCLUDED_OUTBOUND_PORTS)
    assert help_text(REDIRECT_DNS).endswith("[env: REDIRECT_DNS, ISTIO_META_DNS_CAPTURE]")


def test_every_option_has_a_topic_and_those_without_a_flag_come_last() -> None:
    topics = by_topic(OPTIONS)

    assert sorted(option.name for options in topics.values() for option in options) == sorted(
        option.name for option in OPTIONS
    )
    assert {"Redirect ports", "Exclusions", "Backend"} < set(topics)
    assert list(topics)[-1] == "In the environment only"
    assert all(not option.flag for option in topics["In the environment only"])
