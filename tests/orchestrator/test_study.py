"""A study file becomes a Study, or one clear line; YAML is read safely."""

import copy
import json
import pickle
import time

import pytest
import yaml

from sensweep.orchestrator.errors import InputError, nearest, suggest
from sensweep.orchestrator.needs import Need, Select
from sensweep.orchestrator.study import Study, load_study, shipped_studies
from sensweep.orchestrator.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from sensweep.orchestrator.yaml_file import parse_yaml

FULL = {
    "study": "tour",
    "question": "Does it hold?",
    "seeds": 3,
    "axes": {
        "x": [0.0, 1.0],
        "size": {"small": 1, "large": {"depth": 9}},
        "noise": {"when": {"x": 1.0}, "values": {"log_uniform": [0.1, 1.0]}},
    },
    "stages": {
        "first": {
            "task": "toy",
            "axes": ["x", "noise"],
            "space": {"random": 4},
            "params": {"steps": 2},
            "resources": {"cpus": 2, "gpus": 0.5, "memory": "1.5 GB"},
            "timeout": "1h 30m",
            "retries": 2,
        },
        "second": {"task": "toy", "needs": "first@every:5"},
        "third": {"task": "toy", "needs": ["first@first:value>=-0.5", "second"]},
        "fourth": {"task": "toy", "points": [{"x": 1.0, "noise": 0.2}]},
    },
    "budget": {"wall_time": "30m", "trials": 500},
    "checkpoints": {"quota": "2 GB"},
    "profiles": {"paper": {"seeds": [5, 6], "stages": {"first": {"params": {"steps": 9}}}}},
}


def full():
    return copy.deepcopy(FULL)


def write(tmp_path, text, name="mine.yaml"):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return path


def test_every_key_is_read(tmp_path):
    study = load_study(write(tmp_path, FULL))
    first = study.stages["first"]
    assert study.seeds == (0, 1, 2)
    assert study.sweep == "tour.cpu"
    assert (first.resources.cpus, first.resources.gpus) == (2, 0.5)
    assert first.resources.memory == 1_500_000_000
    assert first.timeout == 5400
    assert study.budget.wall_time == 1800
    assert study.checkpoints.quota == 2_000_000_000
    assert study.stages["second"].needs == (Need("first", Select("every", period=5)),)
    assert [str(n) for n in study.stages["third"].needs] == [
        "first@first:value>=-0.5",
        "second@final",
    ]
    assert study.keeps("first") == ("every:5", "first:value>=-0.5")
    assert study.keeps("third") == ()
    assert set(study.own_axes("fourth")) == {"x", "noise"}
    assert study.own_axes("second") == ()
    assert study.folders[0] == tmp_path


def test_a_stage_that_needs_nothing_has_all_axes():
    study = Study(study="s", axes={"x": [1], "y": [2]}, stages={"a": {"task": "toy"}})
    assert study.own_axes("a") == ("x", "y")


def test_python_and_yaml_are_one_front_end(tmp_path):
    written = Study(**full()).to_dict()
    assert written == load_study(write(tmp_path, FULL)).to_dict()
    assert written == Study.from_dict(full()).to_dict()


def test_stages_are_ordered_by_their_needs():
    stages = {
        "c": {"task": "toy", "needs": "b"},
        "z": {"task": "toy"},
        "b": {"task": "toy", "needs": ["a", "z"]},
        "a": {"task": "toy"},
    }
    assert Study(study="s", stages=stages).order() == ["z", "a", "b", "c"]


def test_the_shipped_studies_are_restored_with_their_claims_and_figures():
    for name in shipped_studies():
        study = load_study(name)
        again = Study.restore(json.loads(json.dumps(study.to_dict())))
        assert again.claims == study.claims
        assert again.figures == study.figures


