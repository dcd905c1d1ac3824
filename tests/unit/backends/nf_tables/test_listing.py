"""Tables and chains as the kernel lists them."""

import pytest

from capture.backends.nf_tables import constants as nf
from capture.backends.nf_tables.listing import FoundChain, chain_of
from capture.backends.nf_tables.names import Hook
from capture.model.ruleset import Counters
from capture.netlink.attributes import attribute, c_string, nested, u32be, u64be


class TestChains:
    NAMED = (
        attribute(nf.NFTA_CHAIN_TABLE, c_string("nat"))
        + attribute(nf.NFTA_CHAIN_NAME, c_string("OUTPUT"))
        + attribute(2, u64be(9))
    )
    HOOKED = nested(
        nf.NFTA_CHAIN_HOOK,
        attribute(nf.NFTA_HOOK_HOOKNUM, u32be(3)),
        attribute(nf.NFTA_HOOK_PRIORITY, (-100).to_bytes(4, "big", signed=True)),
    ) + attribute(nf.NFTA_CHAIN_TYPE, c_string("nat"))

    def test_a_chain_to_jump_to_is_read(self) -> None:
        assert chain_of(2, self.NAMED) == FoundChain(2, "nat", "OUTPUT", handle=9)

    def test_a_base_chain_is_read(self) -> None:
        chain = chain_of(2, self.NAMED + self.HOOKED + attribute(nf.NFTA_CHAIN_POLICY, u32be(0)))
        hook = Hook("nat", "output", -100)
        assert chain == FoundChain(2, "nat", "OUTPUT", hook, "DROP", handle=9, counters=Counters(0, 0))

    def test_a_chain_with_counters_is_read(self) -> None:
        counted = nested(8, attribute(1, u64be(180)), attribute(2, u64be(3)))
        chain = chain_of(2, self.NAMED + self.HOOKED + counted)
        assert (chain.counters, chain.policy) == (Counters(3, 180), "ACCEPT")

    ETH0, ALONE = attribute(1, c_string("eth0")), attribute(nf.NFTA_HOOK_DEV, c_string("eth0"))

    @pytest.mark.parametrize(
        ("listed", "devices"),
        [
            (b"", ()),
            (ALONE, ("eth0",)),  # before Linux 5.5
            (ALONE + nested(nf.NFTA_HOOK_DEVS, ETH0), ("eth0",)),
            (nested(nf.NFTA_HOOK_DEVS, ETH0, attribute(1, c_string("eth1"))), ("eth0", "eth1")),
        ],
    )
    def test_the_interfaces_of_a_base_chain_are_read(self, listed: bytes, devices: tuple[str, ...]) -> None:
        """As nft_dump_basechain_hook of nf_tables_api.c writes them: all in a list, and one alone in both places."""
        hooked = nested(nf.NFTA_CHAIN_HOOK, attribute(1, u32be(0)), attribute(2, u32be(0)), listed)
        assert chain_of(nf.NFPROTO_NETDEV, self.NAMED + hooked).devices == devices

    def test_an_unknown_hook_is_read(self) -> None:
        hooked = nested(nf.NFTA_CHAIN_HOOK, attribute(1, u32be(6)), attribute(2, u32be(0)))
        chain = chain_of(2, self.NAMED + hooked)
        assert chain.hook == Hook("filter", "6", 0)
