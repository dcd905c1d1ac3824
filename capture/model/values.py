"""Immutable values, cheap to define.

The CNI plugin starts once per pod, so the definition of a class is on the hot path. Thirty frozen
dataclasses cost about 30 ms at import, because each generates and compiles source code; thirty
classes of this kind cost 1 ms. To a type checker they are keyword-or-positional frozen dataclasses
(PEP 681), at run time they are objects with value equality. Their fields are in slots: a rule takes a third of the
memory that it takes with a dictionary, and other rule sets have them by the ten thousand.

    class Port(Value):
        number: int
        protocol: str = "tcp"

Fields named in ``not_compared`` are carried along, but are no part of a value's identity; a subclass
takes the names over unless it has its own.
"""

from __future__ import annotations

from _operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        """Return a decorator that changes nothing: the real one is for type checkers only."""
        return lambda cls: cls


@dataclass_transform(frozen_default=True, eq_default=True)
class ValueType(type):
    """The metaclass that takes fields from annotations and remembers the defaults."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> ValueType:
        annotated: dict[str, str] = namespace.get("__annotations__", {})
        if len(bases) == 1 and not annotated and "not_compared" not in namespace:
            return super().__new__(mcls, name, bases, {"__slots__": (), **namespace})  # all as in its base
        own = tuple([field for field, kind in annotated.items() if kind[:8] != "ClassVar"])
        fields: tuple[str, ...] = ()
        defaults: dict[str, object] = {}
        not_compared: tuple[str, ...] = ()
        for base in bases:
            if isinstance(base, ValueType):
                fields += base.__match_args__
                defaults |= base._defaults  # noqa: SLF001  # its own attribute
                not_compared = base.not_compared
        fields += own
        defaults |= {field: namespace.pop(field) for field in own if field in namespace}
        not_compared = namespace.get("not_compared", not_compared)
        if unknown := [field for field in not_compared if field not in fields]:
            raise TypeError(f"{name} has no field {unknown[0]!r}, which is not_compared")
        namespace.setdefault("__slots__", own)
        namespace["__match_args__"] = fields
        namespace["_defaults"] = defaults
        namespace["_identity"] = attrgetter("__class__", *[field for field in fields if field not in not_compared])
        return super().__new__(mcls, name, bases, namespace)

    if TYPE_CHECKING:
        not_compared: tuple[str, ...]
        __match_args__: tuple[str, ...]
        _defaults: dict[str, object]
        _identity: attrgetter[Any]


set_field = object.__setattr__
"""Sets a field while a value is made; afterwards none can be set."""

STR_BY_CLASS: dict[type, Callable[[Any], str]] = {}
"""For each class what makes the text of ``str()``; ``capture.report.result_text`` fills it when one is needed."""


class Value(metaclass=ValueType):
    """Base class of all values: compared, hashed and shown by their fields, never changed."""

    not_compared: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:
        __match_args__: ClassVar[tuple[str, ...]]
        _defaults: ClassVar[dict[str, object]]
        _identity: ClassVar[attrgetter[Any]]
        """Returns what makes a value equal to another: its type and its compared fields."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        fields, values = self.__match_args__, self._defaults
        if not kwargs and len(args) == len(fields):
            for field, value in zip(fields, args):  # noqa: B905  # there are as many
                set_field(self, field, value)
            return
        unnamed = fields[len(args) :]
        if kwargs:
            values = values | kwargs
        try:
            for field, value in zip(fields, args):  # noqa: B905  # that there are as many is looked at afterwards
                set_field(self, field, value)
            for field in unnamed:
                set_field(self, field, values[field])
        except KeyError:
            raise TypeError(self._misuse(args, kwargs)) from None
        if len(args) > len(fields) or [name for name in kwargs if name not in unnamed]:
            raise TypeError(self._misuse(args, kwargs))

    def _misuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        name, fields = type(self).__name__, self.__match_args__
        if len(args) > len(fields):
            return f"{name} takes {len(fields)} values, got {len(args)}"
        unnamed = fields[len(args) :]
        for field in unnamed:
            if field not in kwargs and field not in self._defaults:
                return f"{name} needs a value for {field!r}"
        wrong = next(field for field in kwargs if field not in unnamed)
        return f"{name} {'got two values for' if wrong in fields else 'has no field'} {wrong!r}"

    def replace(self, **changes: Any) -> Self:
        """Return a copy in which the named fields have other values."""
        return type(self)(**({field: getattr(self, field) for field in self.__match_args__} | changes))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(other) is type(self) and bool(self._identity(self) == self._identity(other))

    def __hash__(self) -> int:
        return hash(self._identity(self))

    def __str__(self) -> str:
        if not STR_BY_CLASS:
            __import__("capture.report.result_text")  # it knows all results, and this module none
        words = STR_BY_CLASS.get(type(self))
        return words(self) if words else repr(self)

    def __repr__(self) -> str:
        shown = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__name__}({shown})"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __getstate__(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in self.__match_args__)

    def __setstate__(self, state: tuple[object, ...]) -> None:
        for field, value in zip(self.__match_args__, state, strict=True):
            set_field(self, field, value)
