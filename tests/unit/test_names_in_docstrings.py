"""What docstrings and comments name in double backquotes exists, and so does each error: a rename includes them."""

import builtins
import io
import re
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for package in ("capture", "cni", "initcontainer", "injection", "sidecar")
    for path in (ROOT / package).rglob("*.py")
]
QUOTED = re.compile(r"``([A-Za-z_][\w.]*)(?:\(\))?``|\b([A-Z]\w*Error)\b")

OF_OTHERS = {
    *("owner_check", "nf_hook", "synchronize_rcu", "nohz_full", "inuse", "tcp_loose", "fsuid", "fsgid", "__be16"),
    *("CacheDir", "ConfFiles", "ConfListFromBytes", "LoadNetworkConf", "loadFromConfDir", "loadNetworks"),
    *("JSONDecodeError", "rich", "version_file", "LEVEL"),
}
"""Names in the kernel, in libcni, runtimes and json; a package that we lack; a part of an option's value."""


def test_every_name_in_a_docstring_exists() -> None:
    known = {*dir(builtins), *sys.stdlib_module_names, *OF_OTHERS}
    named: set[tuple[str, str]] = set()
    for path in SOURCES:
        known.update(path.relative_to(ROOT).with_suffix("").parts)
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.COMMENT or token.string.startswith('"""'):
                found = QUOTED.finditer(token.string)
                named.update((each[1] or each[2], str(path.relative_to(ROOT))) for each in found)
            elif token.type in (tokenize.NAME, tokenize.STRING):  # texts are options, keys, expressions of nf_tables
                known.update(re.findall(r"\w+", token.string))
    assert len(named) > 500
    assert {(name, path) for name, path in named if not known.issuperset(name.rstrip(".").split("."))} == set()
    assert {name for name, _ in named} >= OF_OTHERS
