from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from sensweep.results import drawing
from sensweep.results.figures import (
    CurveFigure,
    FigureSpec,
    FigureSpecs,
    ScatterFigure,
    StrengthFigure,
    TrainingFigure,
    default_figures,
    draw,
    plotted,
)
from sensweep.results.selector import NoRows, Selector
from sensweep.results.series import Lines, Points, ordered
from sensweep.results.statistics import spearman

ARCHS = ("cnn", "mlp", "vit")
COLOURS = drawing.colours_of(ARCHS)
TREATMENTS = (("none", None), ("noise_augmentation", 0.1), ("noise_augmentation", 0.3))


def study_rows(
    datasets: tuple[str, ...] = ("digits",), seeds: int = 3, treatments: object = TREATMENTS
) -> pd.DataFrame:
    """Rows of three stages; every value is drawn, so that a wrong grouping cannot go unseen."""
    random = np.random.default_rng(0)
    lines: list[dict[str, object]] = []
    for dataset, arch, (intervention, strength), seed in itertools.product(
        datasets,
        ARCHS,
        treatments,
        range(seeds),  # type: ignore[call-overload]
    ):
        point = {"dataset": dataset, "arch": arch, "intervention": intervention}
        point |= {"strength": strength, "seed": seed}

        def add(stage: str, name: str, unit: str = "1", step: int | None = 3, **at: object) -> None:
            cell = f"{stage}/{dataset}/{arch}/{intervention}/{strength}"  # noqa: B023
            trial = {"stage": stage, "cell": cell, "trial_id": f"{cell}/{seed}"}  # noqa: B023
            value = {"name": name, "value": random.uniform(0.1, 0.9), "unit": unit, "step": step}
            lines.append({**point, **trial, **value, **at})  # noqa: B023

        for step in (1, 2, 3):
            add("train", "train_loss", "nats", step)
        add("train", "test_accuracy", step=None)
        for sigma, draw_ in itertools.product((0.05, 0.1), (0, 1)):
            add("sensitivity", "sensitivity", sigma=sigma, draw=draw_, split="train")
        add("robustness", "corruption_accuracy", split="test")
    return pd.DataFrame(lines)


ROWS = study_rows()


def t_interval(values: np.ndarray) -> tuple[float, float]:
    return stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))


def line(lines: Lines, **labels: object) -> pd.DataFrame:
    data = lines.data
    for column, label in labels.items():
        data = data[data[column] == label]
    return data


def curve(**changes: object) -> CurveFigure:
    y = {"name": "sensitivity", "where": {"intervention": "none"}}
    given = {"name": "f", "title": "F", "y": y, "x": "sigma", **changes}
    return CurveFigure.model_validate(given)


def test_a_curve_is_the_mean_over_seeds_of_each_seeds_mean_with_its_t_interval() -> None:
    shown = plotted(curve(), ROWS)
    assert isinstance(shown, Lines)
    assert sorted(shown.data["colour"].unique()) == list(ARCHS)
    here = ROWS.query("name == 'sensitivity' and intervention == 'none' and arch == 'vit'")
    for _, point in line(shown, colour="vit").iterrows():
        values = here[here["sigma"] == point["x"]].groupby("seed")["value"].mean().to_numpy()
        assert len(values) == point["n"] == 3
        assert point["mean"] == pytest.approx(values.mean())
        assert (point["low"], point["high"]) == pytest.approx(t_interval(values))
    assert list(line(shown, colour="vit")["x"]) == [0.05, 0.1]
    assert shown.note == (
        "Mean over 3 seeds; band: 95% t-interval. Each seed's value averages over draw."
    )


def test_a_curve_over_everything_says_what_it_averages() -> None:
    note = plotted(curve(y="sensitivity"), study_rows(("digits", "mnist5k"))).note
    assert note.endswith("averages over dataset, intervention, strength, draw.")


def test_two_columns_give_colour_and_style_and_a_third_gives_panels() -> None:
    spec = curve(y="sensitivity", by=["arch", "intervention"], split="strength")
    shown = plotted(spec, ROWS)
    assert set(shown.data["panel"]) == {"–", "0.1", "0.3"}
    assert set(line(shown, panel="–")["second"]) == {"none"}
    assert set(line(shown, panel="0.3")["second"]) == {"noise_augmentation"}


