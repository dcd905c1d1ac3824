"""What can be wrong in one place of a module: fixed operators on its syntax tree, each a change of its text.

======== ==========================================================
compare  ``<`` and ``<=``, ``==`` and ``!=``, ``in`` and ``not in``, ``is`` and ``is not``
number   one more, one less
word     another word, another truth value
boolean  ``and`` and ``or``, ``not`` left out, the branches of ``x if y else z`` swapped
operator plus and minus, times and division, ``&`` and ``|``, ``<<`` and ``>>``
argument the first two arguments of a call swapped
removed  a call, a ``raise``, an assignment to an attribute or item left out; ``break`` and ``continue`` swapped
======== ==========================================================

Annotations, docstrings, what only a type checker reads and texts for people (they have a space in them, are what
``--help`` shows, or why there is a rule) are left alone. So are the bound of a comparison with a clock, since nothing
happens at exactly that moment, the name of an encoding, which Python reads without what is added to it, and
``zip(strict=)``.
"""

from __future__ import annotations

import ast
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip
CLOCKS = ("monotonic", "time")
LEFT_ALONE = ("help", "metavar", "show_default", "why", "strict")
ENCODINGS = ("utf-8",)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mutant:
    """A module with one change. ``function`` and the two texts find it again when lines have moved."""

    path: str
    line: int
    function: str
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names it in the list of equivalent mutants."""
        return self.path, self.function, self.before, self.after

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.function}: {self.before}  =>  {self.after}"


def mutants_of(path: str, source: str) -> list[Mutant]:
    """Return every mutant of a module, in the order of its text."""
    text = source.encode()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, function in _mutable_nodes(ast.parse(source), "module"):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        for new in _mutants(node):
            after = ast.unparse(new)
            written = f"({after})" if isinstance(new, ast.expr) else after
            found.append(
                Mutant(
                    path=path,
                    line=node.lineno,
                    function=function,
                    before=ast.unparse(node),
                    after=after,
                    source=(text[:begin] + written.encode() + text[end:]).decode(),
                )
            )
    return found


def _mutable_nodes(node: ast.AST, function: str) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield each expression and statement that may change, with the function it is in, or the constant."""
    if isinstance(node, SCOPES):
        function = node.name if function == "module" else f"{function}.{node.name}"
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if function == "module":
            function = name
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases") or _is_for_the_checker(node):
            continue
        if isinstance(node, ast.keyword) and node.arg in LEFT_ALONE:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or not isinstance(child, ast.AST) or _is_docstring(child):
                continue  # places within an f-string are wrong before Python 3.12
            if isinstance(child, ast.expr | ast.stmt):
                yield child, function
            yield from _mutable_nodes(child, function)


def _is_for_the_checker(node: ast.AST) -> bool:
    """Return whether it is ``if TYPE_CHECKING``, ``TYPE_CHECKING = False``, ``__all__``, ``Literal`` or an import."""
    names = [node.test] if isinstance(node, ast.If) else node.targets if isinstance(node, ast.Assign) else []
    is_literal = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"
    return (
        is_literal
        or isinstance(node, ast.Import | ast.ImportFrom)
        or any(isinstance(name, ast.Name) and name.id in ("TYPE_CHECKING", "__all__") for name in names)
    )


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _mutants(node: ast.expr | ast.stmt) -> Iterator[ast.expr | ast.stmt]:
    if isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _other_values(node.value))
    elif isinstance(node, ast.expr):
        yield from _expression_mutants(node)
    elif new := _statement_mutant(node):
        yield new


def _expression_mutants(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare(ops=[operator, *others]) if type(operator) in COMPARISONS and not _compares_clock(node):
            yield _copy_with(node, ops=[COMPARISONS[type(operator)](), *others])
        case ast.BoolOp(op=operator):
            yield _copy_with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.BinOp(op=operator) if type(operator) in OPERATORS:
            yield _copy_with(node, op=OPERATORS[type(operator)]())
        case ast.IfExp(body=body, orelse=orelse):
            yield _copy_with(node, body=orelse, orelse=body)
        case ast.Call(args=[first, second, *others]) if ast.dump(first) != ast.dump(second):
            if not any(isinstance(argument, ast.Starred) for argument in (first, second)) and not _commutes(node):
                yield _copy_with(node, args=[second, first, *others])


def _compares_clock(comparison: ast.Compare) -> bool:
    return any(
        isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CLOCKS
        for call in ast.walk(comparison)
    )


def _commutes(call: ast.Call) -> bool:
    """Return whether the order of arguments is without meaning; ``both`` and ``either`` are those of a diagram."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in ("min", "max", "both", "either", "state_in")


def _statement_mutant(node: ast.stmt) -> ast.stmt | None:
    match node:
        case ast.Expr(value=ast.Call() | ast.Yield()) | ast.Raise() | ast.AugAssign():
            return ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return ast.Pass()
        case ast.Break():
            return ast.Continue()
        case ast.Continue():
            return ast.Break()
        case _:
            return None


def _other_values(value: object) -> list[bool] | list[int] | list[str] | list[bytes]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1] if value else [value + 1]
        case str() if value and " " not in value and value not in ENCODINGS:
            return [f"{value}_"]
        case bytes() if value:
            return [value + b"_"]
        case _:
            return []


def _copy_with(node: ast.expr, **changes: object) -> ast.expr:
    new = copy(node)
    for name, value in changes.items():
        setattr(new, name, value)
    return new
