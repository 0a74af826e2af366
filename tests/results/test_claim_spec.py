"""What a malformed claim is told, and what can be checked before anything has run."""

import re
from pathlib import Path

import pytest
import yaml
from claim_rows import claim
from pydantic import ValidationError

from sensweep.results.claims import ClaimSpecs, check


def message(**fields):
    with pytest.raises(ValidationError) as caught:
        ClaimSpecs.validate_python([claim(**fields)])
    (error,) = caught.value.errors()  # one line, whatever is wrong
    return f"{'.'.join(map(str, error['loc'][2:]))}: {error['msg']}"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"directoin": "lower"}, "directoin: Extra inputs are not permitted"),
        ({"direction": "down"}, "direction: Input should be 'lower' or 'higher'"),
        ({"type": "equivalence", "margin": 0.1}, "direction: Extra inputs"),
        ({"type": "noninferiority"}, "margin: Field required"),
        ({"type": "noninferiority", "margin": 0}, "margin: Input should be greater than 0"),
        ({"smallest_effect": -0.1}, "smallest_effect: Input should be greater than or equal to 0"),
        ({"of": {}}, "of: Value error, an empty filter is every model"),
        ({"of": {"arch": []}}, "of: Value error, arch: give a label, or a list of labels, not []"),
        ({"of": {"arch": {"a": 1}}}, "arch: give a label, or a list of labels, not {'a': 1}"),
        ({"than": "mlp"}, "than: Value error, give columns and their labels, as in {arch: vit}"),
        ({"where": ["arch"]}, "where: Value error, give columns and their labels"),
        ({"than": {"arch": "vit"}}, "of and than are the same side"),
        ({"relative": True, "than": 0}, "relative to 0 has no meaning"),
        ({"relative": True, "smallest_effect": 1}, "cannot reach -100%"),
        ({"level": 95}, "level: Input should be less than 1"),
        ({"gate": {"name": "a"}}, "a gate needs at_least, at_most or within"),
        ({"than": 0.5, "gate": {"name": "a", "within": 0.1}}, "this claim has no than side"),
        (
            {"for_each": {"sigma": [0.1], "attack": None}},
            "attack: give a label, or a list of labels, not None",
        ),
        ({"value": {"name": "a", "crossing": {}}}, "give at_least or at_most, and not both"),
        ({"value": {"name": "a", "minus": "b", "divided_by": "c"}}, "minus or divided_by"),
        ({"id": "1.1[x]"}, "id: String should match pattern"),
    ],
)
def test_a_malformed_claim_gets_one_line_with_its_path(fields, said):
    assert said in message(**fields)


NONE = {"value": None, "of": None, "than": None}
XY = NONE | {"type": "correlation", "x": "a", "y": "b", "direction": "higher"}
TREND = NONE | {"type": "trend", "value": "a", "over": "n"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (XY, "say what the units are: replicate: model, cell, or a column"),
        (XY | {"replicate": "model", "direction": "none"}, "direction none needs a margin"),
        (XY | {"replicate": "model", "smallest_effect": 1}, "a correlation is below 1"),
        (XY | {"along": "step", "within": "arch"}, "leave within out"),
        (TREND | {"margin": 0.1}, "only direction none has one"),
        (TREND | {"than": {"arch": "vit"}}, "than needs another side: give of"),
    ],
)
def test_a_malformed_trend_or_correlation(fields, said):
    assert said in message(**fields)


AXES = {"arch": ["vit", "mlp", "cnn"], "depth": [2, 4], "lr": None}


def problems(*claims, **known):
    specs = ClaimSpecs.validate_python(list(claims))
    return check(specs, axes=AXES, stages=["train", "sensitivity"], **known)


def test_good_claims_have_no_problems():
    one = claim(than={"arch": ["mlp", "cnn"]}, where={"depth": "2", "lr": 0.1}, for_each="sigma")
    assert problems(one) == []
    assert problems(one, names=["sensitivity"], coordinates=["sigma"], figures=[]) == []


@pytest.mark.parametrize(
    ("fields", "known", "line"),
    [
        ({"of": {"arch": "vitt"}}, {},
         "claims[0] (1.1).of.arch: unknown arch 'vitt'; did you mean vit?"),
        ({"than": {"arch": ["mlp", "resnet"]}}, {},
         "claims[0] (1.1).than.arch: unknown arch 'resnet'; there are: cnn, mlp, vit"),
        ({"for_each": {"depth": [2, 8]}}, {},
         "claims[0] (1.1).for_each.depth: unknown depth '8'; there are: 2, 4"),
        ({"value": {"name": "a", "stage": "sensitivty"}}, {},
         "claims[0] (1.1).value.stage: unknown stage 'sensitivty'; did you mean sensitivity?"),
        ({"of": {"stage": "trian"}}, {},
         "claims[0] (1.1).of.stage: unknown stage 'trian'; did you mean train?"),
        ({"gate": {"name": "train_acc", "at_least": 1}},
         {"names": ["sensitivity", "train_accuracy"]},
         "claims[0] (1.1).gate[0].name: unknown name 'train_acc'; did you mean train_accuracy?"),
        ({"value": {"name": "a", "minus": "b"}}, {"names": ["a"]},
         "claims[0] (1.1).value.minus.name: unknown name 'b'; there are: a"),
        ({"for_each": "sigmas"}, {"coordinates": ["sigma"]},
         "claims[0] (1.1).for_each: unknown column 'sigmas'; did you mean sigma?"),
        ({"replicate": "archs"}, {"coordinates": []},
         "claims[0] (1.1).replicate: unknown column 'archs'; did you mean arch?"),
        ({"figure": "curves"}, {"figures": ["curve"]},
         "claims[0] (1.1).figure: unknown figure 'curves'; did you mean curve?"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_found_before_the_run(fields, known, line):
    assert problems(claim(**fields), **known) == [line]


def test_ids_are_unique_and_a_family_has_one_level():
    assert problems(claim(), claim()) == ["claims[1].id: '1.1' is taken by an earlier claim"]
    (line,) = problems(claim(id="a"), claim(id="b", level=0.9))
    assert line.startswith("claims[1] (b).level: 0.9 where its family 'study' has 0.95")
    assert problems(claim(id="a"), claim(id="b", level=0.9, family="second")) == []


def test_claims_survive_json():
    spec = claim(for_each=["sigma"], gate={"name": "train_accuracy", "at_least": 0.95}, than=0.5)
    (parsed,) = ClaimSpecs.validate_python([spec])
    assert ClaimSpecs.validate_json(ClaimSpecs.dump_json([parsed])) == [parsed]


def test_every_example_of_the_reference_is_a_valid_claim():
    text = (Path(__file__).parents[2] / "docs" / "claims.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    claims = [one for block in blocks for one in yaml.safe_load(block)["claims"]]
    parsed = ClaimSpecs.validate_python(claims)
    assert {spec.type for spec in parsed} == {
        "difference", "noninferiority", "equivalence", "trend", "correlation", "descriptive",
    }  # fmt: skip
    assert check(parsed, axes={}, stages=["train"]) == []
