"""Mistakes in settings are named by their keys, in one line, with suggestions."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fpd.pipeline.config.recipe import apply_overrides, load_recipe

TIMM = "student.model={name='timm', backbone='resnet18', %s=1}"


@pytest.mark.parametrize(
    ("override", "key", "suggestion"),
    [
        ("student.alhpa=0.9", "student.alhpa", "student.alpha"),
        ("studnet.alpha=0.9", "studnet", "student"),
        ("data.synthetic.tarin=1", "data.synthetic.tarin", "data.synthetic.train"),
        ("teacher.model.stagse=1", "teacher.model.stagse", "teacher.model.stages"),
        (TIMM % "pretraned", "student.model.pretraned", "student.model.pretrained"),
        ("teacher.model.name=hourglas", "teacher.model.name", "hourglass"),
        ("students.labels-only.alhpa=1", "labels-only.alhpa", "students.labels-only.alpha"),
    ],
)
def test_a_misspelled_key_gets_a_suggestion(override: str, key: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean `{suggestion}`") as caught:
        load_recipe("demo", [override])
    assert f"{key}: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "suggestion"),
    [
        ("alpha=1", "`student.alpha`"),
        ("teacher.alpha=1", "`student.alpha`"),
        ("epochs=1", "`teacher.epochs` or `student.epochs`"),
        ("data.crop_px=64", "`geometry.crop_px`"),
    ],
)
def test_a_key_in_the_wrong_section_gets_the_right_one(override: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match=f"no such setting; did you mean {suggestion}") as caught:
        load_recipe("demo", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["nonsense", "teacher.nonsense", TIMM.partition("=")[0] + ".stages", "students.new.x"]
)
def test_a_key_unlike_all_others_gets_none(key: str) -> None:
    override = TIMM % "stages" if key == "student.model.stages" else f"{key}=1"
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as caught:
        load_recipe("demo", [override])
    assert "did you mean" not in str(caught.value)


def test_a_misspelled_recipe_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'dmeo'.*demo, lsp.*did you mean `demo`\?"):
        load_recipe("dmeo")


@pytest.mark.parametrize(
    "override",
    ["student.alpha=much", "teacher.epochs=1.5", "teacher.optimizer=sgd", "teacher=3"],
)
def test_a_wrong_type_is_named(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        load_recipe("demo", [override])


def test_all_mistakes_are_named_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"teacher\.epochs.*; .*student\.alpha") as caught:
        load_recipe("demo", ["student.alpha=2", "teacher.epochs=0"])
    assert not isinstance(caught.value, ValidationError)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_a_mistake_in_a_student_is_named_by_its_key() -> None:
    with pytest.raises(ValueError, match=r"students\.small\.alpha"):
        apply_overrides({"students": {"small": {"epochs": 1}}}, ["students.small.alpha=2"])


@pytest.mark.parametrize(
    ("override", "kind"),
    [("student.model.backbone=resnet18", "timm"), (TIMM % "stages", "hourglass")],
)
def test_a_setting_of_another_network_names_that_network(override: str, kind: str) -> None:
    hint = rf"no such setting; networks with student\.model\.name = {kind} have it"
    with pytest.raises(ValueError, match=hint):
        load_recipe("demo", [override])
