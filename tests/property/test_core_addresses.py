"""Networks against ``ipaddress``, the standard library's own, which costs 5 ms to import."""

import ipaddress
import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from capture.model.addresses import (
    BITS,
    FAMILIES,
    Family,
    Network,
    address_text,
    collapse,
    is_decimal,
    network_parts,
    network_ranges,
    networks_in_range,
    parse_address,
    parse_network,
)

StandardNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

families = st.sampled_from(FAMILIES)


def standard(network: Network) -> StandardNetwork:
    """Return the network as the standard library has it."""
    if network.family == "ipv4":
        return ipaddress.IPv4Network((network.first, network.prefix))
    return ipaddress.IPv6Network((network.first, network.prefix))


@st.composite
def networks(draw: st.DrawFn, family: Family | None = None, longest_gap: int = 128) -> Network:
    """Draw a network without host bits, often close to others, so that lists of them overlap and adjoin."""
    chosen: Family = draw(families) if family is None else family
    bits = BITS[chosen]
    prefix = draw(st.integers(max(0, bits - longest_gap), bits))
    first = draw(st.one_of(st.integers(0, 2**bits - 1), st.integers(0, 300), st.integers(2**bits - 300, 2**bits - 1)))
    return Network(chosen, first >> (bits - prefix) << (bits - prefix), prefix)


def lists_of_one_family(longest_gap: int = 128) -> st.SearchStrategy[list[Network]]:
    return families.flatmap(lambda family: st.lists(networks(family, longest_gap), max_size=12))


# Texts that are nearly addresses, apart from what hypothesis makes up from their letters.
NEARLY = [
    "", " ", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.04", "+1.2.3.4", "1.2.3.-4", "1..2.3", "1.2.3.4 ",
    "0x7f.0.0.1", "127.1", "2130706433", "1.2.3.4\x00", "\uff11.2.3.4", "\u0660.0.0.0", "\ud800",
    "::", "::1", ":::", "1::2::3", "::ffff:1.2.3.4", "::1.2.3.4", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7", "g::", "12345::", "fe80::1%eth0", "fe80::1%", "[::1]", "::1\n", "1:2:3:4:5:6:7::",
    "::1:2:3:4:5:6:7", "::01.2.3.4", "::1_0",
]  # fmt: skip


class TestText:
    @given(st.one_of(st.sampled_from(NEARLY), st.text("0123456789abcdefABCDEF.:/%xg +-_", max_size=45), st.text()))
    @example("0.0.0.0")
    def test_an_address_is_one_exactly_if_it_is_one_for_the_standard_library(self, text: str) -> None:
        try:
            expected = ipaddress.ip_address(text)
        except ValueError:
            expected = None
        if expected is None or "%" in text:  # the standard library takes an interface with the address
            with pytest.raises(ValueError, match="not an IP address"):
                parse_address(text)
            return
        assert parse_address(text) == Network(f"ipv{expected.version}", int(expected), expected.max_prefixlen)  # type: ignore[arg-type]  # 4 or 6

    @given(networks())
    def test_a_printed_network_is_read_back(self, network: Network) -> None:
        assert parse_network(str(network)) == network
        assert ipaddress.ip_network(str(network)) == standard(network)

    @given(families, st.data())
    def test_addresses_are_printed_as_the_standard_library_reads_them(
        self, family: Family, data: st.DataObject
    ) -> None:
        number = data.draw(st.integers(0, 2 ** BITS[family] - 1))
        text = address_text(family, number)
        assert int(ipaddress.ip_address(text)) == number
        assert parse_address(text) == Network(family, number, BITS[family])

    @given(networks(), st.data())
    def test_host_bits_are_cleared_and_reported(self, network: Network, data: st.DataObject) -> None:
        host = data.draw(st.integers(network.first, network.last))
        text = f"{address_text(network.family, host)}/{network.prefix}"
        assert parse_network(text) == network
        assert network_parts(text)[1] == (host != network.first)
        assert ipaddress.ip_network(text, strict=False) == standard(network)

    @given(
        networks(),
        st.one_of(
            st.sampled_from(
                [
                    "",
                    " 8",
                    "8 ",
                    "+8",
                    "-8",
                    "08",
                    "8_",
                    "1_0",
                    "0x8",
                    "8.0",
                    "\u0668",
                    "\xb2",
                    "255.255.255.0",
                    "129",
                    "999",
                    "8/8",
                ]
            ),
            st.text(max_size=4),
        ),
    )
    def test_prefix_lengths_are_plain_numbers_within_the_family(self, network: Network, prefix: str) -> None:
        text = f"{address_text(network.family, network.first)}/{prefix}"
        if prefix in {str(number) for number in range(BITS[network.family] + 1)}:
            assert parse_network(text).prefix == int(prefix)
            return
        with pytest.raises(ValueError, match=r"not a prefix length|is longer than"):
            parse_network(text)


class TestDecimal:
    @given(
        st.one_of(
            st.integers(0, 10**6).map(str), st.text("0123456789+-_ x.\u0660\xb2", max_size=6), st.text(max_size=3)
        )
    )
    def test_numbers_are_read_as_they_are_printed_only(self, text: str) -> None:
        plain = {str(number) for number in range(1000)}
        assert is_decimal(text, 3) == (text in plain)


class TestProperties:
    @given(networks())
    def test_networks_have_the_properties_of_ipaddress(self, network: Network) -> None:
        same = standard(network)
        assert network.last == int(same.broadcast_address)
        assert network.packed == same.network_address.packed
        assert network.is_address == (same.num_addresses == 1)
        assert network.is_everything == (same.prefixlen == 0)
        assert network.is_loopback == same.network_address.is_loopback
        assert network.is_link_local == same.network_address.is_link_local

    @given(networks(), st.data())
    def test_networks_contain_what_those_of_ipaddress_do(self, network: Network, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, 2 ** BITS[network.family] - 1) | st.integers(network.first, network.last))
        address = ipaddress.ip_address(number.to_bytes(BITS[network.family] // 8, "big"))
        assert network.contains(number) == (address in standard(network))


class TestSets:
    @given(lists_of_one_family())
    def test_collapse_gives_what_ipaddress_does(self, several: list[Network]) -> None:
        expected = list(ipaddress.collapse_addresses(map(standard, several)))  # type: ignore[type-var]  # one family
        assert list(map(standard, collapse(several))) == expected

    @given(lists_of_one_family())
    def test_collapsing_again_changes_nothing_nor_does_order(self, several: list[Network]) -> None:
        once = collapse(several)
        assert collapse(once) == once == collapse(reversed(several))

    @given(lists_of_one_family(longest_gap=6))
    def test_merge_keeps_every_address_and_no_other(self, several: list[Network]) -> None:
        held = {number for network in several for number in range(network.first, network.last + 1)}
        ranges = network_ranges(several)
        assert {number for first, last in ranges for number in range(first, last + 1)} == held
        assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(ranges))

    @given(families, st.data())
    def test_split_gives_what_ipaddress_does(self, family: Family, data: st.DataObject) -> None:
        numbers = st.one_of(st.integers(0, 2 ** BITS[family] - 1), st.sampled_from([0, 1, 2 ** BITS[family] - 1]))
        first, last = sorted((data.draw(numbers), data.draw(numbers)))
        texts = address_text(family, first), address_text(family, last)
        expected = list(ipaddress.summarize_address_range(*map(ipaddress.ip_address, texts)))
        assert list(map(standard, networks_in_range(family, first, last))) == expected
