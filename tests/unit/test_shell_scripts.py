"""Shell scripts that run in machines which no test of `make test` starts: they parse, at least."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SCRIPTS = [*sorted((CHECKOUT / "vagrant").glob("*.sh")), CHECKOUT / "tests" / "vm" / "init"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_scripts_of_machines_parse(script: Path) -> None:
    shell = shutil.which("bash" if script.suffix == ".sh" else "sh")
    assert shell
    parsed = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
    assert (parsed.returncode, parsed.stderr) == (0, "")
