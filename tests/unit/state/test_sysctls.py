"""The kernel's switches: their names, and which of them we may give back."""

import pytest

from capture.state.sysctls import Sysctl, is_known


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("ipv4/tcp_fwmark_accept", "net.ipv4.tcp_fwmark_accept"),
        ("ipv4/conf/all/src_valid_mark", "net.ipv4.conf.all.src_valid_mark"),
        ("ipv4/conf/eth0.100/src_valid_mark", "net.ipv4.conf.eth0/100.src_valid_mark"),
    ],
)
def test_names_are_those_of_sysctl(path: str, name: str) -> None:
    assert Sysctl(path, "1").name == name
    assert is_known(path)


@pytest.mark.parametrize(
    "path",
    ["", "core/somaxconn", "ipv4/conf/../src_valid_mark", "ipv4/conf/all/rp_filter", "../x/ipv4/tcp_fwmark_accept",
     "ipv4/conf/a/b/src_valid_mark", "ipv4/conf/src_valid_mark"],
)  # fmt: skip
def test_a_record_gives_back_no_other_switch(path: str) -> None:
    assert not is_known(path)
