"""Curves whose zero is an event of the training."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter, ValidationError

from sensweep.results import drawing
from sensweep.results.figures import CurveFigure, FigureSpec, FigureSpecs, draw, plotted
from sensweep.results.selector import NoRows
from sensweep.results.series import Lines

STEPS = (0, 20, 40, 60, 80, 100)
# The first step at which the loss is low, of each training: two never get there.
DROPS = {(0.0, 0): 20, (0.0, 1): 60, (0.0, 2): None, (0.1, 0): 40, (0.1, 1): None, (0.1, 2): 100}
LOSS = {"name": "loss", "at_most": 0.01}


def sharpness(decay: float, seed: int, sigma: float, step: int) -> float:
    """A value that tells which measurement it is."""
    return 1000 * decay + 10 * seed + 100 * sigma + step / 1000


def training_rows(drops: dict[tuple[float, int], int | None] = DROPS) -> pd.DataFrame:
    """Rows of trainings and of analyses of their checkpoints; a loss may rise again."""
    lines: list[dict[str, object]] = []
    for (decay, seed), drop in drops.items():

        def add(stage: str, name: str, value: float, **at: object) -> None:
            cell = f"{stage}/{decay}"  # noqa: B023
            trial = {"stage": stage, "cell": cell, "trial_id": f"{cell}/{seed}"}  # noqa: B023
            point = {"weight_decay": decay, "seed": seed}  # noqa: B023
            lines.append({**trial, **point, "name": name, "value": value, "unit": "1", **at})

        for step in STEPS:
            dropped = drop is not None and step >= drop
            low = 0.5 if dropped and step == 80 else 0.01 if dropped else 0.2
            add("train", "loss", low, step=step)
            for sigma in (0.01, 0.02):
                value = sharpness(decay, seed, sigma, step)
                add("analyse", "sharpness", value, step=step, sigma=sigma)
        add("train", "parameters", 7.0, step=None)
    return pd.DataFrame(lines)


ROWS = training_rows()


def figure(**changes: object) -> CurveFigure:
    y = {"name": "sharpness", "where": {"sigma": 0.02}}
    given = {"name": "f", "title": "F", "y": y, "x": "step", "by": "weight_decay", "align": LOSS}
    return CurveFigure.model_validate({**given, **changes})


def shown(spec: CurveFigure, rows: pd.DataFrame = ROWS) -> Lines:
    lines = plotted(spec, rows)
    assert isinstance(lines, Lines)
    return lines


def test_each_curve_is_shifted_by_its_own_first_step_that_meets_the_bound() -> None:
    data = shown(figure(by=["weight_decay", "seed"])).data
    for (decay, seed), drop in DROPS.items():
        line = data[(data["colour"] == f"{decay:g}") & (data["second"] == str(seed))]
        if drop is None:
            assert line.empty
            continue
        assert list(line["x"]) == [step - drop for step in STEPS]
        expected = [sharpness(decay, seed, 0.02, step) for step in STEPS]
        assert list(line["mean"]) == pytest.approx(expected)
    assert len(data) == 4 * len(STEPS)


def test_seeds_are_averaged_after_they_are_aligned() -> None:
    data = shown(figure()).data
    line = data[data["colour"] == "0"].set_index("x")
    both = [sharpness(0.0, 0, 0.02, 20), sharpness(0.0, 1, 0.02, 60)]
    assert line.loc[0, "mean"] == pytest.approx(np.mean(both))
    assert line.loc[0, "low"] < np.mean(both) < line.loc[0, "high"]
    assert list(line.index) == [-60, -40, -20, 0, 20, 40, 60, 80]
    assert list(line["n"]) == [1, 1, 2, 2, 2, 2, 1, 1]  # 0 starts 20 before, 1 ends 40 after
    assert line.loc[80, "mean"] == pytest.approx(sharpness(0.0, 0, 0.02, 100))


def test_curves_that_never_meet_the_bound_are_left_out_and_counted_in_the_figure() -> None:
    lines = shown(figure())
    missing = "left out, of 6 curves: 2 that never meet it"
    assert lines.x_label == f"steps after the first with loss at most 0.01 ({missing})"
    assert lines.note.startswith(f"Aligned at the first step with loss at most 0.01 ({missing}). ")
    assert shown(figure(x_label="steps")).x_label == f"steps ({missing})"
    look = drawing.Look("", ["0", "0.1"], [""], ("weight decay", ""))
    with mpl.rc_context(drawing.STYLE):
        (ax,) = drawing.draw_lines(lines, look).axes
    assert ax.get_xlabel() == textwrap.fill(lines.x_label, 46)

    all_meet = shown(figure(), training_rows({key: drop or 20 for key, drop in DROPS.items()}))
    assert all_meet.x_label == "steps after the first with loss at most 0.01"
    assert "which every curve meets. Mean over 1 to 3 seeds" in all_meet.note


def test_a_curve_without_the_quantity_is_not_one_that_never_meets_it() -> None:
    gone = (ROWS["name"] == "loss") & (ROWS["weight_decay"] == 0.1) & (ROWS["seed"] == 0)
    lines = shown(figure(), ROWS[~gone])
    assert "of 6 curves: 2 that never meet it, 1 without it)" in lines.x_label


def test_a_value_that_is_not_a_number_meets_no_bound() -> None:
    at = (ROWS["name"] == "loss") & (ROWS["weight_decay"] == 0.0) & (ROWS["seed"] == 0)
    rows = ROWS.copy()
    rows.loc[at & (rows["step"] < 60), "value"] = np.nan
    data = shown(figure(by=["weight_decay", "seed"]), rows).data
    line = data[(data["colour"] == "0") & (data["second"] == "0")]
    assert list(line["x"]) == [step - 60 for step in STEPS]


@pytest.mark.parametrize("kind", ["curve", "training"])
def test_both_kinds_over_steps_align_and_show_all_steps(kind: str) -> None:
    given = figure(y="loss").model_dump(exclude_unset=True, mode="json") | {"kind": kind}
    if kind == "training":
        del given["x"]
    (spec,) = FigureSpecs.validate_python([given])
    data = plotted(spec, ROWS).data
    assert list(data[data["colour"] == "0.1"]["x"]) == [*range(-100, 61, 20)]
    assert data[(data["colour"] == "0.1") & (data["x"] == 0)]["mean"].item() == 0.01


def test_a_bound_from_below_and_a_quantity_of_the_same_rows() -> None:
    """Every noise size of a curve has the shift that one of them gives it."""
    align = {"name": "sharpness", "where": {"sigma": 0.01}, "at_least": 121.06}
    lines = shown(figure(y="sharpness", align=align, by=["weight_decay", "sigma"]))
    # of seed 2 at decay 0.1: 100 + 20 + 1 + step / 1000
    assert list(lines.data["second"].unique()) == ["0.01", "0.02"]
    for _, line in lines.data.groupby("second"):
        assert list(line["x"]) == [step - 60 for step in STEPS]
        assert set(line["colour"]) == {"0.1"}
    assert "of 6 curves: 5 that never meet it" in lines.note


def test_a_coordinate_that_some_rows_lack_is_no_axis() -> None:
    """Noise of one size sigma, and noise that is given by its norm rho."""
    rows = ROWS[ROWS["sigma"] != 0.01].assign(rho=np.nan)
    by_norm = rows[rows["sigma"].notna()].assign(sigma=np.nan, rho=4.0)
    rows = pd.concat([rows, by_norm], ignore_index=True)
    align = {"name": "sharpness", "where": {"sigma": 0.02}, "at_least": 122.06}
    lines = shown(figure(y="sharpness", align=align, by=["weight_decay", "rho"]), rows)
    assert list(lines.data["second"].unique()) == ["–", "4"]
    for _, line in lines.data.groupby("second"):
        assert list(line["x"]) == [step - 60 for step in STEPS]


def test_an_axis_that_only_the_analysis_has_shares_the_shift() -> None:
    analysed = ROWS["stage"] == "analyse"
    parts = [
        ROWS[analysed].assign(draws=draws, cell=ROWS["cell"] + f"/{draws}") for draws in (5, 50)
    ]
    rows = pd.concat([ROWS[~analysed], *parts], ignore_index=True)
    lines = shown(figure(by=["weight_decay", "draws"]), rows)
    for _, line in lines.data.groupby("second"):
        plain = shown(figure()).data.drop(columns="second")
        pd.testing.assert_frame_equal(line.drop(columns="second").reset_index(drop=True), plain)
    assert "of 12 curves: 4 that never meet it" in lines.note


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    shuffled = ROWS.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(shown(figure()).data, shown(figure(), shuffled).data)
    first = draw(figure(log_y=True), ROWS, tmp_path / "a").read_bytes()
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    assert draw(figure(log_y=True), shuffled, tmp_path / "b").read_bytes() == first


@pytest.mark.parametrize(
    ("align", "said"),
    [
        ({"name": "los", "at_most": 1}, "no rows named los; did you mean loss?"),
        ({**LOSS, "stage": "analyse"}, "no rows of loss .*: stage has train"),
        ({"name": "parameters", "at_most": 9}, "no rows of parameters .* have a step"),
        (
            {"name": "loss", "at_most": 0.001},
            "^no curve ever has loss at most 0.001; the nearest value is 0.01$",
        ),
        (
            {"name": "sharpness", "at_least": 0.1},
            "^align: several values of sharpness at one step of a curve, which differ in sigma: "
            "name one by where, or by stage$",
        ),
    ],
)
def test_what_cannot_be_aligned_is_said_in_one_line(align: dict[str, object], said: str) -> None:
    with pytest.raises(NoRows, match=said) as error:
        plotted(figure(align=align), ROWS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": "sigma"}, "align shifts curves along their steps, and x is 'sigma': give x: step"),
        ({"log_x": True}, "align puts steps below 0, which a logarithmic axis lacks"),
        ({"align": "loss"}, "give at_least or at_most, and not both"),
        ({"align": {**LOSS, "at_least": 0.1}}, "give at_least or at_most, and not both"),
        ({"align": {**LOSS, "step": "last"}}, "Input should be 'all'"),
        ({"align": {**LOSS, "att_most": 1}}, "Extra inputs are not permitted"),
    ],
)
def test_a_malformed_alignment_is_refused(changes: dict[str, object], said: str) -> None:
    given = {"kind": "curve", **figure().model_dump(exclude_unset=True, mode="json"), **changes}
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(FigureSpec).validate_python(given)
