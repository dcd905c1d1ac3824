"""Names of tables and chains, our own and foreign ones."""

import pytest

from capture.analysis.base_chains import PRIORITIES
from capture.backends.nf_tables.names import HOOKS, NATIVE_TABLE_NAMES, REJECT_TABLE, Hook, model_chain, native_chain
from capture.model.ruleset import MANGLE, NAT, OUTPUT, PREROUTING, RAW, TableName


def test_tables_have_the_names_of_upstreams_native_mode() -> None:
    assert set(NATIVE_TABLE_NAMES.values()) == {"istio-proxy-raw", "istio-proxy-mangle", "istio-proxy-nat"}
    assert REJECT_TABLE == "istio-proxy-reject"


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("ISTIO_INBOUND", "istio-inbound"),
        ("ISTIO_OUTPUT_DNS", "istio-output-dns"),
        ("ISTIO-INBOUND", "ISTIO-INBOUND"),
        ("ISTIO-OUTPUT-DNS", "ISTIO-OUTPUT-DNS"),
        ("istio-inbound", "ISTIO_INBOUND"),
        ("custom", "custom"),
        ("ISTIO_A-B", "ISTIO_A-B"),
        ("ISTIO_ß", "ISTIO_ß"),
    ],
)
def test_our_chains_have_a_name_in_each_backend(name: str, native: str) -> None:
    assert native_chain(name) == native
    assert model_chain(NAT, native, None) == (name, "")


NAMES = {
    "PREROUTING": "prerouting",
    "INPUT": "input",
    "FORWARD": "forward",
    "OUTPUT": "output",
    "POSTROUTING": "postrouting",
}
"""The hooks as nft(8) lists them."""


@pytest.mark.parametrize(("table", "chain"), HOOKS)
def test_built_in_chains_are_named_by_their_hooks(table: str, chain: str) -> None:
    hook = HOOKS[table, chain]  # type: ignore[index]  # a key of the same dictionary

    assert (native_chain(chain), hook.name) == (NAMES[chain], NAMES[chain])
    assert model_chain(table, native_chain(chain), hook) == (chain, "")  # type: ignore[arg-type]  # likewise


def test_hooks_have_the_turns_of_iptables() -> None:
    assert HOOKS[RAW, PREROUTING] == Hook("filter", "prerouting", -300)
    assert HOOKS[MANGLE, PREROUTING] == Hook("filter", "prerouting", -150)
    assert HOOKS[MANGLE, OUTPUT] == Hook("route", "output", -150)
    assert HOOKS[NAT, PREROUTING] == Hook("nat", "prerouting", -100)
    assert HOOKS[NAT, OUTPUT] == Hook("nat", "output", -100)


@pytest.mark.parametrize("table", PRIORITIES)
def test_foreign_chains_come_before_or_after_by_their_order(table: TableName) -> None:
    assert {HOOKS[table, chain].priority for chain in (PREROUTING, OUTPUT)} == {PRIORITIES[table]}


@pytest.mark.parametrize(
    ("name", "hook", "state"),
    [
        ("prerouting", Hook("nat", "prerouting", -5), "nat prerouting -5"),
        ("prerouting", Hook("filter", "prerouting", -100), "filter prerouting -100"),
        ("prerouting", Hook("nat", "output", -100), "nat output -100"),
        ("istio-inbound", Hook("nat", "prerouting", -100), "nat prerouting -100"),
        ("PREROUTING", Hook("nat", "prerouting", -100), "nat prerouting -100"),
        ("prerouting", None, "not hooked"),
        ("OUTPUT", None, "not hooked"),
    ],
)
def test_a_chain_that_is_entered_elsewhere_is_another_chain(name: str, hook: Hook | None, state: str) -> None:
    assert model_chain(NAT, name, hook) == (name, state)


def test_a_chain_of_a_dormant_table_is_another_chain() -> None:
    assert model_chain(NAT, "output", HOOKS[NAT, OUTPUT], is_dormant=True) == ("output", "dormant")
