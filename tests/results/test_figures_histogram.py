"""Histograms of a quantity's values."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sensweep.results import drawing
from sensweep.results.figures import FigureSpec, FigureSpecs, HistogramFigure, draw, plotted
from sensweep.results.histogram import Bars
from sensweep.results.selector import NoRows


def completion_rows() -> pd.DataFrame:
    """Average sensitivities of learnt and random functions: by hand, on a grid of quarters."""
    values = {
        (16, "answer"): [0.0, 0.25, 0.5, 0.5, 1.0, 1.0],
        (16, "random"): [2.0, 2.25, 2.25, 2.5, 2.5, 3.0],
        (32, "answer"): [1.0, 1.5, 1.5, 1.75, 2.0, 2.25],
        (32, "random"): [2.5, 2.5, 2.75, 3.0, 3.0, 4.0],
    }
    lines = []
    for (inputs, kind), six in values.items():
        for (function, seed), value in zip(itertools.product((0, 1), (0, 1, 2)), six, strict=True):
            cell = f"sensitivity/{inputs}/{function}"
            lines.append(
                {
                    "stage": "sensitivity",
                    "cell": cell,
                    "seed": seed,
                    "unit": "1",
                    "trial_id": f"{cell}/{seed}",
                    "name": "average_sensitivity",
                    "step": 9,
                    "value": value,
                    "train_inputs": inputs,
                    "function_seed": function,
                    "kind": kind,
                }
            )
    return pd.DataFrame(lines)


ROWS = completion_rows()


def figure(**changes: object) -> HistogramFigure:
    known = {"name": "f", "title": "F", "x": "average_sensitivity", "colour": "kind"}
    return HistogramFigure.model_validate({**known, "split": "train_inputs", "bins": 4, **changes})


def shown(spec: HistogramFigure, rows: pd.DataFrame = ROWS) -> Bars:
    bars = plotted(spec, rows)
    assert isinstance(bars, Bars)
    return bars


def counts(bars: Bars, panel: str, colour: str) -> list[int]:
    data = bars.data
    return list(data[(data["panel"] == panel) & (data["colour"] == colour)]["count"])


def test_each_value_is_counted_once_in_the_bins_that_all_share() -> None:
    bars = shown(figure())
    for _, group in bars.data.groupby(["panel", "colour"]):  # over both panels: from 0 to 4
        assert list(group["low"]) == [0, 1, 2, 3]
        assert list(group["high"]) == [1, 2, 3, 4]
    assert counts(bars, "16", "answer") == [4, 2, 0, 0]  # an edge belongs to the bin above it
    assert counts(bars, "16", "random") == [0, 0, 5, 1]
    assert counts(bars, "32", "answer") == [0, 4, 2, 0]
    assert counts(bars, "32", "random") == [0, 0, 3, 3]  # and the last edge to the last bin
    assert list(bars.data["colour"].unique()) == ["answer", "random"]


def test_the_axis_says_whether_it_is_fractions_or_counts() -> None:
    fractions, numbers = shown(figure()), shown(figure(height="count"))
    assert fractions.y_label == "fraction of the values of each kind"
    assert numbers.y_label == "number of values of each kind"
    assert list(numbers.data["height"]) == list(numbers.data["count"])
    assert list(fractions.data["height"]) == pytest.approx(list(numbers.data["count"] / 6))
    sums = fractions.data.groupby(["panel", "colour"])["height"].sum()
    assert list(sums) == pytest.approx([1.0] * 4)
    assert fractions.x_label == "average sensitivity"
    assert shown(figure(y_label="share")).y_label == "share"


def test_fractions_are_of_the_values_of_the_colour_in_the_panel() -> None:
    rows = ROWS[(ROWS["kind"] == "random") | (ROWS["seed"] == 0)]
    bars = shown(figure(), rows)
    few = bars.data[(bars.data["panel"] == "32") & (bars.data["colour"] == "answer")]
    assert list(few["count"]) == [0, 2, 0, 0]
    assert list(few["fraction"]) == [0, 1, 0, 0]
    assert bars.note.startswith("2 to 6 values in each panel of each kind, one for each model and")


def test_without_a_split_all_values_are_in_one_panel() -> None:
    bars = shown(figure(split=None))
    assert counts(bars, "", "answer") == [4, 6, 2, 0]
    assert bars.note == "12 values of each kind, one for each model and seed."


def test_coordinates_and_steps_that_are_left_open_are_values_of_their_own() -> None:
    """Nothing is averaged: two draws about a value are two values."""
    draws = [ROWS.assign(draw=d, value=ROWS["value"] + 0.01 * (-1) ** d) for d in (0, 1)]
    bars = shown(figure(bins=2, split=None), pd.concat(draws, ignore_index=True))
    assert bars.data["count"].sum() == 48
    assert bars.note == "24 values of each kind, one for each model, seed and draw."
    earlier = pd.concat([ROWS.assign(step=3, value=-ROWS["value"]), ROWS], ignore_index=True)
    assert shown(figure(), earlier).data["count"].sum() == 24
    steps = shown(figure(x={"name": "average_sensitivity", "step": "all"}), earlier)
    assert steps.data["count"].sum() == 48
    assert "one for each model, seed and step." in steps.note


def test_on_a_logarithmic_axis_the_bins_have_one_ratio_and_zeros_are_counted_out() -> None:
    bars = shown(figure(log_x=True, split=None))
    edges = [*bars.data["low"].iloc[:4], bars.data["high"].iloc[3]]
    assert edges == pytest.approx([0.25, 0.5, 1, 2, 4])
    assert counts(bars, "", "answer") == [1, 2, 6, 2]
    assert counts(bars, "", "random") == [0, 0, 0, 12]
    assert bars.note.endswith("1 value that is not above 0 left out.")


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    rows = ROWS.copy()
    rows.loc[[0, 1], "value"] = [np.nan, np.inf]
    bars = shown(figure(), rows)
    assert counts(bars, "16", "answer") == [4, 0, 0, 0]  # now from 0.5 to 4
    assert bars.note.endswith("2 values that are not finite left out.")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_any_values_are_counted_as_one_by_one(values: list[float], bins: int) -> None:
    rows = pd.DataFrame(
        {
            "stage": "s",
            "cell": "c",
            "name": "v",
            "step": None,
            "unit": "1",
            "arch": "a",
            "seed": range(len(values)),
            "value": values,
        }
    )
    data = shown(figure(x="v", colour="arch", split=None, bins=bins), rows).data
    assert data["count"].sum() == len(values)
    assert data["low"].iloc[0] <= min(values)
    assert data["high"].iloc[-1] >= max(values)
    assert list(data["low"].iloc[1:]) == list(data["high"].iloc[:-1])
    for rank, (low, high, count) in enumerate(data[["low", "high", "count"]].to_numpy()):
        last = rank == bins - 1
        assert count == sum(low <= v < high or (last and v >= high) for v in values)


def test_what_is_drawn_are_the_heights() -> None:
    bars = shown(figure())
    look = drawing.Look("", ["answer", "output", "random"], [""], ("kind", ""), split="inputs")
    with mpl.rc_context(drawing.STYLE):
        drawn = drawing.draw_bars(bars, look)
    assert [ax.get_title(loc="left") for ax in drawn.axes] == ["inputs = 16", "inputs = 32"]
    assert [len(ax.patches) for ax in drawn.axes] == [4, 4]  # a fill and an outline of each
    for ax, panel in zip(drawn.axes, ("16", "32"), strict=True):
        for colour, outline in zip(("answer", "random"), ax.patches[1::2], strict=True):
            heights, edges, baseline = outline.get_data()  # type: ignore[attr-defined]
            assert list(heights) == [count / 6 for count in counts(bars, panel, colour)]
            assert (list(edges), baseline) == ([0, 1, 2, 3, 4], 0)
    assert drawn.axes[0].get_ylim()[1] >= 5 / 6


@pytest.mark.parametrize(
    "changes",
    [{}, {"height": "count", "log_y": True}, {"log_x": True, "split": None}, {"bins": 1}],
    ids=str,
)
def test_the_same_rows_give_the_same_bytes(changes: dict[str, object], tmp_path: Path) -> None:
    first = draw(figure(**changes), ROWS, tmp_path / "a").read_bytes()
    assert first.startswith(b"\x89PNG\r\n\x1a\n")
    shuffled = ROWS.sample(frac=1, random_state=0)
    assert draw(figure(**changes), shuffled, tmp_path / "b").read_bytes() == first


@pytest.mark.parametrize("value", [0.0, 3.0, -1e9])
def test_equal_values_are_in_one_bin(value: float, tmp_path: Path) -> None:
    rows = ROWS.assign(value=value)
    data = shown(figure(split=None), rows).data
    assert sorted(data["count"]) == [0] * 6 + [12] * 2
    assert draw(figure(), rows, tmp_path).is_file()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (figure(x="average_sensitivty"), "did you mean average_sensitivity?"),
        (figure(colour="kin"), "have no column kin; did you mean kind?"),
        (figure(split="train_input"), "have no column train_input; did you mean train_inputs?"),
        (
            figure(x={"name": "average_sensitivity", "where": {"function_seed": 5}}),
            "function_seed has 0, 1",
        ),
    ],
)
def test_missing_rows_are_said_in_one_line(spec: HistogramFigure, said: str) -> None:
    with pytest.raises(NoRows) as error:
        plotted(spec, ROWS)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_values_without_a_place_on_the_axis_are_said() -> None:
    said = "^no values of average_sensitivity to show. 24 values that are not above 0 left out.$"
    with pytest.raises(NoRows, match=said):
        plotted(figure(log_x=True), ROWS.assign(value=-1.0))


def test_a_histogram_is_data_in_the_study_file() -> None:
    spec = figure(height="count")
    assert FigureSpecs.validate_python([spec.model_dump(mode="json")]) == [spec]
    good = {"kind": "histogram", "name": "f", "title": "F", "x": "v"}
    assert TypeAdapter(FigureSpec).validate_python(good).columns == ("arch", "")
    for bad in ({"bins": 0}, {"height": "density"}, {"marker": "x"}, {"y": "v"}):
        with pytest.raises(ValidationError):
            TypeAdapter(FigureSpec).validate_python({**good, **bad})