@pytest.mark.parametrize("profile", ["cpu", "paper"])
def test_a_stored_study_is_restored(profile):
    study = Study.from_dict(full(), profile)
    stored = json.loads(json.dumps(study.to_dict()))
    again = Study.restore(stored)
    assert again.sweep == study.sweep == f"tour.{profile}"
    assert again.to_dict() == study.to_dict()
    assert again.stages == study.stages
    assert again.axes == study.axes
    sent = pickle.loads(pickle.dumps(study))
    assert (sent.sweep, sent.folders, sent.to_dict()) == (
        study.sweep,
        study.folders,
        study.to_dict(),
    )


def test_a_profile_merges_mappings_and_replaces_lists_axes_and_claims():
    data = full() | {
        "claims": [
            {
                "type": "descriptive",
                "id": "1",
                "statement": "s",
                "value": {"name": "value", "where": {"size": "large"}},
            }
        ]
    }
    data["profiles"] = {
        "smoke": {
            "seeds": 1,
            "axes": {"size": {"tiny": 0}},
            "stages": {"first": {"params": {"sleep": 1}}},
        },
        "silent": {"claims": []},
    }
    smoke = Study.from_dict(data, "smoke")
    assert smoke.seeds == (0,)
    assert smoke.axes["size"].labels == ("tiny",)
    assert smoke.axes["x"].labels == (0.0, 1.0)
    assert smoke.stages["first"].params == {"steps": 2, "sleep": 1}
    # The claim still names the file's own label: smoke is not asked to write claims of its own.
    assert len(smoke.claims) == 1
    assert Study.restore(smoke.to_dict()).claims == smoke.claims
    assert Study.from_dict(data, "silent").claims == ()
    assert smoke.with_profile("cpu").to_dict() == Study.from_dict(data).to_dict()


def test_a_profile_with_fewer_labels_need_not_rewrite_the_conditions():
    data = full() | {"profiles": {"smoke": {"axes": {"x": [0.0]}}}}
    assert Study.from_dict(data, "smoke").axes["noise"].conditions == {"x"}


def test_a_param_is_the_default_of_a_conditional_axis_only():
    data = full()
    data["stages"]["first"]["params"]["noise"] = 0.05
    assert Study(**data).stages["first"].params["noise"] == 0.05
    data["stages"]["first"]["params"]["x"] = 1.0
    with pytest.raises(InputError, match=r"^stages\.first\.params\.x: 'x' is an axis"):
        Study(**data)


def test_a_cpu_profile_is_the_default():
    data = full() | {"profiles": {"cpu": {"seeds": 1}}}
    assert Study(**data).seeds == Study.from_dict(data).seeds == (0,)


def test_an_error_in_a_profile_that_is_not_used_is_found():
    data = full() | {"profiles": {"paper": {"stages": {"first": {"resources": {"cpu": 1}}}}}}
    with pytest.raises(InputError, match=r"profile paper: stages.first.resources.cpu: unknown"):
        Study.from_dict(data)


def test_shipped_studies_load_by_name_in_every_profile():
    assert "quickstart" in shipped_studies()
    for name, path in shipped_studies().items():
        profiles = (yaml.safe_load(path.read_text()) or {}).get("profiles", {})
        for profile in ("cpu", *profiles):
            assert load_study(name, profile).study == name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("~", None),
        ("null", None),
        ("'1'", "1"),
        ("012", 12),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("<<", "<<"),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    parsed = parse_yaml(f"a: {text}\n", "f")["a"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "f:1: aliases and anchors"),
        ("a: 1\na: 2", "f:2: a: the key is given twice"),
        ("a: {b: 1, b: 2}", "f:1: a.b: the key is given twice"),
        ("a: !!python/object:os.system x", "f:1: tags"),
        ("a: !!int '3'", "f:1: tags"),
        ("a: .nan", 'f:1: a: ".nan" is not a finite number'),
        ("a: 1e999", "not a finite number"),
        ("a: " + "9" * 5000, "too long"),
        ("1: 2", 'the key 1 is not text; write "1"'),
        ("yes: 2\ntrue: 3", 'the key true is not text; write "true"'),
        ("? [a, b]\n: 1", "a key must be text"),
        ("- 1", "a study file is a mapping"),
        ("", "a study file is a mapping"),
        ("a: [1", "f:2: not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("[" * 40 + "]" * 40, "nested deeper than 32 levels"),
        ("{a: " * 5000 + "1" + "}" * 5000, "nested deeper than 32 levels"),
    ],
)
def test_unsafe_or_broken_yaml_is_one_line(text, message):
    with pytest.raises(InputError) as error:
        parse_yaml(text, "f")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_alias_bomb_costs_nothing(tmp_path):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    started = time.monotonic()
    with pytest.raises(InputError, match="aliases"):
        load_study(write(tmp_path, bomb))
    assert time.monotonic() - started < 1


