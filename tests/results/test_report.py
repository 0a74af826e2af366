from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sensweep.results.changes import changes
from sensweep.results.report import write_report
from sensweep.results.schema import canonical_json
from sensweep.results.store import Home
from sensweep.results.summary import mean_and_interval, stage_tables

SWEEP = "small.cpu"
HOSTILE = """<script>alert('x')</script>"'&</pre><img src=http://evil.example/x.png>{{ 7 * 7 }}"""
CLAIM = {
    "type": "difference",
    "id": "1.1",
    "statement": "ViT is less sensitive than MLP",
    "value": {"name": "sensitivity"},
    "of": {"arch": "vit"},
    "than": {"arch": "mlp"},
    "direction": "lower",
    "for_each": "sigma",
    "fragile": "eight seeds at least are needed",
}
STUDY = {
    "study": "small",
    "question": "Is the ViT less sensitive than the MLP?",
    "seeds": [0, 1, 2],
    "axes": {"arch": {"values": ["mlp", "vit"]}},
    "stages": {
        "sensitivity": {"task": "sensitivity", "needs": ["train@final"], "params": {"draws": 5}},
        "train": {"task": "train", "needs": [], "params": {"epochs": 3}},
    },
    "claims": [
        CLAIM,
        {**CLAIM, "id": "1.2", "statement": "The other way", "direction": "higher"},
        {"type": "descriptive", "id": "2", "statement": "How good", "value": "test_accuracy"},
    ],
    "figures": [],
}
PROVENANCE = {
    "started": "2026-01-02T03:04:05+00:00",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "git_dirty": True,
    "python": "3.11.9",
    "versions": {"sensweep": "0.1.0", "torch": "2.14.1", "optuna": None},
    "host": "node7",
    "cpus": 2,
    "gpus": 0,
}
Trial = dict[str, Any]


def value(arch: str, seed: int, sigma: float) -> float:
    return (1.0 if arch == "vit" else 3.0) * sigma * (1 + 0.02 * seed)


def trials(seeds: Sequence[int] = (0, 1, 2), archs: Sequence[str] = ("mlp", "vit")) -> list[Trial]:
    """A train and a sensitivity trial of each architecture and seed, with their rows."""
    made = []
    for arch, seed in itertools.product(archs, seeds):
        point = {"arch": arch, "dataset": "digits"}
        train = {"stage": "train", "point": point, "seed": seed, "parents": []}
        train["rows"] = [("train_loss", 1.0 / step, step, "nats", {}) for step in (1, 2, 3)]
        train["rows"].append(("test_accuracy", 0.9 + 0.01 * seed, None, "1", {}))
        train["id"] = hashlib.sha256(f"{arch}{seed}".encode()).hexdigest()[:24]
        need = {"stage": "train", "trial_id": train["id"], "select": "final"}
        after = {"stage": "sensitivity", "point": point, "seed": seed, "parents": [need]}
        after["rows"] = [
            ("sensitivity", value(arch, seed, sigma), 3, "1", {"sigma": sigma, "split": "train"})
            for sigma in (0.05, 0.1)
        ]
        after["id"] = hashlib.sha256(train["id"].encode()).hexdigest()[:24]
        made += [train, after]
    return made


def drive(
    home: Home,
    planned: Sequence[Trial],
    status: Mapping[str, str] | None = None,
    *,
    sweep: str = SWEEP,
    error: str = "ValueError: it broke",
    provenance: Mapping[str, Any] = PROVENANCE,
    **study: Any,
) -> None:
    """Let a driver plan the trials, and end those that the home has not done (as `status` says)."""
    ends = status or {}
    record = {
        "study": {**STUDY, "seeds": sorted({one["seed"] for one in planned}), **study},
        "profile": sweep.partition(".")[2],
        "provenance": provenance,
    }
    done = set(home.done()["trial_id"].to_pylist())
    with home.open_sweep(sweep, study=record, owner="ana") as writer:
        if planned:
            writer.commit({"trials": _planned(planned)})
        for one in planned:
            if one["id"] not in done and ends.get(one["id"]) != "pending":
                writer.commit(_ended(one, ends.get(one["id"], "done"), sweep, error))


def _planned(planned: Sequence[Trial]) -> dict[str, list[Any]]:
    texts = {"task": "m:f", "params": "{}", "code": "c", "code_files": "{}", "data": "{}"}
    return {
        "trial_id": [one["id"] for one in planned],
        "stage": [one["stage"] for one in planned],
        "point": [canonical_json(one["point"]) for one in planned],
        "seed": [one["seed"] for one in planned],
        "parents": [canonical_json(one["parents"]) for one in planned],
        "cell": [
            hashlib.sha256(canonical_json([one["stage"], one["point"]]).encode()).hexdigest()[:16]
            for one in planned
        ],
        **{name: [text] * len(planned) for name, text in texts.items()},
    }


