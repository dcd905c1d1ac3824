"""Filters of an interface that cannot be listed are not taken for none."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, cast

import pytest

from capture.errors import CaptureError, KernelError, UnsupportedError
from capture.netlink.traffic_control import read_redirects

if TYPE_CHECKING:
    from capture.netlink.sockets import NetlinkSocket


def redirects_where_listing_raises(error: CaptureError) -> list[int]:
    class Refusing:
        def dump(self, *_: object) -> list[bytes]:
            raise error

    return read_redirects(cast("NetlinkSocket", Refusing()), 2)


def test_a_kernel_without_filters_has_none() -> None:
    assert redirects_where_listing_raises(UnsupportedError("this kernel has no filters")) == []


def test_filters_that_keep_changing_are_an_error() -> None:
    with pytest.raises(KernelError):
        redirects_where_listing_raises(KernelError("list the filters", errno.EINTR))
