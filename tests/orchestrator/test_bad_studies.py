"""Bad study files end in one line each, never in a traceback of another kind."""

import copy

import pytest
import yaml
from bad_studies import MUTATIONS, TEXTS, bad_studies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.plan import make_plan
from sensweep.orchestrator.study import Study, load_study, shipped_studies
from sensweep.orchestrator.yaml_file import parse_yaml


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return bad_studies(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("number", range(len(MUTATIONS) + len(TEXTS)))
def test_a_bad_study_is_one_line_that_names_the_place(files, number):
    path, wanted = files[number]
    with pytest.raises(InputError) as error:
        make_plan(load_study(path))
    line = str(error.value)
    assert "\n" not in line
    assert len(line) < 1000
    assert path.name in line or ".py:" in line
    assert wanted in line


def test_there_are_at_least_fifty():
    assert len(MUTATIONS) + len(TEXTS) >= 50


BASE = yaml.safe_load(shipped_studies()["quickstart"].read_text())
words = ["none", "vit", "train", "train@final", "final", "2 GB", "30m", "toy", "../x", "a:b"]
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(words)
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["when", "values", "name", "\0"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def paths(value, path=()):
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from paths(inner, (*path, key))


PATHS = [path for path in paths(BASE) if path]


@given(st.sampled_from(PATHS), values, st.sampled_from(["put", "drop", "add"]), st.text(max_size=6))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_study_with_anything_anywhere_is_planned_or_refused_in_one_line(path, value, how, key):
    data = copy.deepcopy(BASE)
    data.pop("profiles", None)
    if path[0] == "profiles":
        return
    inner = data
    for part in path[:-1]:
        inner = inner[part]
    if how == "drop":
        del inner[path[-1]]
    elif how == "add" and isinstance(inner[path[-1]], dict):
        inner[path[-1]][key] = value
    else:
        inner[path[-1]] = value
    try:
        plan = make_plan(Study.from_dict(data))
    except InputError as error:
        line = str(error)
    else:
        line = ""
        assert len({trial.trial_id for trial in plan.trials}) == len(plan.trials)
    assert "\n" not in line


@given(st.text() | st.text(alphabet="ab:-[]{}&*!|>'\"#%@?,~ \n\t0123.e<", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        data = parse_yaml(text, "f")
    except InputError as error:
        data, line = {}, str(error)
    else:
        line = ""
    assert isinstance(data, dict)
    assert "\n" not in line
