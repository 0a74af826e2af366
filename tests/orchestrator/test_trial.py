"""What decides numbers decides the identity, and nothing else does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensweep.orchestrator.trial import Parent, cell, comparable, identity

BASE = {
    "task": "m:f",
    "code": "c0de",
    "params": comparable({"lr": 0.1, "arch": {"name": "mlp"}}),
    "seed": 0,
    "data": {"dataset": "d1"},
    "parents": [Parent("train", "a" * 24, "final")],
}


def test_every_part_that_decides_numbers_counts():
    changed = {
        "task": "m:g",
        "code": "c0df",
        "params": comparable({"lr": 0.2, "arch": {"name": "mlp"}}),
        "seed": 1,
        "data": {"dataset": "d2"},
        "parents": [Parent("train", "b" * 24, "final")],
    }
    ids = [identity(**BASE)] + [identity(**{**BASE, key: value}) for key, value in changed.items()]
    ids.append(identity(**{**BASE, "parents": [Parent("train", "a" * 24, "every:5")]}))
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 24 and int(i, 16) >= 0 for i in ids)


def test_the_name_of_a_single_needed_stage_does_not_count():
    renamed = {**BASE, "parents": [Parent("pretraining", "a" * 24, "final")]}
    assert identity(**renamed) == identity(**BASE)


def test_the_names_of_several_needed_stages_tell_them_apart():
    one, two = Parent("teacher", "a" * 24, "final"), Parent("student", "b" * 24, "final")
    swapped = Parent("student", "a" * 24, "final"), Parent("teacher", "b" * 24, "final")
    assert identity(**{**BASE, "parents": [one, two]}) != identity(**{**BASE, "parents": swapped})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (0.1, 0.10, True),
        (0, -0.0, True),
        ([1, {"a": 2.0}], [1.0, {"a": 2}], True),
        (True, 1, False),
        ("1", 1, False),
        (0.1, 0.1 + 1e-18, True),
        (0.3, 0.1 + 0.2, False),
        (None, "null", False),
        (2**53 + 1, float(2**53), False),
    ],
)
def test_numbers_that_are_equal_in_python_are_equal(one, other, same):
    assert (comparable(one) == comparable(other)) == same


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(plain)
def test_what_is_hashed_is_json_and_loses_nothing(value):
    assert json.loads(comparable(value)) == value


@given(st.dictionaries(st.text(), plain, min_size=2, max_size=5), st.randoms())
def test_the_order_of_keys_does_not_count(params, rng):
    keys = list(params)
    rng.shuffle(keys)
    assert comparable({key: params[key] for key in keys}) == comparable(params)


def test_a_cell_is_a_stage_and_a_point():
    one = cell("train", {"arch": "vit", "strength": 1.0})
    assert one == cell("train", {"strength": 1, "arch": "vit"})
    assert one != cell("test", {"arch": "vit", "strength": 1.0})
    assert one != cell("train", {"arch": "vit"})
    assert len(one) == 16
