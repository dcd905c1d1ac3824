"""Starts one of the programs inside the bundle and returns its exit status."""

from __future__ import annotations

import gc
import os
import sys
from _imp import get_frozen_object

from bundle_links import LINKS

gc.disable()  # all programs end within seconds, and what is imported never becomes garbage

if not hasattr(os, "setns"):  # before Python 3.12; the interpreter of the bundle brings it
    os.__dict__["setns"] = __import__("bundle_calls").setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType as Module
else:
    Module = type(sys)

IMPORTED = type(sys.__spec__)("bundle", None)
vars(IMPORTED)["_initializing"] = False  # import_ensure_initialized in Python/import.c looks for it
"""The one spec of all our modules: each import statement reads it, which would make and drop an
AttributeError without it."""


class Leaf(Module):
    """A module that is no package: an import statement that looks for its ``__path__`` meets no error.

    The look-up of modules makes one, with a message, where that of objects in general returns none (module_getattro in
    Objects/moduleobject.c): some 350 times in an ADD, a twentieth of it. Such a module has no ``__getattr__``.
    """

    __getattribute__ = object.__getattribute__


class Linker:
    """Brings what one of our modules imports before it is imported itself, without a search for each.

    ``LINKS``, from the builder, has what there is and in which order: a module comes after those that it
    imports. The requested module is left to the importer of frozen modules.
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        """Import what the module imports; find nothing."""
        if name in LINKS:
            _import_all(LINKS[name][0])


def _import_all(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in sys.modules:
            _import(name)


def _import(name: str) -> None:
    imported, is_package = LINKS[name]
    _import_all(imported)
    package, _, own_name = name.rpartition(".")
    module = Module(name) if is_package else Leaf(name)
    module.__package__ = name if is_package else package
    module.__spec__ = IMPORTED
    if is_package:
        module.__path__ = []
    sys.modules[name] = module
    try:
        exec(get_frozen_object(name), vars(module))  # noqa: S102  # the code of a module, as any importer runs it
    except BaseException:
        del sys.modules[name]
        raise
    if package:
        setattr(sys.modules[package], own_name, module)


sys.meta_path.insert(0, Linker)


def run(module: str) -> int:
    """Call the ``main`` of a module as a console script does, and flush what it printed."""
    try:
        status = __import__(module, fromlist=["main"]).main()
    except SystemExit as end:
        status = end.code
    if status is None:
        status = 0
    elif not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except OSError:
                status = status or 1
    return status
