"""A study becomes trials; what is done stays done; what is new says why."""

import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from plan_kit import FILES, FITS, LOOKS, PROBES, STUDY, reasons, recorded, study, write_files

from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.plan import make_plan
from sensweep.orchestrator.recorded import Recorded
from sensweep.orchestrator.study import Study, load_study
from sensweep.orchestrator.why import why
from sensweep.orchestrator.yaml_file import parse_yaml


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path)


def test_trials_are_the_product_and_analyses_inherit(folder):
    plan = make_plan(study(folder))
    counts = plan.counts()
    assert [(s, sum(c.values())) for s, c in counts.items()] == [
        ("fit", FITS), ("look", LOOKS), ("probe", PROBES)]  # fmt: skip
    assert len({t.trial_id for t in plan.trials}) == len(plan.trials)
    for trial, indices in zip(plan.trials, plan.parents, strict=True):
        for parent, index in zip(trial.parents, indices, strict=True):
            inherited = plan.trials[index]
            assert index < plan.trials.index(trial)
            assert (parent.stage, parent.trial_id) == ("fit", inherited.trial_id)
            assert trial.seed == inherited.seed
            assert {k: trial.point[k] for k in inherited.point} == inherited.point
        if trial.stage == "fit":
            assert trial.params == {"lr": 0.1, "steps": 5} | trial.point
            assert ("noise" in trial.point) == (trial.point["kind"] == "noisy")
        if trial.stage == "look":  # its params are its own: what is inherited is in the checkpoint
            assert trial.params == {"width": 3}
            assert trial.parents[0].select == "final"
        if trial.stage == "probe":
            assert trial.params == {"where": trial.point["where"]}
            assert trial.parents[0].select == "every:2"
    seeds_of_a_cell = {}
    for trial in plan.trials:
        seeds_of_a_cell.setdefault(trial.cell, set()).add(trial.seed)
    assert set(map(frozenset, seeds_of_a_cell.values())) == {frozenset({0, 1})}


def test_several_needs_are_joined_on_what_they_share(folder):
    stages = {
        "fit": {"task": "my_tasks:fit", "axes": ["x"]},
        "other": {"task": "my_tasks:look", "axes": ["kind", "x"]},
        "both": {"task": "probes:probe", "needs": ["fit", "other@every:2"]},
    }
    plan = make_plan(study(folder, stages=stages))
    both = [
        (t, i) for t, i in zip(plan.trials, plan.parents, strict=True) if t.stage == "both"
    ]  # fmt: skip
    assert len(both) == 2 * 2 * 2  # seeds x kinds x the one x that both have
    for trial, indices in both:
        one, other = (plan.trials[i] for i in indices)
        assert one.seed == other.seed == trial.seed
        assert one.point["x"] == other.point["x"] == trial.point["x"]
        assert [p.select for p in trial.parents] == ["final", "every:2"]


def test_what_the_study_file_looks_like_does_not_count(folder):
    plain = {t.trial_id for t in make_plan(study(folder)).trials}
    shuffled = study(
        folder,
        study="another_name",
        question="Another question?",
        axes=dict(reversed(STUDY["axes"].items())),
        stages__fit__params={"steps": 5.0, "lr": 0.10},
        stages__fit__resources={"cpus": 2},
        stages__look__timeout="1h",
        budget={"trials": 5},
    )
    assert {t.trial_id for t in make_plan(shuffled).trials} == plain
    renamed = study(folder)
    data = renamed.to_dict() | {"profiles": {}}
    data["stages"] = {
        "train" if name == "fit" else name: stage for name, stage in data["stages"].items()
    }
    data["stages"]["look"]["needs"], data["stages"]["probe"]["needs"] = (
        ["train@final"],
        ["train@every:2"],
    )
    renamed = make_plan(Study.from_dict(data, folder=folder))
    assert {t.trial_id for t in renamed.trials} == plain
    relabelled = study(folder, axes__x={"zero": 0.0, "one": 1.0})
    assert {t.trial_id for t in make_plan(relabelled).trials} == plain


def test_a_finished_study_runs_nothing(folder):
    plan = make_plan(study(folder))
    again = make_plan(study(folder), recorded(plan))
    assert again.to_run == []
    assert why(again, recorded(plan)) == []


