"""``capture host`` on a machine of its own: in the network namespace that the kernel began with."""

import json
import sys
from pathlib import Path

import pytest

from vm.guest import Guest
from vm.image import CHECKOUT

pytestmark = pytest.mark.timeout(300)


def test_a_machine_captures_itself_and_is_released(guest: Guest) -> None:
    guest.hide_modules()
    script, program = CHECKOUT / "tests/vm/host_traffic.py", Path(sys.executable).with_name("capture")
    done = guest.run([sys.executable, str(script), str(program)], timeout=240.0, check=True)

    assert json.loads(done.stdout) == {
        "codes": [1, 0, 0, 0, 4],  # without a proxy it is refused
        "captured": ["proxy", "sshd", "proxy", "world"],
        "released": ["application", "sshd", "world", "world"],
    }, str(done)
