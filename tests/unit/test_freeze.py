"""What the builder of the bundle makes of source files: the same program, with what only people read taken out."""

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from freeze import code_of, grouped_modules, links_between

import capture

ROOT = Path(capture.__file__).parents[1]

MODULE = '''
"""What this is."""
from __future__ import annotations

LIMIT: int = 3
UNSET: int


class Value:
    """A value."""

    field: Undefined
    default: int = 4

    def of(self, other: Undefined, *more: Undefined, named: Undefined = 5, **rest: Undefined) -> Undefined:
        """Do something."""
        self.kept: Undefined = other
        local: int
        local = named + LIMIT + self.default
        return [local, *more, rest]


async def later(value: Undefined) -> Undefined:
    return (lambda number: number + value)(1)
'''


def run(source: str, tmp_path: Path, *, own: bool = True) -> dict[str, Any]:
    path = tmp_path / "module.py"
    path.write_text(source, encoding="utf-8")
    names: dict[str, Any] = {"__name__": "module"}
    exec(code_of(path, "module", own=own), names)  # noqa: S102  # code of the test itself
    return names


def test_code_does_the_same_without_annotations(tmp_path: Path) -> None:
    names = run(MODULE, tmp_path)
    value = names["Value"]()

    assert value.of(1, 2, 3, more=4) == [12, 2, 3, {"more": 4}]
    assert value.kept == 1
    assert names["LIMIT"] == 3
    with pytest.raises(StopIteration, match="8"):
        names["later"](7).send(None)


def test_annotations_stay_where_classes_are_made_of_them(tmp_path: Path) -> None:
    names = run(MODULE, tmp_path)

    assert names["Value"].__annotations__ == {"field": "Undefined", "default": "int"}
    assert names["Value"].of.__annotations__ == {}
    assert names["later"].__annotations__ == {}


def test_foreign_modules_keep_their_annotations(tmp_path: Path) -> None:
    names = run(MODULE, tmp_path, own=False)

    assert names["later"].__annotations__ == {"value": "Undefined", "return": "Undefined"}


FILES = {
    "shop/__init__.py": "import shop.till",
    "shop/till.py": """
        import os, shop.paper.roll
        from shop import prices
        if False:
            import shop.never
        def later():
            import shop.never
        """,
    "shop/prices.py": "from shop.paper.roll import WIDTH",
    "shop/paper/__init__.py": "",
    "shop/paper/roll.py": "WIDTH = 80",
    "shop/never.py": "",
}


def test_links_say_what_is_imported_first(tmp_path: Path) -> None:
    files = {}
    for name, source in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(source), encoding="utf-8")
        files[name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")] = path

    assert links_between(files) == {
        "shop": ((), True),
        "shop.till": (("shop", "shop.paper", "shop.paper.roll", "shop.prices"), False),
        "shop.prices": (("shop", "shop.paper", "shop.paper.roll"), False),
        "shop.paper": (("shop",), True),
        "shop.paper.roll": (("shop", "shop.paper"), False),
        "shop.never": (("shop",), False),
    }


def test_modules_that_the_same_roots_need_are_one_group() -> None:
    imports = {
        "plugin": ("rules", "state"),
        "removal": ("state",),
        "rules": ("model",),
        "state": (),
        "model": (),
        "doctor": ("model",),
    }
    links = {name: (imported, False) for name, imported in imports.items()}

    groups = grouped_modules(links, ["plugin", "removal"])

    assert groups == [["plugin", "rules", "model"], ["removal"], ["state"], ["doctor"]]


def test_only_packages_have_a_getattr() -> None:
    """The modules that the bundle makes of the others are looked into without one (``bundle_start.Leaf``)."""
    sources = [
        path
        for package in ("capture", "cni", "initcontainer", "injection", "sidecar")
        for path in ROOT.joinpath(package).rglob("*.py")
    ]
    with_one = [path for path in sources if "\ndef __getattr__(" in path.read_text()]
    assert {path.name for path in with_one} == {"__init__.py"}
