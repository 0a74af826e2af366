from __future__ import annotations

import pandas as pd
import pytest
from pydantic import ValidationError

from sensweep.results.selector import NoRows, Selector, canonical, nearest


def rows() -> pd.DataFrame:
    """Accuracy at steps 1..3 (seed 1 stopped at 2), and sensitivity at two noise sizes."""
    lines = []
    for seed, steps in ((0, 3), (1, 2)):
        for step in range(1, steps + 1):
            lines.append(("train", "a", seed, "accuracy", 0.1 * step, step, None, "yes"))
        for sigma in (0.1, 0.30000000000000004):
            lines.append(("sensitivity", "b", seed, "sensitivity", sigma, None, sigma, "no"))
    columns = ["stage", "cell", "seed", "name", "value", "step", "sigma", "flag"]
    return pd.DataFrame(lines, columns=columns)


def test_last_step_is_each_seeds_own() -> None:
    found = Selector(name="accuracy").select(rows())
    assert list(zip(found["seed"], found["step"], strict=True)) == [(0, 3), (1, 2)]


@pytest.mark.parametrize(("step", "values"), [("all", 5), (2, 2), (3, 1)])
def test_a_step_or_all_of_them(step: object, values: int) -> None:
    assert len(Selector(name="accuracy", step=step).select(rows())) == values


def test_values_without_a_step_pass() -> None:
    assert len(Selector(name="sensitivity").select(rows())) == 4


@pytest.mark.parametrize("wanted", [0.3, "0.3", [0.3, 7]])
def test_where_compares_numbers_as_people_write_them(wanted: object) -> None:
    found = Selector(name="sensitivity", where={"sigma": wanted}).select(rows())
    assert list(found["seed"]) == [0, 1]


def test_the_bare_name_is_a_selector() -> None:
    assert Selector.model_validate("accuracy") == Selector(name="accuracy")


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (Selector(name="acuracy"), "no rows named acuracy; did you mean accuracy?"),
        (
            Selector(name="accuracy", stage="trian"),
            "no rows of accuracy (stage trian): stage has train",
        ),
        (
            Selector(name="sensitivity", where={"sigmma": 1}),
            "no rows of sensitivity (sigmma = 1): there is no column sigmma; did you mean sigma?",
        ),
        (
            Selector(name="sensitivity", where={"sigma": 0.2}),
            "no rows of sensitivity (sigma = 0.2): sigma has 0.1, 0.3",
        ),
        (
            Selector(name="accuracy", where={"sigma": 0.1}),
            "no rows of accuracy (sigma = 0.1): it has no sigma",
        ),
        (Selector(name="accuracy", step=9), "no rows of accuracy (step 9): step has 1, 2, 3"),
    ],
)
def test_what_is_missing_is_said_in_one_line(selector: Selector, said: str) -> None:
    with pytest.raises(NoRows) as error:
        selector.select(rows())
    assert str(error.value) == said


@pytest.mark.parametrize("given", [{"name": ""}, {"nam": "x"}, {"name": "x", "step": "first"}, 3])
def test_a_malformed_selector_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        Selector.model_validate(given)


def test_equal_scalars_have_one_text() -> None:
    assert {canonical(value) for value in (1, 1.0, "1", "1.0")} == {"1"}
    assert canonical(True) == "true"
    assert canonical(0.1 + 0.2) == canonical("0.3") == "0.3"
    assert canonical(1) != canonical(True)


def test_nearest_lists_what_there_is_when_nothing_is_near() -> None:
    assert nearest("zzz", ["b", "a"]) == "; there are: a, b"
