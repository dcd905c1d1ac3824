"""``capture diff``: which connections two captures treat differently."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from capture.backends.iptables.render import shown_rule
from capture.cli.diff import diff
from capture.cli.input import InputError
from capture.errors import CaptureError, ConfigurationError
from capture.report.listings import ruleset_of_dump


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(diff, list(arguments), stdin, standalone_mode=False, catch_exceptions=False)


def test_differences_have_outcomes_and_a_witness() -> None:
    done = run("-x 10.96.0.0/12", "-x 10.96.0.0/12 -o 5432")

    assert done.return_value == 4
    assert "IPv4 outbound: tcp to other than 10.96.0.0/12, port 5432, user other than 1337," in done.stdout
    assert "proxy-outbound 15001 -> direct" in done.stdout
    assert "witness: tcp to 203.0.113.7:5432 " in done.stdout


def test_the_same_in_other_words_is_equal() -> None:
    done = run("-x 10.0.0.0/9,10.128.0.0/9", "-x 10.0.0.0/8")

    assert (done.return_value, done.stdout) == (0, "equal: both captures treat every connection alike\n")


def test_a_witness_in_a_network_is_its_first_host() -> None:
    done = run("-x 10.0.0.0/8", "")

    assert "tcp to 10.0.0.0/8, user" in done.stdout
    assert "witness: tcp to 10.0.0.1:80 " in done.stdout


def test_a_difference_by_a_rule_that_cannot_be_judged_is_none_that_is_certain(tmp_path: Path) -> None:
    to_proxy = {"ISTIO-REDIRECT": ["-p tcp -j REDIRECT --to-ports 15001"], "OUTPUT": ["-p tcp -j ISTIO-REDIRECT"]}
    at_random = {**to_proxy, "OUTPUT": ["-m statistic --mode random --probability 0.5 -j ACCEPT", *to_proxy["OUTPUT"]]}
    for name, rules in (("plain", to_proxy), ("random", at_random)):
        chains = [{"chain": chain, "rules": [{"rule": each, "more": []} for each in rules[chain]]} for chain in rules]
        dumped = {"tables": [{"family": "ipv4", "table": "nat", "chains": chains}]}
        (tmp_path / name).write_text(json.dumps(dumped))

    done = run(str(tmp_path / "plain"), str(tmp_path / "random"))

    assert done.return_value == 5
    assert ": proxy-outbound 15001 -> cannot be judged\n" in done.stdout


def test_diff_prints_json() -> None:
    done = run("--profile classic", "--profile current", "--format", "json")

    plain = json.loads(done.stdout)
    assert (plain["schema"], plain["equal"]) == ("capture/v1", False)
    assert {
        "family": "ipv4",
        "direction": "inbound",
        "packets": ["tcp, port 22"],
        "witness": "tcp to 192.0.2.2:22 from 198.51.100.7:45000, in via eth0",
        "before": {"outcome": "direct", "port": None, "address": None, "interface": None},
        "after": {"outcome": "proxy-inbound", "port": 15006, "address": None, "interface": None},
        "hangs": False,
    } in plain["differences"]


@pytest.mark.parametrize("wrong", ["nosuch", "-x 10.0.0.0/99", "'"])
def test_a_text_that_is_neither_options_nor_a_file_is_refused(wrong: str) -> None:
    with pytest.raises(CaptureError) as refused:
        run("-p 15001", wrong)

    assert refused.value.exit_code == 2


def test_a_dump_may_come_by_standard_input() -> None:
    assert "user 1337, over lo: direct -> proxy-inbound" in run("-", "-b '' -i ''", stdin='{"tables": []}').stdout


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^cannot read before\.json: No such file"):
        run("before.json", "")


CHAIN = {"chain": "A", "rules": [{"rule": 5, "more": []}]}
NO_RULE = json.dumps({"tables": [{"family": "ipv4", "table": "nat", "chains": [CHAIN]}]})


@pytest.mark.parametrize("text", [NO_RULE, "[" * 100_000], ids=["no rule", "deep"])
def test_what_is_no_dump_is_a_value_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected a file written by `capture dump --format json`"):
        run("-", "", stdin=text)


def test_a_dump_keeps_a_rule_whose_text_has_the_words_of_a_list() -> None:
    text = '-p tcp -j LOG --log-prefix "a (and b"'
    chains = [{"chain": "OUTPUT", "policy": "ACCEPT", "rules": [{"rule": text, "more": []}]}]

    read = ruleset_of_dump({"tables": [{"family": "ipv4", "table": "nat", "chains": chains}]})

    ((rule,),) = (chain.rules for chain in read.tables[0].chains)
    assert shown_rule(rule, "ipv4") == text