def test_axes_may_have_any_name() -> None:
    names = {"arch": "x", "intervention": "panel", "strength": "y", "sigma": "colour"}
    rows = ROWS.rename(columns=names)
    y = {"name": "sensitivity", "where": {"panel": "none"}}
    renamed = plotted(curve(y=y, x="colour", by="x"), rows)
    pd.testing.assert_frame_equal(renamed.data, plotted(curve(), ROWS).data)
    renamed = plotted(scatter(colour="x", marker="panel", split="colour"), rows)
    pd.testing.assert_frame_equal(renamed.data, plotted(scatter(split="sigma"), ROWS).data)
    assert plotted(curve(x="colour", by="colour", y=y), rows).note.endswith("over x, draw.")


def test_whole_numbers_with_gaps_are_ordered_too() -> None:
    assert ordered(pd.array([10, None, 9], dtype="Int64")) == ["9", "10"]
    assert ordered([float("nan"), 2.0, None, "b"]) == ["2", "b"]


def test_an_axis_of_names_gets_positions_and_ticks() -> None:
    shown = plotted(curve(y="test_accuracy", x="arch", by="intervention"), ROWS)
    assert isinstance(shown, Lines)
    assert shown.ticks == {"": list(ARCHS)}
    here = ROWS.query("name == 'test_accuracy' and intervention == 'none' and arch == 'mlp'")
    (mean,) = line(shown, colour="none", x=1.0)["mean"]
    assert mean == pytest.approx(here["value"].mean())


def test_labels_name_the_quantity_its_place_and_its_unit() -> None:
    spec = TrainingFigure(name="f", title="F", y=Selector(name="train_loss"))
    assert plotted(spec, ROWS).y_labels == ["train loss (nats)"]  # type: ignore[union-attr]
    y = {"name": "sensitivity", "where": {"sigma": 0.1, "arch": "vit"}}
    assert plotted(curve(y=y, x="draw"), ROWS).y_labels == ["sensitivity at sigma = 0.1"]  # type: ignore[union-attr]


def test_training_shows_every_step() -> None:
    spec = TrainingFigure(name="f", title="F", y=Selector(name="train_loss"), split="intervention")
    shown = plotted(spec, ROWS)
    assert isinstance(shown, Lines)
    vit = line(shown, colour="vit", panel="none")
    assert list(vit["x"]) == [1, 2, 3]
    here = ROWS.query(
        "name == 'train_loss' and arch == 'vit' and intervention == 'none' and step == 2"
    )
    assert vit["mean"].iloc[1] == pytest.approx(here["value"].mean())


def strength(**changes: object) -> StrengthFigure:
    quantities = ["test_accuracy", {"name": "sensitivity", "where": {"sigma": 0.1}}]
    given = {"name": "f", "title": "F", "quantities": quantities, **changes}
    return StrengthFigure.model_validate(given)


def test_strength_curves_start_at_the_baseline() -> None:
    treatments = (*TREATMENTS, ("sensitivity_penalty", 0.5))
    rows = study_rows(treatments=treatments)
    shown = plotted(strength(), rows)
    assert isinstance(shown, Lines)
    assert set(shown.data["panel"]) == {"noise_augmentation", "sensitivity_penalty"}
    cnn = line(shown, row=0, panel="noise_augmentation", colour="cnn")
    assert list(cnn["x"]) == [0.0, 0.1, 0.3]
    assert list(cnn["baseline"]) == [True, False, False]
    of = rows.query("name == 'test_accuracy' and arch == 'cnn'")
    none = of[of["intervention"] == "none"]["value"].to_numpy()
    assert cnn["mean"].iloc[0] == pytest.approx(none.mean())
    assert (cnn["low"].iloc[0], cnn["high"].iloc[0]) == pytest.approx(t_interval(none))
    assert cnn["mean"].iloc[2] == pytest.approx(of[of["strength"] == 0.3]["value"].mean())
    penalty = line(shown, row=0, panel="sensitivity_penalty", colour="cnn")
    assert penalty["mean"].iloc[0] == cnn["mean"].iloc[0]
    assert shown.y_labels == ["test accuracy", "sensitivity at sigma = 0.1"]


