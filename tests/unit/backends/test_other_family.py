"""The table that rejects the family without a capture is written and removed, or an error says that it is not."""

import errno
from contextlib import nullcontext

import pytest

from capture.backends import other_family
from capture.backends.nf_tables.constants import NFPROTO_INET
from capture.backends.nf_tables.listing import FoundTable
from capture.backends.nf_tables.names import REJECT_TABLE
from capture.errors import KernelError


def refuse_to_remove(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def commit(*_: object, task: str) -> None:
        raise KernelError(task, number)

    monkeypatch.setattr(other_family, "open_nfnetlink", nullcontext)
    monkeypatch.setattr(other_family, "read_tables", lambda *_: [FoundTable(NFPROTO_INET, REJECT_TABLE)])
    monkeypatch.setattr(other_family, "commit", commit)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOMEM])
def test_a_reject_table_that_stays_is_an_error(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_remove(number, monkeypatch)
    with pytest.raises(KernelError, match="delete table inet istio-proxy-reject"):
        other_family.update_reject_table(is_desired=False)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EINVAL])
def test_without_a_reject_table_there_is_nothing_to_remove(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_remove(number, monkeypatch)
    assert not other_family.update_reject_table(is_desired=False)
