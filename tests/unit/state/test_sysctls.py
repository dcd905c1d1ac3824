"""The kernel's switches: their names, and which of them we may give back."""

from pathlib import Path

import pytest

from capture.state.sysctls import Sysctl, restore


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


def is_restored(path: str, net: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return whether a switch that is off is given back."""
    monkeypatch.setattr("capture.state.sysctls.DIRECTORY", str(net))
    (net / "ipv4" / "conf" / "eth0").mkdir(parents=True)
    switch = net / path
    switch.parent.mkdir(parents=True, exist_ok=True)
    switch.write_text("0")
    assert restore([Sysctl(path, "1")]) is (switch.read_text() == "1")
    return switch.read_text() == "1"


@pytest.mark.parametrize("path", ["ipv4/tcp_fwmark_accept", "ipv4/conf/eth0/src_valid_mark"])
def test_a_record_gives_back_what_we_switched_off(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_restored(path, tmp_path / "net", monkeypatch)


@pytest.mark.parametrize(
    "path",
    ["core/somaxconn", "ipv4/conf/../src_valid_mark", "ipv4/conf/all/rp_filter", "../x/ipv4/tcp_fwmark_accept",
     "ipv4/conf/a/b/src_valid_mark", "ipv4/conf/src_valid_mark"],
)  # fmt: skip
def test_a_record_gives_back_no_other_switch(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_restored(path, tmp_path / "net", monkeypatch)
