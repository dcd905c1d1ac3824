"""Values: what a dataclass gives, without its price at import."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

from capture.model.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

ROOT = Path(__file__).parents[3]
PACKAGES = ("capture", "cni", "initcontainer", "injection", "sidecar")


class Point(Value):
    x: int
    y: int = 0


class Note(Value):
    not_compared: ClassVar[tuple[str, ...]] = ("why",)

    text: str
    why: str = ""


class Reminder(Note):
    hour: int = 12


class Loud(Note):
    not_compared = ()


class Nothing(Value):
    pass


class TestMaking:
    def test_fields_are_given_by_position_by_name_or_by_default(self) -> None:
        assert (Point(1, 2).x, Point(1, y=2).y, Point(x=1).y) == (1, 2, 0)

    def test_fields_of_the_base_come_first(self) -> None:
        reminder = Reminder("tea", "thirst", 16)
        assert (reminder.text, reminder.why, reminder.hour) == ("tea", "thirst", 16)
        assert Reminder("tea").hour == 12

    @pytest.mark.parametrize(
        ("arguments", "named", "message"),
        [
            ((), {}, "Point needs a value for 'x'"),
            ((1, 2, 3), {}, "Point takes 2 values, got 3"),
            ((1,), {"z": 3}, "Point has no field 'z'"),
            ((1,), {"x": 1}, "Point got two values for 'x'"),
        ],
    )
    def test_values_that_do_not_fit_are_refused(
        self, arguments: tuple[int, ...], named: dict[str, int], message: str
    ) -> None:
        with pytest.raises(TypeError, match=message):
            Point(*arguments, **named)

    def test_replace_makes_another_value(self) -> None:
        point = Point(1, 2)
        assert point.replace(y=3) == Point(1, 3)
        assert point == Point(1, 2)
        with pytest.raises(TypeError, match="no field 'z'"):
            point.replace(z=3)

    def test_each_field_that_is_replaced_exists(self) -> None:
        """Type checkers do not see the names that ``replace`` takes."""
        paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
        nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
        fields = {ast.unparse(node.target) for node in nodes if isinstance(node, ast.AnnAssign)}
        calls = [(node.func, node.keywords) for node in nodes if isinstance(node, ast.Call)]
        of_replace = [each for each in calls if isinstance(each[0], ast.Attribute) and each[0].attr == "replace"]
        of_values = [names for call, names in of_replace if ast.unparse(call) != "atomic_files.replace"]
        replaced = [name.arg for names in of_values for name in names if name.arg]

        assert len(replaced) > 200
        assert set(replaced) - fields == set()

    def test_a_field_that_is_not_compared_exists(self) -> None:
        with pytest.raises(TypeError, match="Bad has no field 'y', which is not_compared"):
            type("Bad", (Value,), {"__annotations__": {"x": "int"}, "not_compared": ("y",)})

    def test_replace_keeps_what_is_not_compared(self) -> None:
        assert Note("a", "because").replace(text="b").why == "because"


class TestEquality:
    def test_equal_values_are_equal_and_hash_alike(self) -> None:
        assert Point(1, 2) == Point(1, 2)
        assert hash(Point(1, 2)) == hash(Point(1, 2))
        assert Point(1, 2) != Point(2, 1)
        assert len({Point(1), Point(1), Point(2)}) == 2

    def test_another_type_is_never_equal(self) -> None:
        class Vector(Value):
            x: int
            y: int = 0

        assert Point(1, 2) != Vector(1, 2)
        assert Point(1, 2) != (1, 2)

    def test_some_fields_do_not_count(self) -> None:
        assert Note("a", "because") == Note("a", "why not")
        assert hash(Note("a", "because")) == hash(Note("a", "why not"))

    def test_a_subclass_takes_that_over_unless_it_says_otherwise(self) -> None:
        assert Reminder("a", "because", 3) == Reminder("a", "why not", 3)
        assert Reminder("a", "", 3) != Reminder("a", "", 4)
        assert Loud("a", "because") != Loud("a", "why not")

    def test_a_value_without_fields(self) -> None:
        assert Nothing() == Nothing()
        assert repr(Nothing()) == "Nothing()"


class TestImmutability:
    def test_fields_cannot_be_set_added_or_deleted(self) -> None:
        point = Point(1, 2)
        with pytest.raises(AttributeError, match=r"Point is immutable; use replace\(x=\.\.\.\)"):
            point.x = 5  # type: ignore[misc]  # what is tested: mypy knows it as well
        with pytest.raises(AttributeError, match="immutable"):
            point.z = 5
        with pytest.raises(AttributeError, match="immutable"):
            del point.x


class TestElsewhere:
    @pytest.mark.parametrize("value", [Point(1, 2), Note("a", "because"), Reminder("b", hour=3), Nothing()])
    def test_values_can_be_pickled_and_copied(self, value: Value) -> None:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 - our own bytes
            assert repr(again) == repr(value)
        assert repr(copy.copy(value)) == repr(copy.deepcopy(value)) == repr(value)

    def test_shown_as_it_is_written(self) -> None:
        assert repr(Reminder("tea", hour=4)) == "Reminder(text='tea', why='', hour=4)"

    def test_taken_apart_by_match(self) -> None:
        match Point(1, 2):
            case Point(x, 2):
                assert x == 1
            case _:
                pytest.fail("no match")

    def test_class_variables_are_no_fields(self) -> None:
        class Unit(Value):
            symbol: ClassVar[str] = "m"
            length: int

        assert repr(Unit(3)) == "Unit(length=3)"
