"""What happens to one of our source files in the bundle: code without what only people read, and what it imports.

A process of the plugin lives for milliseconds. Making annotations that nothing reads, and searching each of
sixty modules where it is, would be a tenth of them. Modules that are imported together are read as one, since most
names in them are the same.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType

WITH_DOCSTRINGS = ("capture.cli", "cni.commands", "injection.commands", "sidecar.commands", "initcontainer", "click")
"""Modules whose docstrings are shown by --help; elsewhere they would only be read."""


def code_of(path: Path, name: str, *, own: bool) -> CodeType:
    """Return the code of a module. Others' modules may have a use for their annotations."""
    tree = WithoutAnnotations().visit(_tree(path)) if own else _tree(path)
    shown = name.startswith(WITH_DOCSTRINGS)
    flags = __future__.annotations.compiler_flag if own else 0
    code: CodeType = compile(tree, f"<{name}>", "exec", flags=flags, dont_inherit=True, optimize=0 if shown else 2)
    return code


def _tree(path: Path) -> ast.Module:
    return ast.parse(importlib.util.decode_source(path.read_bytes()))


class WithoutAnnotations(ast.NodeTransformer):
    """Takes the annotations of functions and of a module's variables away; a class may be made from its own.

    So goes ``from __future__ import annotations``, which is an option of the compiler as well.
    """

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        """Leave other imports."""
        return None if node.module == "__future__" else node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Leave the annotations of a class, not those of its methods."""
        node.body = [each if isinstance(each, ast.AnnAssign) else self.visit(each) for each in node.body]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Remove the annotations of a function's parameters and result."""
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        """Remove the annotations of a function's parameters and result."""
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Remove the annotation of a parameter."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Leave a plain assignment."""
        if node.value is None:
            return node  # in a function it makes the variable local
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)


# --- what imports what -----------------------------------------------------------------------------


def links_between(files: Mapping[str, Path]) -> dict[str, tuple[tuple[str, ...], bool]]:
    """Return for each module which of the others it imports as it starts, its package first; and if it is a package.

    A package does not count as importing what is inside it: that needs the package first.
    """
    return {
        name: (tuple(_imported_first(name, path, files)), path.name == "__init__.py") for name, path in files.items()
    }


def grouped_modules(links: Mapping[str, tuple[tuple[str, ...], bool]], roots: Iterable[str]) -> list[list[str]]:
    """Return the modules in groups: those that the same roots need are imported together. Others stay alone."""
    needed = {root: _closure(root, links) for root in roots}
    groups: dict[object, list[str]] = {}
    for name in links:
        together = tuple([root for root, modules in needed.items() if name in modules])
        groups.setdefault(together or name, []).append(name)
    return list(groups.values())


def _closure(name: str, links: Mapping[str, tuple[tuple[str, ...], bool]]) -> set[str]:
    """Return a module and everything that is imported as it starts."""
    found, to_follow = {name}, [name]
    while to_follow:
        new = [other for other in links[to_follow.pop()][0] if other not in found]
        found.update(new)
        to_follow += new
    return found


def _imported_first(name: str, path: Path, files: Mapping[str, Path]) -> Iterable[str]:
    """Return the other modules that must be there before a module starts, each once."""
    return dict.fromkeys(other for other in _imported(name, path) if other in files and not _is_within(other, name))


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _imported(name: str, path: Path) -> Iterator[str]:
    """Yield what a module imports whenever it is imported itself, not what it imports in functions or for mypy."""
    yield from _with_parents(name)
    for statement in _tree(path).body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                yield from _with_parents(alias.name)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield from _with_parents(statement.module)
            for alias in statement.names:
                yield f"{statement.module}.{alias.name}"  # a module, or a name in one, which is no file


def _with_parents(name: str) -> Iterator[str]:
    """Yield the packages of a module from the outside in, then the module."""
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[:length])
