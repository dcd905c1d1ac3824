"""``istio-init`` as a process in a namespace."""

import stat
import subprocess
import sys
from pathlib import Path

from pytest_netns import Namespace, require
from support.processes.our_programs import run_program

PROGRAMS = Path(sys.executable).parent
AS_PROXY = ["setpriv", "--reuid=1337", "--regid=1337", "--clear-groups", "--inh-caps=-all"]


def require_open_checkout() -> None:
    """Skip, or with CI fail, where other users may not enter this checkout, as under a home directory."""
    is_open = all(directory.stat().st_mode & stat.S_IXOTH for directory in (PROGRAMS, *PROGRAMS.parents))
    require(is_open, "this checkout is closed to other users")


def init(
    namespace: Namespace,
    *arguments: str,
    code: int = 0,
    env: dict[str, str] | None = None,
    before: tuple[str, ...] | list[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run istio-init and check its exit code; as another user without capabilities, if all may enter the checkout."""
    if before:
        require_open_checkout()
        done = namespace.run([*before, PROGRAMS / "istio-init", *arguments], check=False, env=env)
    else:
        done = run_program(namespace, "istio-init", *arguments, code=None, env=env)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done
