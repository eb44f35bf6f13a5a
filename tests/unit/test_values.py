"""Values that are made for every call: slots, equality and hashes as those of frozen dataclasses."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from paycenter_server.domain.events import Actor, ActorKind
from paycenter_server.domain.values import value


@value
class Point:
    x: int
    name: str = ""


def test_equal_values_have_equal_hashes() -> None:
    assert Point(1) == Point(1, "")
    assert Point(1) != Point(2)
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_a_value_has_its_fields_and_no_others() -> None:
    assert [field.name for field in fields(Point)] == ["x", "name"]
    with pytest.raises(AttributeError):
        Point(1).other = 2  # type: ignore[attr-defined]


def test_a_value_is_replaced_and_not_changed() -> None:
    before = Actor(ActorKind.JOB, "sync")
    assert replace(before, name="expire") == Actor(ActorKind.JOB, "expire")
    assert before.name == "sync"