def test_strengths_that_are_names_follow_the_baseline() -> None:
    rows = study_rows(treatments=(("none", None), ("mixup", "weak"), ("mixup", "strong")))
    shown = plotted(strength(), rows)
    assert isinstance(shown, Lines)
    assert shown.ticks == {"mixup": ["none", "strong", "weak"]}
    assert list(line(shown, row=0, colour="vit")["x"]) == [0.0, 1.0, 2.0]


def scatter(**changes: object) -> ScatterFigure:
    given = {"name": "f", "title": "F", "x": "sensitivity", "y": "corruption_accuracy", **changes}
    return ScatterFigure.model_validate(given)


def test_a_scatter_has_a_point_per_model_and_its_rank_correlation() -> None:
    shown = plotted(scatter(split="sigma"), ROWS)
    assert isinstance(shown, Points)
    assert sorted(set(shown.data["panel"])) == ["0.05", "0.1"]
    keys = ["arch", "intervention", "strength"]
    x = ROWS.query("name == 'sensitivity' and sigma == 0.1").groupby(keys, dropna=False)
    y = ROWS.query("name == 'corruption_accuracy'").groupby(keys, dropna=False)
    expected = pd.DataFrame({"x": x["value"].mean(), "y": y["value"].mean()})
    panel = shown.data[shown.data["panel"] == "0.1"]
    assert len(panel) == len(ARCHS) * len(TREATMENTS)
    assert sorted(panel["x"]) == pytest.approx(sorted(expected["x"]))
    assert sorted(panel["y"]) == pytest.approx(sorted(expected["y"]))
    rho = stats.spearmanr(expected["x"], expected["y"]).statistic
    low, high = spearman(expected["x"], expected["y"]).interval(0.95)
    said = f"ρ = {rho:.2f} [{low:.2f}, {high:.2f}], n = 9".replace("-", "−")
    assert shown.correlations["0.1"] == said


def test_a_scatter_per_trial_pairs_seeds_and_warns() -> None:
    shown = plotted(scatter(point="trial"), ROWS)
    assert isinstance(shown, Points)
    assert len(shown.data) == 27
    here = ROWS.query("arch == 'mlp' and strength == 0.3 and seed == 2")
    point = shown.data[
        np.isclose(shown.data["y"], here.query("name == 'corruption_accuracy'")["value"].item())
    ]
    expected = here.query("name == 'sensitivity'")["value"].mean()
    assert point["x"].item() == pytest.approx(expected)
    assert "not independent" in shown.note


def test_a_seed_that_one_side_lacks_is_left_out_of_both() -> None:
    rows = ROWS[(ROWS["name"] != "corruption_accuracy") | (ROWS["seed"] != 1)]
    shown = plotted(scatter(), rows)
    assert isinstance(shown, Points)
    assert set(shown.data["n"]) == {2}