def test_two_more_seeds_run_only_those(folder):
    known = recorded(make_plan(study(folder)))
    plan = make_plan(study(folder, seeds=4), known)
    assert {plan.trials[i].seed for i in plan.to_run} == {2, 3}
    assert len(plan.to_run) == FITS + LOOKS + PROBES
    assert reasons(plan, known) == {
        (stage, f"seed {seed} is new"): count // 2
        for stage, count in (("fit", FITS), ("look", LOOKS), ("probe", PROBES))
        for seed in (2, 3)
    }


def test_an_analysis_with_other_params_runs_alone(folder):
    known = recorded(make_plan(study(folder)))
    plan = make_plan(study(folder, stages__look__params__width=4), known)
    assert {plan.trials[i].stage for i in plan.to_run} == {"look"}
    assert reasons(plan, known) == {("look", "params.width 3 -> 4"): LOOKS}


def test_training_with_other_params_makes_its_dependants_new(folder):
    known = recorded(make_plan(study(folder)))
    plan = make_plan(study(folder, stages__fit__params__lr=0.2), known)
    because = "parent fit is new (because params.lr 0.1 -> 0.2)"
    assert reasons(plan, known) == {
        ("fit", "params.lr 0.1 -> 0.2"): FITS,
        ("look", because): LOOKS,
        ("probe", because): PROBES,
    }


def test_one_new_trial_is_named_by_its_id(folder):
    one = {"axes__x": [0.0], "axes__kind": ["plain"], "seeds": 1, "axes__noise": [0.5]}
    known = recorded(make_plan(study(folder, **one)))
    plan = make_plan(study(folder, **one, stages__fit__params__lr=0.2), known)
    looks = next(r for r in why(plan, known) if r.stage == "look")
    assert looks.text == (
        f"parent fit {plan.trials[0].trial_id[:8]} is new (because params.lr 0.1 -> 0.2)"
    )


def test_a_new_label_and_a_new_axis_are_named(folder):
    known = recorded(make_plan(study(folder)))
    plan = make_plan(study(folder, axes__x=[0.0, 1.0, 2.0]), known)
    assert set(reasons(plan, known)) == {
        ("fit", "x 2.0 is new"),
        ("look", "x 2.0 is new"),
        ("probe", "x 2.0 is new"),
    }
    data = study(folder).to_dict()
    data["axes"]["depth"] = [1, 2]
    data["stages"]["fit"]["axes"].append("depth")
    plan = make_plan(Study.from_dict(data, folder=folder), known)
    assert set(reasons(plan, known).keys()) == {
        (stage, "the axis depth is new") for stage in ("fit", "look", "probe")
    }


def test_changed_code_runs_only_what_it_computes(folder):
    known = recorded(make_plan(study(folder)))
    (folder / "probes.py").write_text(FILES["probes.py"] + "\nEXTRA = 1\n")
    plan = make_plan(study(folder), known)
    assert reasons(plan, known) == {("probe", "code: probes.py changed"): PROBES}
    (folder / "probes.py").write_text("# A comment.\n" + FILES["probes.py"])
    assert make_plan(study(folder), known).to_run == []
    (folder / "shared.py").write_text("def base(params):\n    return 2\n")
    plan = make_plan(study(folder), known)
    assert reasons(plan, known)["fit", "code: shared.py changed"] == FITS
    # The analyses' own code is the first thing to name; that their parents are new comes with it.
    assert reasons(plan, known)["probe", (
        "code: shared.py changed; parent fit is new (because code: shared.py changed)"
    )] == PROBES  # fmt: skip


def test_first_runs_unfinished_and_failed_trials_say_so(folder):
    plan = make_plan(study(folder))
    assert set(reasons(plan, Recorded())) == {
        (stage, "first run of this stage") for stage in ("fit", "look", "probe")
    }
    cut = recorded(plan, look="lost", probe="failed")
    plan = make_plan(study(folder), cut)
    assert plan.counts()["look"] == {"new": LOOKS}
    assert plan.counts()["probe"] == {"failed": PROBES}
    assert reasons(plan, cut) == {("look", "planned before, not finished"): LOOKS}
    plan = make_plan(study(folder), cut, retry_failed=True)
    assert reasons(plan, cut)["probe", "failed before, to be tried again"] == PROBES


def test_dependants_of_failed_trials_are_skipped(folder):
    plan = make_plan(study(folder))
    known = recorded(plan, fit="failed", look="lost", probe="lost")
    plan = make_plan(study(folder), known)
    assert plan.counts()["look"] == {"skipped": LOOKS}
    assert plan.to_run == []
    assert len(make_plan(study(folder), known, retry_failed=True).to_run) == len(plan.trials)


