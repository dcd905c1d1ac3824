"""The facts of a host: what its files show, and what they cannot show about a pod."""

from pathlib import Path

import pytest

from capture.model.addresses import parse_address
from capture.system import pod_host
from capture.system.pod_host import AnyPod, PodFromInside, PodFromOutside, choose_primary, parse_name_servers

RESOLV_CONF = """
# nameserver 192.0.2.1
; nameserver 192.0.2.2
search default.svc.cluster.local
nameserver first.example
nameserver 10.96.0.10
nameserver\tfd00::a   # trailing words do not matter
nameserver fe80::1%eth0
nameserver dns.example
nameserver
nameserver 10.96.0.10
options ndots:5
nameserverx 192.0.2.3
"""


class TestNameServers:
    def test_addresses_in_order_each_once(self) -> None:
        assert [str(server) for server in parse_name_servers(RESOLV_CONF.splitlines())] == [
            "10.96.0.10/32",
            "fd00::a/128",
            "fe80::1/128",
        ]

    @pytest.mark.parametrize(
        ("content", "servers"),
        [
            (b"", []),
            (b"nameserver 10.0.0.1", ["10.0.0.1/32"]),
            (b"nameserver 10.0.0.1\r\nnameserver ::1\r\n", ["10.0.0.1/32", "::1/128"]),
            (b"\xff\xfe\nnameserver 10.0.0.1\n", ["10.0.0.1/32"]),
            (b"nameserver 10.0.0.256\nnameserver 010.0.0.1\n", []),
        ],
    )
    def test_name_servers_are_read_from_resolv_conf(
        self, content: bytes, servers: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "resolv.conf"
        file.write_bytes(content)
        monkeypatch.setattr(pod_host, "RESOLV_CONF", str(file))
        assert [str(server) for server in PodFromInside({}).name_servers()] == servers
        assert PodFromOutside({}).name_servers() == ()

    def test_the_file_is_that_of_resolv_conf_5(self) -> None:
        assert pod_host.RESOLV_CONF == "/etc/resolv.conf"

    def test_no_file_no_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pod_host, "RESOLV_CONF", str(tmp_path / "nothing"))
        assert PodFromInside({}).name_servers() == ()


class TestUsers:
    def test_inside_they_are_looked_up(self) -> None:
        assert PodFromInside({}).user_id("root") == 0
        assert PodFromInside({}).group_id("root") == 0
        assert PodFromInside({}).user_id("no-such-name") is None
        assert PodFromInside({}).group_id("no-such-name") is None

    def test_from_outside_no_user_is_known(self) -> None:
        """Even root: the host's users are not the pod's."""
        assert PodFromOutside({}).user_id("root") is None
        assert PodFromOutside({}).group_id("root") is None

    @pytest.mark.parametrize(
        ("environ", "name"),
        [({}, "istio-proxy"), ({"ENVOY_USER": ""}, "istio-proxy"), ({"ENVOY_USER": "envoy"}, "envoy")],
    )
    def test_the_environment_names_the_user_of_the_proxy(self, environ: dict[str, str], name: str) -> None:
        assert PodFromInside(environ).default_proxy_user() == name


@pytest.mark.parametrize(
    ("found", "primary"),
    [
        ([(2, "fd77::2"), (2, "10.0.0.2")], "10.0.0.2/32"),
        ([(3, "10.0.0.3"), (2, "fd77::2")], "fd77::2/128"),
        ([(3, "fd77::3"), (3, "10.0.0.3")], "10.0.0.3/32"),
        ([(2, "fe80::2"), (2, "169.254.0.2"), (2, "127.0.0.2"), (3, "fd77::3")], "fd77::3/128"),
        ([(2, "fe80::2"), (2, "::1"), (1, "10.0.0.9")], None),
    ],
)
def test_which_address_is_primary(found: list[tuple[int, str]], primary: str | None) -> None:
    chosen = choose_primary([(interface, parse_address(address)) for interface, address in found], defaults={2})
    assert (str(chosen) if chosen else None) == primary


def test_a_kernel_that_makes_no_sockets_of_ipv6_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: int, kind: int) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr("capture.netlink.sockets._socket.socket", refuse)
    assert not PodFromInside({}).has_ipv6()
    assert AnyPod({}).has_ipv6()


def test_any_pod_has_both_families() -> None:
    assert AnyPod({}).pod_addresses() == ()
    assert AnyPod({}).has_ipv6()
    assert PodFromInside({}).has_ipv6() is Path("/proc/net/if_inet6").exists()
