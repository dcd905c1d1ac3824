"""Sockets as sock_diag lists them."""

import ipaddress

import pytest

from capture.netlink import sock_diag
from capture.netlink.attributes import u32


def listed(family: int, source: str, destination: str) -> bytes:
    """Return a struct inet_diag_msg."""
    addresses = b"".join(ipaddress.ip_address(one).packed.ljust(16, b"\0") for one in (source, destination))
    return bytes((family, sock_diag.TCP_ESTABLISHED, 0, 0)) + b"\x1f\x90\x9c\x40" + addresses + bytes(32)


@pytest.mark.parametrize(
    ("family", "local", "remote", "size"),
    [(2, "10.0.0.1", "10.0.0.2", 4), (10, "fd00::1", "fd00::2", 16), (10, "::ffff:10.0.0.1", "::ffff:10.0.0.2", 4)],
)
def test_a_connection_of_ipv4_has_addresses_of_ipv4_on_any_socket(
    family: int, local: str, remote: str, size: int
) -> None:
    socket = sock_diag.decode_socket(listed(family, local, remote))
    assert (socket.state, socket.local_port, socket.remote_port) == (sock_diag.TCP_ESTABLISHED, 8080, 40000)
    assert socket.local == ipaddress.ip_address(local).packed[-size:]
    assert socket.remote == ipaddress.ip_address(remote).packed[-size:]


@pytest.mark.parametrize(("protocol", "queues"), [(6, (5, 4)), (17, (0, 0))])
def test_bytes_that_udp_has_not_read_are_no_connections(protocol: int, queues: tuple[int, int]) -> None:
    body = listed(2, "127.0.0.1", "0.0.0.0")
    listener = sock_diag.decode_listener(body[:56] + u32(5) + u32(4) + u32(1337) + u32(0), protocol)
    assert (listener.waiting, listener.backlog) == queues
    assert listener.uid == 1337
    assert listener.is_full == (protocol == 6)