def test_a_parent_is_rebuilt_only_if_a_new_trial_needs_a_lost_checkpoint(folder):
    plan = make_plan(study(folder))
    first_fit = plan.trials[0].trial_id
    gone = {f"{first_fit}/5"}
    assert make_plan(study(folder), recorded(plan, gone=gone)).to_run == []
    known = recorded(plan, gone=gone)
    changed = make_plan(study(folder, stages__look__params__width=4), known)
    assert changed.counts()["fit"] == {"done": FITS - 1, "rebuild": 1}
    assert changed.status[0] == "rebuild"
    assert (
        reasons(changed, known)["fit", "done, but a checkpoint that new trials need is gone"] == 1
    )
    # Another of its checkpoints is gone, which the new trials do not need.
    known = recorded(plan, gone={f"{first_fit}/2"})
    assert "rebuild" not in make_plan(study(folder, stages__look__params__width=4), known).status
    changed = make_plan(study(folder, stages__probe__params={"width": 4}), known)
    assert changed.counts()["fit"] == {"done": FITS - 1, "rebuild": 1}


def test_a_selection_that_was_never_asked_for_is_rebuilt(folder):
    plan = make_plan(study(folder))
    known = recorded(plan, keep=["final"])
    changed = make_plan(study(folder, stages__probe__params={"width": 4}), known)
    assert changed.counts()["fit"] == {"rebuild": FITS}
    # One that was looked for and never reached is known to be nowhere: nothing to rebuild.
    needs = "fit@first:accuracy>=0.9"
    known = recorded(plan, keep=["first:accuracy>=0.9"])
    changed = make_plan(study(folder, stages__probe__needs=needs), known)
    assert changed.counts()["fit"] == {"done": FITS}
    assert reasons(changed, known) == {
        ("probe", "needs fit@every:2 -> fit@first:accuracy>=0.9"): PROBES
    }


def test_rebuilding_reaches_as_far_up_as_it_must(folder):
    stages = {
        "fit": {"task": "my_tasks:fit", "axes": ["x"]},
        "tune": {"task": "my_tasks:look", "needs": "fit"},
        "probe": {"task": "probes:probe", "needs": "tune"},
    }
    plan = make_plan(study(folder, stages=stages))
    gone = {f"{t.trial_id}/5" for t in plan.trials}
    stages["probe"] = stages["probe"] | {"params": {"width": 2}}
    changed = make_plan(study(folder, stages=stages), recorded(plan, gone=gone))
    assert changed.counts() == {"fit": {"rebuild": 4}, "tune": {"rebuild": 4}, "probe": {"new": 4}}


def test_the_content_of_a_dataset_counts_and_its_path_does_not(folder, tmp_path, monkeypatch):
    one, two = tmp_path / "one.parquet", tmp_path / "deep" / "two.parquet"
    two.parent.mkdir()
    one.write_bytes(b"rows")
    two.write_bytes(b"rows")
    stages = {"fit": {"task": "my_tasks:fit", "axes": ["x"], "params": {"dataset": str(one)}}}
    plan = make_plan(study(folder, stages=stages))
    stages["fit"]["params"]["dataset"] = str(two)
    moved = make_plan(study(folder, stages=stages))
    assert [t.trial_id for t in moved.trials] == [t.trial_id for t in plan.trials]
    monkeypatch.chdir(two.parent)
    stages["fit"]["params"]["dataset"] = "two.parquet"
    relative = make_plan(study(folder, stages=stages))
    assert relative.trials == moved.trials
    assert relative.trials[0].params["dataset"] == str(two)
    two.write_bytes(b"other")
    changed = make_plan(study(folder, stages=stages), recorded(plan))
    assert reasons(changed, recorded(plan)) == {("fit", "dataset content changed"): 4}


def test_a_users_architecture_is_code_that_counts(folder):
    (folder / "models.py").write_text("def tiny(width):\n    return width\n")
    arch = {"name": "models:tiny", "width": 3}
    params = {"dataset": "digits", "arch": arch, "epochs": 2}
    stages = {"fit": {"task": "train", "axes": [], "params": params}}
    plan = make_plan(study(folder, stages=stages))
    assert "models.py" in plan.code["fit"]
    known = recorded(plan)
    (folder / "models.py").write_text("def tiny(width):\n    return width + 1\n")
    changed = make_plan(study(folder, stages=stages), known)
    assert reasons(changed, known) == {("fit", "code: models.py changed"): 2}
    arch["name"] = "models:tinny"
    with pytest.raises(InputError, match=r"stages\.fit\.params\.arch: models\.py has no function"):
        make_plan(study(folder, stages=stages))