def test_few_or_equal_points_have_no_correlation() -> None:
    few = plotted(scatter(), ROWS[ROWS["strength"].isna()])
    assert few.correlations == {"": "n = 3: too few to correlate"}  # type: ignore[union-attr]
    flat = ROWS.assign(value=ROWS["value"].where(ROWS["name"] != "corruption_accuracy", 0.5))
    said = plotted(scatter(), flat).correlations  # type: ignore[union-attr]
    assert said == {"": "no correlation: one value in all, n = 9"}


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    rows = ROWS.copy()
    hit = rows.query("name == 'test_accuracy' and arch == 'vit' and seed == 0").index
    rows.loc[hit[0], "value"] = np.nan
    shown = plotted(curve(y="test_accuracy", x="strength", by="arch"), rows)
    assert isinstance(shown, Lines)
    assert "1 value that is not finite left out." not in shown.note  # the baseline has no strength
    rows.loc[hit[1], "value"] = np.inf
    shown = plotted(curve(y="test_accuracy", x="strength", by="arch"), rows)
    assert isinstance(shown, Lines)
    assert shown.note.startswith("Mean over 2 to 3 seeds")
    assert shown.note.endswith("1 value that is not finite left out.")
    assert np.isfinite(shown.data["mean"]).all()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(values: list[float], random: object) -> None:
    rows = pd.DataFrame(
        {
            "stage": "s",
            "cell": "c",
            "seed": range(len(values)),
            "name": "v",
            "value": values,
            "step": None,
            "unit": "1",
            "arch": "a",
            "sigma": 1,
        }
    )
    shuffled = rows.iloc[random.sample(range(len(rows)), len(rows))]  # type: ignore[attr-defined]
    a, b = (plotted(curve(y="v"), some) for some in (rows, shuffled))
    pd.testing.assert_frame_equal(a.data, b.data)
    assert a.data["mean"].item() == pytest.approx(np.mean(values), abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (curve(y="sensitivty"), "no rows named sensitivty; did you mean sensitivity?"),
        (curve(x="sigmma"), "have no column sigmma; did you mean sigma?"),
        (curve(y="train_loss"), "no rows of train_loss have a sigma"),
        (curve(by="arc"), "have no column arc; did you mean arch?"),
        (scatter(split="depth"), "has a column depth to split by"),
        (scatter(y={"name": "corruption_accuracy", "where": {"arch": "resnet"}}), "arch has cnn"),
        (
            scatter(
                x={"name": "sensitivity", "where": {"arch": "vit"}},
                y={"name": "corruption_accuracy", "where": {"arch": ["cnn", "vit"]}},
                split=None,
            ),
            None,
        ),
    ],
)
def test_missing_rows_are_said_in_one_line(
    spec: FigureSpec, said: str | None, tmp_path: Path
) -> None:
    if said is None:
        assert len(plotted(spec, ROWS).data) == 3
        return
    with pytest.raises(NoRows) as error:
        draw(spec, ROWS, tmp_path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_without_any_strength_there_is_no_strength_figure() -> None:
    with pytest.raises(NoRows, match="strength"):
        plotted(strength(), ROWS[ROWS["strength"].isna()])


def test_default_figures_are_those_that_the_rows_can_fill() -> None:
    def names(rows: pd.DataFrame) -> list[str]:
        return [figure.name for figure in default_figures(rows)]

    assert names(ROWS) == ["sensitivity", "sensitivity-corruption", "strength"]
    assert names(ROWS[ROWS["name"] == "train_loss"]) == []
    assert names(ROWS[ROWS["stage"] != "robustness"]) == ["sensitivity", "strength"]
    assert names(ROWS.drop(columns=["strength", "intervention"])) == [
        "sensitivity",
        "sensitivity-corruption",
    ]
    assert names(ROWS.iloc[:0]) == []
    assert names(study_rows(("a/b", "a-b")))[::3] == ["sensitivity-1", "sensitivity-2"]
    assert names(study_rows(("digits", "mnist5k"))) == [
        f"{name}-{dataset}"
        for dataset in ("digits", "mnist5k")
        for name in ("sensitivity", "sensitivity-corruption", "strength")
    ]


def test_default_figures_of_a_dataset_show_that_dataset_alone() -> None:
    rows = study_rows(("digits", "mnist5k"))
    digits = default_figures(rows)[0]
    assert isinstance(digits, CurveFigure)
    alone = plotted(digits, rows[rows["dataset"] == "digits"])
    pd.testing.assert_frame_equal(plotted(digits, rows).data, alone.data)


@pytest.mark.parametrize(
    "spec",
    [
        curve(log_x=True),
        curve(y="sensitivity", by=["arch", "intervention"], split="strength", log_y=True),
        curve(y="test_accuracy", x="arch", by="intervention"),
        TrainingFigure(name="f", title="F", y=Selector(name="train_loss")),
        scatter(split="sigma", log_x=True, log_y=True),
        scatter(point="trial"),
        strength(log_x=True),
    ],
    ids=lambda spec: spec.kind,
)
def test_every_kind_is_drawn_and_the_same_rows_give_the_same_bytes(
    spec: FigureSpec, tmp_path: Path
) -> None:
    first = draw(spec, ROWS, tmp_path / "a")
    assert first == tmp_path / "a" / "f.png"
    assert first.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    shuffled = ROWS.sample(frac=1, random_state=0)
    assert draw(spec, shuffled, tmp_path / "b").read_bytes() == first.read_bytes()


@pytest.mark.parametrize("log", [False, True])
def test_one_seed_zeros_and_gaps_are_drawn(log: bool, tmp_path: Path) -> None:
    rows = ROWS[ROWS["seed"] == 0].assign(value=0.0)
    assert plotted(curve(), rows).note.startswith("One seed: no interval.")
    assert draw(curve(log_y=log), rows, tmp_path).is_file()
    assert draw(strength(log_y=log), rows, tmp_path).is_file()
    assert draw(scatter(log_y=log), rows, tmp_path).is_file()


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    rows = ROWS.assign(value=10 ** (3 * ROWS["value"]))
    look = drawing.Look(
        title="", colours=ARCHS, seconds=[""], legend=("arch", ""), log_x=True, log_y=True
    )
    for split in (None, "draw"):
        shown = plotted(curve(split=split), rows)
        assert isinstance(shown, Lines)
        with mpl.rc_context(drawing.STYLE):
            figure = drawing.draw_lines(shown, look)
            figure.canvas.draw()
        x, y = (axis.get_ticklabels() for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis))
        assert [label.get_text() for label in x] == ["0.05", "0.1"]
        texts = [label.get_text() for label in y]
        assert len(texts) >= 2
        assert all(float(text) > 0 for text in texts)