def test_large_binary_missing_and_misnamed_files(tmp_path):
    with pytest.raises(InputError, match="larger than 1,000,000 bytes"):
        load_study(write(tmp_path, "a: 1\n" + "#" * 1_000_000))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"a: \xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 text at byte 3"):
        load_study(binary)
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        load_study("quikstart")
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        load_study(tmp_path / "quickstrt.yaml")
    with pytest.raises(InputError, match="is a folder"):
        load_study(tmp_path)
    for odd in ("x" * 5000, "a\0b", "", "☃\n", "~nobody/x"):
        with pytest.raises(InputError):
            load_study(odd)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("1h 30m", 5400), ("45 s", 45), ("500 ms", 0.5), (90, 90), ("1.5d", 129600)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("2 GB", 2 * 10**9), ("512MiB", 512 * 2**20), (100, 100), ("1.5 kB", 1500), ("7 B", 7)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["30", "30 mins", "m", "-3s", "0s", "", None, True, "1h30", 0, -1])
def test_bad_durations(text):
    with pytest.raises(ValueError, match=r"is not a duration such as 30m") as error:
        parse_duration(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["2", "2 Gb", "GB", "1 GB 2 MB", "-1 GB", [1], "1e400 GB"])
def test_bad_sizes(text):
    with pytest.raises(ValueError, match="is not a size such as 2 GB"):
        parse_size(text)


def test_units_are_written_for_people():
    assert [format_duration(s) for s in (0.234, 9.6, 59.7, 5400, 90061, 3600)] == [
        "0.23s",
        "9.6s",
        "1m",
        "1h 30m",
        "1d 1h",
        "1h",
    ]
    assert [format_size(b) for b in (12, 1500, 2e9)] == ["12 B", "1.5 kB", "2 GB"]


@pytest.mark.parametrize(
    "text", ["final", "every:5", "first:train_accuracy>=0.95", "first:loss<=1e-05"]
)
def test_selections_are_read_and_written(text):
    assert str(Select.parse(text)) == text


def test_selections_hold_where_they_say():
    first = Select.parse("first: accuracy >= 0.9")
    assert first.holds(3, {"accuracy": 0.9})
    assert not first.holds(3, {"accuracy": 0.89})
    assert not first.holds(3, {"loss": 1.0})
    assert not first.holds(3, {"accuracy": float("nan")})
    assert Select.parse("first:loss<=1").holds(1, {"loss": 1.0})
    assert [s for s in range(1, 11) if Select.parse("every:4").holds(s, {})] == [4, 8]


@pytest.mark.parametrize(
    "text", ["", "last", "every", "every:0", "every:x", "first:a>0.9", "first:a>=", "final:2", 3]
)
def test_bad_needs_are_refused_with_the_forms(text):
    with pytest.raises(ValueError, match=r"every:|first:|final") as error:
        Need.parse(f"train@{text}" if isinstance(text, str) else text)
    assert "\n" not in str(error.value)


def test_names_are_suggested_whatever_their_case():
    assert nearest("TRAIN", ["train", "test"]) == "train"
    assert nearest("qqq", ["train", "test"]) is None
    assert suggest("a", []) == " (there are none)"
    many = suggest("lr1", [f"lr{i}" for i in range(100)])
    assert "84 more" in many


def test_an_input_error_is_one_line_whatever_it_holds():
    assert str(InputError("a\nb\t\x1b[31mc\x00\u2028d  e")) == "a b [31mc d e"
