"""Listeners by sock_diag: port, families, user and transparency, as the sockets were made."""

import socket

from capture.model.conventions import IPPROTO_TCP, IPPROTO_UDP
from capture.netlink.sock_diag import Listener, open_sock_diag, read_listeners
from pytest_netns import Namespace, NamespaceFactory


def listeners(namespace: Namespace, protocol: int) -> dict[int, Listener]:
    def read() -> dict[int, Listener]:
        with open_sock_diag() as diag:
            return {listener.port: listener for listener in read_listeners(diag, protocol)}

    return namespace.call(read)


def test_a_listener_is_read_as_it_was_made(netns: NamespaceFactory) -> None:
    namespace = netns()
    namespace.listener(("0.0.0.0", 15001), uid=1337)
    namespace.listener(("127.0.0.1", 15006), transparent=True)
    namespace.listener(("::1", 15021))
    both = namespace.client(uid=1000).open_socket(socket.AF_INET6, socket.SOCK_STREAM)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    both.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    both.bind(("::", 18080))
    both.listen()

    with both:
        found = listeners(namespace, IPPROTO_TCP)

    assert found[15001] == Listener(IPPROTO_TCP, socket.AF_INET, bytes(4), 15001, 1337)
    assert found[15006] == Listener(IPPROTO_TCP, socket.AF_INET, b"\x7f\0\0\1", 15006, 0, transparent=True)
    assert found[15021] == Listener(IPPROTO_TCP, socket.AF_INET6, bytes(15) + b"\1", 15021, 0)
    assert found[18080] == Listener(IPPROTO_TCP, socket.AF_INET6, bytes(16), 18080, 1000, is_dual=True, interface=1)
    assert (found[18080].takes_over(lo=True), found[18080].takes_over(lo=False)) == (True, False)
    assert found[18080].takes(socket.AF_INET)
    assert not found[15021].takes(socket.AF_INET)


def test_sockets_of_udp_are_listeners_too(netns: NamespaceFactory) -> None:
    namespace = netns()
    namespace.listener(("0.0.0.0", 15053), protocols=("udp",), uid=1337)

    assert listeners(namespace, IPPROTO_UDP)[15053].uid == 1337
    assert listeners(namespace, IPPROTO_TCP) == {}