def test_text_is_never_a_formula_and_panels_have_a_limit(tmp_path: Path) -> None:
    rows = ROWS.assign(arch=ROWS["arch"] + r" $\frac$")
    assert draw(curve(title=r"costs $\nonsense$ " * 9), rows, tmp_path).is_file()
    many = pd.concat([ROWS.assign(depth=depth) for depth in range(40)])
    with pytest.raises(ValueError, match="40 panels are more than 36"):
        draw(curve(split="depth"), many, tmp_path)


def test_an_architecture_has_one_colour_in_every_figure(tmp_path: Path) -> None:
    alone = curve(y={"name": "sensitivity", "where": {"arch": "vit"}})
    pixels = imread(draw(alone, ROWS, tmp_path))[..., :3]
    seen = {
        arch: bool(np.isclose(pixels, to_rgb(colour), atol=1e-3).all(-1).any())
        for arch, colour in COLOURS.items()
    }
    assert seen == {"cnn": False, "mlp": False, "vit": True}
    assert len(set(drawing.colours_of([*"abcdefgh"]).values())) == 8


def test_labels_that_share_a_colour_do_not_share_a_marker() -> None:
    labels = [f"arch{rank:02}" for rank in range(24)]
    colours, markers = drawing.colours_of(labels), drawing.markers_of(labels)
    assert len({(colours[label], markers[label]) for label in labels}) == 24


def test_the_axis_follows_the_means_not_an_interval_of_two_seeds() -> None:
    rows = study_rows(seeds=2)
    shown = plotted(curve(), rows)
    assert isinstance(shown, Lines)
    look = drawing.Look(title="", colours=ARCHS, seconds=[""], legend=("arch", ""))
    (ax,) = drawing.draw_lines(shown, look).axes
    bottom, top = ax.get_ylim()
    span = shown.data["mean"].max() - shown.data["mean"].min()
    assert shown.data["high"].max() > shown.data["mean"].max() + 2 * span
    assert top < shown.data["mean"].max() + 1.2 * span
    assert bottom > -0.2 * span


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "curve", "name": "f", "title": "F", "y": "accuracy"},
        {"kind": "bar", "name": "f", "title": "F"},
        {"kind": "curve", "name": "../f", "title": "F", "y": "accuracy", "x": "sigma"},
        {"kind": "curve", "name": "f", "title": "F", "y": "accuracy", "x": "sigma", "colour": "x"},
        {"kind": "strength", "name": "f", "title": "F", "quantities": []},
        {"kind": "strength", "name": "f", "title": "F", "quantities": ["a"], "split": "arch"},
    ],
)
def test_a_malformed_figure_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(FigureSpec).validate_python(given)


def test_a_study_keeps_its_figures_through_json() -> None:
    specs = [curve(), strength(), scatter(), *default_figures(ROWS)]
    again = FigureSpecs.validate_python([spec.model_dump(mode="json") for spec in specs])
    assert again == specs


def test_the_specs_are_cheap_to_import() -> None:
    code = (
        "import sys, sensweep.results.figures as figures; "
        "heavy = {'matplotlib', 'pandas', 'numpy', 'scipy', 'pyarrow'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
