"""Entries of connection tracking: what is sent for one, and what is read of one."""

import ipaddress

import pytest

from capture.netlink import conntrack
from capture.netlink.conntrack import Flow

V4 = Flow(ipaddress.ip_address("10.0.0.1").packed, 40000, ipaddress.ip_address("10.0.0.2").packed, 80)
V6 = Flow(ipaddress.ip_address("fd00::1").packed, 40000, ipaddress.ip_address("fd00::2").packed, 80)


@pytest.mark.parametrize(("flow", "family"), [(V4, 2), (V6, 10)])
def test_an_entry_is_read_as_it_was_written(flow: Flow, family: int) -> None:
    body = conntrack.encode_entry(flow, conntrack.TCP_CONNTRACK_ESTABLISHED)
    assert body[0] == family
    entry = conntrack.decode_entry(body)
    assert entry is not None
    assert (entry.original, entry.reply) == (flow, flow.reversed)
    assert entry.state == conntrack.TCP_CONNTRACK_ESTABLISHED
    assert entry.status == conntrack.IPS_CONFIRMED | conntrack.IPS_SEEN_REPLY | conntrack.IPS_ASSURED


def test_of_other_protocols_there_is_no_entry() -> None:
    udp = conntrack.encode_entry(V4, conntrack.TCP_CONNTRACK_ESTABLISHED).replace(b"\5\0\1\0\6", b"\5\0\1\0\x11")
    assert conntrack.decode_entry(udp) is None


def test_the_way_back_of_the_way_back_is_the_way() -> None:
    assert V4.reversed.reversed == V4
