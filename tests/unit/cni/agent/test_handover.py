"""Of several agents on a node the newest one alone acts."""

import os
import time
from pathlib import Path

from cni.agent.handover import CLAIM_LASTS, Handover


def test_the_newest_agent_acts(tmp_path: Path) -> None:
    old = Handover(str(tmp_path / "run"), "old")
    assert old.update()
    new = Handover(str(tmp_path / "run"), "new")
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "run", tmp_path / "run" / "lock")] == [0o700, 0o600]
    assert not new.update()  # the old one has not seen the claim yet
    assert not old.update()
    assert new.update()
    assert not old.update()


def test_an_old_agent_takes_over_again_when_the_new_one_dies(tmp_path: Path) -> None:
    old, new = Handover(str(tmp_path), "old"), Handover(str(tmp_path), "new")
    assert (old.update(), new.update()) == (False, True)
    new.close()
    assert not old.update()  # a new one may be starting
    past = time.time() - CLAIM_LASTS - 1
    os.utime(tmp_path / "claim", (past, past))
    assert old.update()
    assert old.update()


def test_an_agent_that_starts_after_all_others_have_gone_acts_at_once(tmp_path: Path) -> None:
    first = Handover(str(tmp_path), "first")
    assert first.update()
    first.close()
    assert Handover(str(tmp_path), "second").update()
