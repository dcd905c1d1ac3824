"""Starts one of the programs inside the bundle and returns its exit status."""

from __future__ import annotations

import gc
import os
import sys
from _frozen_importlib_external import ExtensionFileLoader
from _imp import get_frozen_object

from bundle_tables import EXTENSIONS, GROUPS

gc.disable()  # all programs end within seconds, and what is imported never becomes garbage

if not hasattr(os, "setns"):  # before Python 3.12; the interpreter of the bundle brings it
    os.__dict__["setns"] = __import__("bundle_calls").setns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec as Spec
    from types import CodeType
    from types import ModuleType as Module
else:
    Loader, Module, Spec = object, type(sys), type(sys.__spec__)

MODULES: dict[str, tuple[tuple[str, ...], bool, CodeType]] = {}
"""Of each module that is read and not yet imported: what it imports, whether it is a package, and its code."""

IMPORTED = Spec("bundle", None)
vars(IMPORTED)["_initializing"] = False  # import_ensure_initialized in Python/import.c looks for it
"""The one spec of all our modules: each import statement reads it, which would make and drop an
AttributeError without it."""


class Leaf(Module):
    """A module that is no package: an import statement that looks for its ``__path__`` meets no error.

    The look-up of modules makes one, with a message, where that of objects in general returns none (module_getattro in
    Objects/moduleobject.c): some 350 times in an ADD, a twentieth of it. Such a module has no ``__getattr__``.
    """

    __getattribute__ = object.__getattribute__


class Linker(Loader):
    """Imports our modules: what one of them needs comes before it, without a search for each.

    ``GROUPS``, from the builder, names the group in which a module is read. Extension modules of Python are found
    without a look at their directory.
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> Spec | None:
        """Import a module of our own with what it imports; say where an extension is; find no others."""
        if name in GROUPS:
            _import_all((name,))
            spec = sys.modules[name].__spec__ = Spec(name, LINKER)
            return spec
        if name in EXTENSIONS:
            path = f"{sys.path[0]}/{EXTENSIONS[name]}"
            return Spec(name, ExtensionFileLoader(name, path), origin=path)
        return None

    @staticmethod
    def create_module(spec: Spec) -> Module:
        """Return the module, which is imported already."""
        return sys.modules[spec.name]

    @staticmethod
    def exec_module(_module: Module) -> None:
        """Nothing is left to do."""


def _import_all(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in sys.modules:
            _import(name)


def _import(name: str) -> None:
    if name not in MODULES:
        _read(GROUPS[name])
    imported, is_package, code = MODULES.pop(name)
    _import_all(imported)
    package, _, own_name = name.rpartition(".")
    module = Module(name) if is_package else Leaf(name)
    module.__package__ = name if is_package else package
    module.__spec__ = IMPORTED
    if is_package:
        module.__path__ = []
    sys.modules[name] = module
    try:
        exec(code, vars(module))  # noqa: S102  # the code of a module, as any importer runs it
    except BaseException:
        del sys.modules[name]
        raise
    if package:
        setattr(sys.modules[package], own_name, module)


def _read(group: str) -> None:
    for name, imported, is_package, code in get_frozen_object(group).co_consts:
        MODULES[name] = imported, is_package, code


LINKER = Linker()
sys.meta_path.insert(0, LINKER)


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