def _ended(one: Trial, status: str, sweep: str, error: str) -> dict[str, dict[str, list[Any]]]:
    failed = status == "failed"
    attempt = {
        "trial_id": one["id"],
        "attempt": 1,
        "status": status,
        "error": error if failed else None,
        "traceback": f"Traceback\n{error}" if failed else None,
        "log": f"logs/{sweep}/{one['id']}.1.log",
        "host": "node7",
        "worker": "w1",
        "started": datetime(2026, 1, 2, tzinfo=UTC),
        "queued_s": 0.0,
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "peak_rss_bytes": 1,
        "resources": "{}",
        "artifacts": "[]",
        "rows": 0 if failed else len(one["rows"]),
    }
    tables = {"attempts": {key: [item] for key, item in attempt.items()}}
    if not failed:
        names, values, steps, units, places = map(list, zip(*one["rows"], strict=True))
        tables["measurements"] = {
            "trial_id": [one["id"]] * len(names),
            "seq": list(range(len(names))),
            "name": names,
            "value": values,
            "step": steps,
            "unit": units,
            "coordinates": [canonical_json(place) for place in places],
        }
    return tables


class Page(HTMLParser):
    """The text of a page, its tags, and whatever it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, given in attrs:
            if key in ("src", "href", "srcset", "data", "action", "poster", "background"):
                self.references.append(given or "")
            if key == "id":
                self.ids.append(given or "")

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.words.append(data)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_the_page_tells_the_question_the_verdicts_and_their_numbers(home: Home) -> None:
    drive(home, trials())
    path = write_report(home, SWEEP)
    assert path == home.path / "sweeps" / SWEEP / "report" / "index.html"
    text = Page(path).text
    assert STUDY["question"] in text
    assert "2 supported, 2 refuted, 0 inconclusive" in text
    assert "sigma = 0.05" in text
    assert "Fragile at this scale: eight seeds at least are needed" in text
    assert "descriptive" in text
    ratio = [value("vit", seed, 0.1) - value("mlp", seed, 0.1) for seed in range(3)]
    assert f"−{abs(np.mean(ratio)):.4f}"[:6] in text
    assert "What failed and what was skipped Nothing." in text


def test_claims_json_holds_what_the_page_shows(home: Home) -> None:
    drive(home, trials())
    folder = write_report(home, SWEEP).parent
    told = json.loads((folder / "claims.json").read_text())
    assert (told["sweep"], told["profile"], told["smoke"]) == (SWEEP, "cpu", False)
    assert [(claim["key"], claim["verdict"]) for claim in told["claims"]] == [
        ("1.1[sigma=0.05]", "supported"),
        ("1.1[sigma=0.1]", "supported"),
        ("1.2[sigma=0.05]", "refuted"),
        ("1.2[sigma=0.1]", "refuted"),
        ("2", None),
    ]


def test_the_page_needs_nothing_but_itself(home: Home) -> None:
    drive(home, trials())
    page = Page(write_report(home, SWEEP))
    assert "img" in page.tags
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    for reference in page.references:
        assert reference.startswith(("data:image/png;base64,", "#")), reference
        if reference.startswith("#"):
            assert reference[1:] in page.ids
    source = (home.path / "sweeps" / SWEEP / "report" / "index.html").read_text()
    assert "url(" not in source
    assert "@import" not in source


def test_hostile_text_is_shown_not_obeyed(home: Home) -> None:
    planned = trials()
    for one in planned:
        one["point"] = {**one["point"], "dataset": HOSTILE}
    claim = {**CLAIM, "statement": HOSTILE, "fragile": HOSTILE}
    figure = {"kind": "curve", "name": "f", "title": HOSTILE, "y": "sensitivity", "x": "sigma"}
    drive(
        home,
        planned,
        {planned[0]["id"]: "failed", planned[1]["id"]: "pending"},
        error=HOSTILE,
        provenance={**PROVENANCE, "host": HOSTILE, "versions": {HOSTILE: HOSTILE}},
        question=HOSTILE,
        claims=[claim],
        figures=[figure, {**figure, "name": "g", "y": "missing"}],
    )
    page = Page(write_report(home, SWEEP))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not any("evil" in reference for reference in page.references)
    # question, statement, fragile, two titles, host, version, error and traceback at least
    assert page.text.count("<script>alert('x')</script>") >= 10
    assert "49" not in page.text.split("Provenance")[1].split("Driver epochs")[0]


def test_the_same_tables_give_the_same_bytes(home: Home) -> None:
    drive(home, trials())
    folder = write_report(home, SWEEP).parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"index.html", "claims.json", "sensitivity.png"}
    write_report(home, SWEEP)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_sweep_without_results_has_a_page(home: Home) -> None:
    planned = trials()
    drive(home, planned, {one["id"]: "pending" for one in planned})
    text = Page(write_report(home, SWEEP)).text
    assert "No trial has finished yet." in text
    assert "no rows yet that a figure could show" in text
    assert "0 supported, 0 refuted, 2 inconclusive" in text


def test_a_sweep_without_trials_or_claims_has_a_page(home: Home) -> None:
    drive(home, [], claims=[])
    text = Page(write_report(home, SWEEP)).text
    assert "The study makes no claims." in text


def test_a_figure_without_rows_becomes_a_note_and_an_old_picture_goes(home: Home) -> None:
    figure = {"kind": "curve", "name": "f", "title": "F", "y": "sensitivity", "x": "sigma"}
    drive(home, trials(), figures=[figure])
    folder = write_report(home, SWEEP).parent
    assert (folder / "f.png").is_file()
    drive(home, trials(), figures=[{**figure, "y": "sensitivty"}])
    text = Page(write_report(home, SWEEP)).text
    assert "Not drawn: no rows named sensitivty; did you mean sensitivity?" in text
    assert not (folder / "f.png").exists()


def test_failed_and_skipped_trials_are_listed_with_their_reasons(home: Home) -> None:
    planned = trials()
    train, after = planned[0], planned[1]
    drive(home, planned, {train["id"]: "failed", after["id"]: "pending"}, error="OSError: disk <1>")
    text = Page(write_report(home, SWEEP)).text
    assert "1 trial failed." in text
    assert "OSError: disk <1>" in text
    assert f"logs/{SWEEP}/{train['id']}.1.log" in text
    assert "1 trial was skipped, because what it needs failed." in text
    assert f"train {train['id'][:8]}" in text
    assert "arch mlp, dataset digits" in text


def test_a_smoke_run_says_that_its_verdicts_mean_nothing(home: Home) -> None:
    drive(home, trials(), sweep="small.smoke")
    page = write_report(home, "small.smoke")
    text = Page(page).text
    assert "This is a smoke run." in text
    assert text.count("smoke run: means nothing") == 4
    assert json.loads((page.parent / "claims.json").read_text())["smoke"] is True
    drive(home, trials())
    assert "smoke" not in Page(write_report(home, SWEEP)).text.replace("small.smoke", "")


def test_seeds_added_after_looking_leave_a_trace(home: Home) -> None:
    drive(home, trials())
    assert "was changed after" not in Page(write_report(home, SWEEP)).text
    drive(home, trials((0, 1, 2, 3, 4)))
    text = Page(write_report(home, SWEEP)).text
    assert "Seeds 3, 4 were added after results of 12 trials were committed (epoch 2)." in text


def test_running_a_finished_study_again_is_no_change(home: Home) -> None:
    drive(home, trials())
    drive(home, trials())
    assert "was changed after" not in Page(write_report(home, SWEEP)).text


def test_results_of_another_sweep_are_named(home: Home) -> None:
    drive(home, trials((0, 1)), sweep="pilot.cpu")
    drive(home, trials())
    text = Page(write_report(home, SWEEP)).text
    assert "results of 8 trials were committed by pilot.cpu" in text
    assert text.count("committed by") == 1


def test_trials_that_an_edited_study_replaced_are_not_told(home: Home) -> None:
    planned = trials()
    drive(home, planned, {planned[1]["id"]: "failed"}, error="OSError: of the first version")
    for one in planned:
        if one["stage"] == "sensitivity":
            one["id"] = hashlib.sha256(one["id"].encode()).hexdigest()[:24]
    drive(home, planned)
    text = Page(write_report(home, SWEEP)).text
    assert "train6–––– sensitivity6––––" in text
    assert "of the first version" not in text


def test_provenance_names_commit_versions_machine_and_what_changed(home: Home) -> None:
    drive(home, trials((0,)))
    newer = {**PROVENANCE, "versions": {"sensweep": "0.1.0", "torch": "2.15.0", "optuna": None}}
    drive(home, trials((0,)), provenance=newer)
    text = Page(write_report(home, SWEEP)).text
    assert f"{PROVENANCE['git_commit']}, with uncommitted changes" in text
    assert "sensweep 0.1.0, torch 2.15.0" in text
    assert "node7" in text
    assert "torch: 2.14.1 → 2.15.0" in text


def study(**fields: Any) -> dict[str, Any]:
    return {**STUDY, **fields}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (study(seeds=[0, 1]), ["seed 2 was removed"]),
        (study(claims=[]), [f"claim {name} was removed" for name in ("1.1", "1.2", "2")]),
        (
            study(claims=[{**CLAIM, "direction": "higher", "figure": "f"}, *STUDY["claims"][1:]]),  # type: ignore[misc]
            ['claim 1.1: direction was changed from "lower" to "higher"'],
        ),
        (
            study(claims=[*STUDY["claims"], {**CLAIM, "id": "9"}]),  # type: ignore[misc]
            ["claim 9 was added"],
        ),
        (
            study(stages={**STUDY["stages"], "train": {"task": "train", "params": {"epochs": 9}}}),  # type: ignore[dict-item]
            [
                "stages.train.needs was changed from [] to nothing",
                "stages.train.params.epochs was changed from 3 to 9",
            ],
        ),
        (study(axes={}), ['axes.arch was changed from {"values":["mlp","vit"]} to nothing']),
        (study(question="?"), [f'question was changed from "{STUDY["question"]}" to "?"']),
        (study(figures=[{"name": "f"}], budget={"trials": 5}, profiles={"smoke": {}}), []),
    ],
)
def test_every_change_of_the_science_is_said(now: dict[str, Any], said: list[str]) -> None:
    after = " after results of 45 trials were committed (epoch 2)."
    assert changes([STUDY, now], [0, 45]) == [one + after for one in said]
    assert changes([STUDY, now], [0, 0]) == []


def test_how_a_stage_runs_is_no_change_of_the_science() -> None:
    stages = json.loads(json.dumps(STUDY["stages"]))
    stages["train"] |= {"resources": {"cpus": 2}, "timeout": 60, "retries": 1}
    assert changes([STUDY, study(stages=stages)], [0, 45]) == []


def test_a_change_that_is_taken_back_is_said_twice() -> None:
    said = changes([STUDY, study(seeds=[0]), STUDY], [0, 1, 9])
    assert said == [
        "seeds 1, 2 were removed after results of 1 trial were committed (epoch 2).",
        "seeds 1, 2 were added after results of 9 trials were committed (epoch 3).",
    ]


def table_rows() -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    lines = []
    points = {"a": {"arch": "vit", "strength": 0.1}, "b": {"arch": "vit"}}
    for cell, seed in itertools.product(points, range(3)):
        at = {"stage": "s", "cell": cell, "seed": seed, "step": 2, "unit": "1"}
        for seq, sigma in enumerate((0.05, 0.1)):
            place = canonical_json({"sigma": sigma, "split": "train"})
            lines.append({**at, "seq": seq, "name": "sensitivity", "value": sigma + 0.01 * seed})
            lines[-1]["coordinates"] = place
        for severity in range(9):
            lines.append({**at, "seq": 5 + severity, "name": "accuracy", "value": 0.5})
            lines[-1]["coordinates"] = canonical_json({"severity": severity})
        lines.append({**at, "seq": 2, "name": "loss", "value": 9.0, "step": 1, "coordinates": "{}"})
        lines.append({**at, "seq": 3, "name": "loss", "value": 1.0 + seed, "coordinates": "{}"})
        lines[-1]["unit"] = lines[-2]["unit"] = "nats"
    return pd.DataFrame(lines), points


def test_the_results_table_is_the_mean_and_half_the_interval_at_the_last_step() -> None:
    (table,) = stage_tables(*table_rows(), stages=["s", "empty"])
    assert (table.stage, table.axes, table.fixed) == ("s", ["strength"], {"arch": "vit"})
    assert table.quantities == [
        ("sensitivity", "sigma 0.05"),
        ("sensitivity", "sigma 0.1"),
        ("loss (nats)", ""),
    ]
    assert table.left_out == ["accuracy (9 combinations of severity)"]
    half = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    assert table.lines[0] == (
        [""],
        3,
        [f"0.060 ± {half:.3f}", f"0.110 ± {half:.3f}", "2.0 ± 2.5"],
    )
    assert [labels for labels, _, _ in table.lines] == [[""], ["0.1"]]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], ""),
        ([0.123456], "0.1235"),
        ([10346.0, 10346.0], "10,346"),
        ([1.0, np.nan, 2.0], "not finite in 1 of 3"),
        ([0.1, 0.1, 0.1], "0.1"),
        ([1.0, 2.0, 3.0], "2.0 ± 2.5"),
        ([1.0, 2.0, 3.0, 4.0], "2.5 ± 2.1"),
        ([1e-9, 2e-9, 3e-9], "2e-09 ± 2.5e-09"),
    ],
)
def test_numbers_are_rounded_to_what_their_interval_allows(values: list[float], said: str) -> None:
    assert mean_and_interval(np.array(values), seeds=len(values)) == said


def test_a_missing_seed_is_said() -> None:
    assert mean_and_interval(np.array([0.5]), seeds=3) == "0.5 (n = 1)"
