"""From sockets to entries of connection tracking: from where a connection began, and how far it is."""

from capture.netlink import conntrack, sock_diag
from capture.netlink.conntrack import Flow, TrackedConnection
from capture.netlink.sock_diag import TcpSocket
from capture.state.connections import is_captured, tracked_flows

POD, PEER = b"\x0a\0\0\x02", b"\x0a\0\0\x03"
LISTENER = TcpSocket(sock_diag.TCP_LISTEN, bytes(4), 8080, bytes(4), 0)


def socket(
    local_port: int, remote_port: int, state: int = sock_diag.TCP_ESTABLISHED, remote: bytes = PEER
) -> TcpSocket:
    return TcpSocket(state, POD, local_port, remote, remote_port)


def test_a_connection_that_a_listener_took_began_at_the_other_end() -> None:
    entries = dict(tracked_flows([LISTENER, socket(8080, 40000), socket(40001, 80)]))
    assert entries == {
        Flow(PEER, 40000, POD, 8080): conntrack.TCP_CONNTRACK_ESTABLISHED,
        Flow(POD, 40001, PEER, 80): conntrack.TCP_CONNTRACK_ESTABLISHED,
    }


def test_both_ends_of_one_connection_are_one_entry_as_far_as_the_further_one() -> None:
    half = socket(8080, 40000, sock_diag.TCP_SYN_RECV, POD)
    whole = socket(40000, 8080, remote=POD)
    assert dict(tracked_flows([LISTENER, half, whole])) == {
        Flow(POD, 40000, POD, 8080): conntrack.TCP_CONNTRACK_ESTABLISHED
    }


def test_half_open_connections_are_not_taken_for_established_ones() -> None:
    entries = dict(
        tracked_flows([LISTENER, socket(40000, 80, sock_diag.TCP_SYN_SENT), socket(8080, 5, sock_diag.TCP_SYN_RECV)])
    )
    assert list(entries.values()) == [conntrack.TCP_CONNTRACK_SYN_SENT, conntrack.TCP_CONNTRACK_SYN_RECV]


def test_listeners_and_closed_sockets_have_no_entry() -> None:
    assert list(tracked_flows([LISTENER, socket(1, 2, sock_diag.TCP_CLOSE)])) == []


def test_captured_is_what_is_redirected_to_the_proxy_or_has_its_mark() -> None:
    to_proxy = Flow(POD, 40000, PEER, 80)
    redirected = TrackedConnection(to_proxy, Flow(b"\x7f\0\0\x01", 15001, POD, 40000), conntrack.IPS_DST_NAT, 3, 0)
    ports, marks = frozenset({15001}), frozenset({1337})
    assert is_captured(redirected, ports, marks)
    assert not is_captured(redirected.replace(status=0), ports, marks)
    assert not is_captured(redirected, frozenset({15006}), marks)
    assert is_captured(TrackedConnection(to_proxy, to_proxy.reversed, 0, 3, 1337), ports, marks)
    assert not is_captured(TrackedConnection(to_proxy, to_proxy.reversed, 0, 3, 0), ports, marks)
