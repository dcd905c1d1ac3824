"""Bindings that cannot be imported are an error each time, and leave no half of a module behind."""

import sys
from pathlib import Path

import pytest

from capture.backends.nftables import libnftables
from capture.errors import UnsupportedError
from capture.model.addresses import IPV4
from capture.model.ruleset import Ruleset


def test_bindings_that_fail_are_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "__init__.py"
    broken.write_text("from .nftables import Nftables\n")
    monkeypatch.delitem(sys.modules, "nftables", raising=False)
    monkeypatch.setattr(libnftables, "find_bindings", lambda: str(broken))
    monkeypatch.setattr(libnftables, "read_live", lambda _netfilter: {"istio-proxy-nat": None})
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="the Python bindings of libnftables fail: No module named"):
            libnftables.LibnftablesDriver().clean(Ruleset((IPV4,), ()), None)
    assert "nftables" not in sys.modules