def test_writing_a_default_out_is_the_same_trial():
    def ids(**params):
        made = Study(study="s", stages={"t": {"task": "toy", "params": params}})
        return [t.trial_id for t in make_plan(made).trials]

    assert ids() == ids(noise=0.1) == ids(steps=1, x=0)
    assert ids() != ids(noise=0.2)


def test_two_places_that_compute_the_same_are_refused(folder):
    stages = {
        "fit": {"task": "my_tasks:fit", "axes": ["x"]},
        "again": {"task": "my_tasks:fit", "axes": ["x"]},
    }
    with pytest.raises(InputError, match=r"stages\.again: at x 0\.0: computes the same as fit at"):
        make_plan(study(folder, stages=stages))
    same = {"one": {"name": "mlp"}, "two": {"name": "mlp"}}
    made = Study(
        study="s",
        axes={"arch": same},
        stages={"t": {"task": "train", "params": {"dataset": "digits"}}},
    )
    with pytest.raises(InputError, match="at arch two: computes the same as t at arch one"):
        make_plan(made)


def test_random_and_listed_points_give_params(folder):
    axes = {"lr": {"log_uniform": [1e-4, 1e-2]}, "kind": ["plain", "noisy"]}
    stages = {
        "fit": {"task": "my_tasks:fit", "space": {"random": 5, "seed": 1}},
        "look": {
            "task": "my_tasks:look",
            "points": [{"kind": "plain", "lr": 0.005}, {"kind": "noisy", "lr": 0.006}],
        },
    }
    plan = make_plan(study(folder, axes=axes, stages=stages))
    assert plan.counts() == {"fit": {"new": 10}, "look": {"new": 4}}
    by_seed = [[t.params for t in plan.trials if t.stage == "fit" and t.seed == s] for s in (0, 1)]
    assert by_seed[0] == by_seed[1]
    assert all(1e-4 <= params["lr"] <= 1e-2 for params in by_seed[0])


def test_planning_ten_thousand_trials_takes_seconds():
    axes = {"x": [float(i) for i in range(10)], "y": [float(i) for i in range(10)]}
    stages = {
        "fit": {"task": "toy", "axes": ["x", "y"]},
        "look": {"task": "toy", "needs": "fit", "params": {"noise": 1.0}},
    }
    made = Study(study="s", seeds=50, axes=axes, stages=stages)
    started = time.process_time()
    plan = make_plan(made)
    first = time.process_time() - started
    assert len(plan.trials) == 10_000
    known = recorded(plan)
    more = Study(study="s", seeds=100, axes=axes, stages=stages)
    started = time.process_time()
    assert len(why(make_plan(more, known), known)) == 100
    again = time.process_time() - started
    assert first < 2
    assert again < 4


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; from sensweep.orchestrator.study import load_study; "
        "from sensweep.orchestrator.plan import make_plan; make_plan(load_study('quickstart')); "
        "heavy = 'torch timm ray mlflow optuna pyarrow duckdb pandas scipy sklearn matplotlib'; "
        "print([m for m in heavy.split() if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_examples_of_the_reference_are_planned():
    text = (Path(__file__).parents[2] / "docs" / "study.md").read_text()
    blocks = [textwrap.dedent(b) for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    smallest, axes, stages, points, dataset, profiles, figures = (
        parse_yaml(block, "docs/study.md") for block in blocks
    )
    assert len(make_plan(Study.from_dict(smallest)).trials) == 4
    whole = {"study": "reference"} | axes | stages | profiles | figures
    trained = 2 * (1 + 2 + 2)  # of one dataset and seed
    paper = make_plan(Study.from_dict(whole, "paper")).counts()
    assert paper["sensitivity"] == {"new": 5 * 2 * trained}
    whole["stages"] |= points
    assert make_plan(Study.from_dict(whole)).counts() == {
        "train": {"new": 2 * trained},
        "sensitivity": {"new": 2 * 2 * trained},
        "tune": {"new": 2},
    }
    assert set(dataset) == {"dataset"}


def test_quickstart_is_planned_in_every_profile():
    for profile, trains in (("cpu", 3 * 3 * 5), ("smoke", 2 * 1 * 3)):
        counts = make_plan(load_study("quickstart", profile)).counts()
        assert set(counts) == {"train", "sensitivity", "robustness", "calibration"}
        assert {sum(count.values()) for count in counts.values()} == {trains}
