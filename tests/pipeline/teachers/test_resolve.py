"""The teacher of a run: trained in its work directory, or named by its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fpd.data.geometry import Geometry
from fpd.data.skeletons import LSP, Skeleton
from fpd.data.views import TeacherCrop
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.files import sha256
from fpd.pipeline.teachers import (
    TeacherSpec,
    check_teacher,
    compatibility_warnings,
    expected_entry,
    external_teachers_exist,
    find_teacher,
    load_external_teachers,
    load_teacher,
)
from fpd.pipeline.teachers.alignment import ALIGNMENT_VERSION
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")

MODULE = """
import torch
from fpd.pipeline.teachers import TeacherSpec

class Zeros:
    spec = TeacherSpec(input=(64, 64), joints=("neck",), sigma_px=2)
    digest = "zeros, version 1"
    def __call__(self, crops):
        return torch.zeros(len(crops), 1, *self.spec.heatmap)

def zeros():
    return Zeros()
"""


def naming(recipe: Recipe, *teachers: str) -> Recipe:
    return recipe.model_copy(
        update={"store": recipe.store.model_copy(update={"teachers": teachers})}
    )


@pytest.fixture
def external(
    toy_work: Path, toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Recipe:
    """A recipe with two teachers: a factory in the working directory, and a finished model."""
    (tmp_path / "zeros_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return naming(toy_recipe, "zeros_of_mine:zeros", str(toy_work / "teacher"))


def test_the_work_directorys_own_teacher(toy_work: Path, toy_recipe: Recipe) -> None:
    own = WorkDir(toy_work).teacher
    source = find_teacher(own, toy_recipe, LSP, allow_code=False)
    assert source is not None
    assert source.entry["sha256"] == sha256(own.weights)
    assert source.entry["model"] == toy_recipe.teacher.model.model_dump()
    crops = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    with torch.inference_mode():
        assert source.predictor(CPU)(crops).shape == (2, 14, 16, 16)
    assert expected_entry(own, toy_recipe, {}) == sha256(own.weights)
    assert not external_teachers_exist(toy_recipe)
    check_teacher(WorkDir(toy_work), toy_recipe, allow_code=False)


@pytest.mark.parametrize("averaged", [False, True])
def test_the_own_teachers_joints_are_matched_by_name(
    toy_work: Path, toy_recipe: Recipe, averaged: bool
) -> None:
    """The training file may have been written again with its joints in another order."""
    override = f"store.flip_averaged={str(averaged).lower()}"
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), (override,))
    own, order = WorkDir(toy_work).teacher, [13, *range(13)]
    crops = torch.randint(0, 255, (2, 64, 64, 3), dtype=torch.uint8)

    def heatmaps(skeleton: Skeleton) -> torch.Tensor:
        source = load_teacher(own, recipe, skeleton, allow_code=False)
        with torch.inference_mode():
            return source.predictor(CPU)(crops)

    torch.testing.assert_close(
        heatmaps(LSP.reordered(order)), heatmaps(LSP)[:, order], rtol=0, atol=0
    )
    with pytest.raises(ValueError, match=r"teacher alone has head top; .* alone has tail$"):
        heatmaps(replace(LSP, joints=(*LSP.joints[:13], "tail")))
    with pytest.raises(ValueError, match="other counterparts of right ankle"):
        heatmaps(replace(LSP, flip_indices=tuple(range(14))))


def test_external_teachers(toy_work: Path, external: Recipe) -> None:
    own = WorkDir(toy_work).teacher
    source = load_teacher(own, external, LSP, allow_code=True)
    kinds = [(part["kind"], part["sha256"]) for part in source.entry["teachers"]]
    assert kinds == [("python", "zeros, version 1"), ("folder", sha256(own.weights))]
    assert source.entry["covered_joints"] == list(LSP.joints)
    crops = torch.full((2, 64, 64, 3), 128, dtype=torch.uint8)
    with torch.inference_mode():
        both = source.predictor(CPU)(crops)
        model = naming(external, external.store.teachers[1])
        alone = load_teacher(own, model, LSP, allow_code=False).predictor(CPU)
        torch.testing.assert_close(both[:, 12], alone(crops)[:, 12] / 2)  # the neck, with zeros
        torch.testing.assert_close(both[:, :12], alone(crops)[:, :12])


def test_the_cost_of_external_teachers(toy_work: Path, external: Recipe) -> None:
    model = naming(external, external.store.teachers[1])
    teachers = load_external_teachers(model, LSP, averaged=False, allow_code=False)
    network = teachers.teachers[0].network  # type: ignore[attr-defined]
    assert teachers.parameters == sum(weight.numel() for weight in network.parameters())
    both = load_external_teachers(external, LSP, averaged=False, allow_code=True)
    assert both.parameters is None
    with torch.inference_mode():
        outputs: Any = teachers.one_pass(CPU)()
    assert [output.shape for output in outputs] == [(1, 14, 16, 16)]


def test_what_files_determine_of_a_stores_entry(toy_work: Path, external: Recipe) -> None:
    """The folder's digest is computed, the factory's is taken from the store."""
    own = WorkDir(toy_work).teacher
    parts = [{"kind": "python", "sha256": "old"}, {"kind": "folder", "sha256": "old"}]
    manifest = {"teacher": {"sha256": "x", "teachers": parts}}
    entry = expected_entry(own, external, manifest)
    assert isinstance(entry, dict)
    assert [part["sha256"] for part in entry["teachers"]] == ["old", sha256(own.weights)]
    assert expected_entry(own, external, manifest, trusting=True) == manifest["teacher"]
    one = naming(external, external.store.teachers[0])
    mismatch = expected_entry(own, one, manifest)
    assert isinstance(mismatch, dict) and mismatch["teachers"] == list(one.store.teachers)


def test_the_entry_states_how_crops_are_turned(toy_work: Path, toy_recipe: Recipe) -> None:
    own = WorkDir(toy_work).teacher
    recipe = naming(toy_recipe, str(own.path))
    upright = load_external_teachers(recipe, LSP, averaged=False, allow_code=False)
    assert upright.crop is None and not {"alignment", "crop_px", "crop_box"} & upright.entry.keys()
    turned = apply_overrides(recipe.model_dump(mode="json"), ["store.teacher_alignment=labels"])
    teachers = load_external_teachers(turned, LSP, averaged=False, allow_code=False)
    assert teachers.crop == TeacherCrop(128, 2.0, torso=True)
    entry = teachers.entry
    assert entry["alignment"] == {"method": "labels", "version": ALIGNMENT_VERSION}
    assert (entry["crop_px"], entry["crop_box"]) == (128, 2.0)
    assert entry["sha256"] != upright.entry["sha256"]
    assert expected_entry(own, turned, {"teacher": entry}) == entry
    without = {key: value for key, value in entry.items() if key != "alignment"}
    assert expected_entry(own, recipe, {"teacher": entry}) == without
    assert expected_entry(own, recipe, {"teacher": entry}, trusting=True) == entry


def test_without_its_teacher_a_stores_own_entry_is_expected(
    tmp_path: Path, toy_recipe: Recipe
) -> None:
    own = WorkDir(tmp_path).teacher
    assert find_teacher(own, toy_recipe, LSP, allow_code=False) is None
    assert expected_entry(own, toy_recipe, {"teacher": {"sha256": "x"}}) == "x"
    copied = {"teacher": {"sha256": "x", "teachers": [{"kind": "python"}]}}
    assert expected_entry(own, toy_recipe, copied) == copied["teacher"]
    assert expected_entry(own, toy_recipe, {"teacher": None}) == "none"


def test_a_missing_teacher_is_refused(tmp_path: Path, toy_recipe: Recipe) -> None:
    work = WorkDir(tmp_path)
    with pytest.raises(ValueError, match="fpd run teacher"):
        check_teacher(work, toy_recipe, allow_code=False)
    named = naming(toy_recipe, "model.pt2")
    assert find_teacher(work.teacher, named, LSP, allow_code=False) is None
    with pytest.raises(ValueError, match=r"--teacher model\.pt2: .*found none"):
        check_teacher(work, named, allow_code=False)


def test_the_own_teacher_is_not_run_on_crops_of_another_size(
    toy_work: Path, toy_recipe: Recipe
) -> None:
    """`--teacher` with its folder runs it on crops of its own size."""
    work = WorkDir(toy_work)
    larger = toy_recipe.model_copy(update={"geometry": Geometry(crop_px=128)})
    with pytest.raises(ValueError, match=r"crop_px = 64 .*found 128 and 4.*`--teacher (.*)` runs"):
        check_teacher(work, larger, allow_code=False)
    check_teacher(work, naming(larger, str(work.teacher.path)), allow_code=False)


def test_differences_from_the_labels_are_warned_of(toy_recipe: Recipe) -> None:
    spec = TeacherSpec(input=(64, 48), joints=("neck",), sigma_px=3)
    part = {"kind": "python", "spec": spec.model_dump(mode="json")}
    joints, sigma = compatibility_warnings(
        {"teachers": [part], "covered_joints": ["neck"]}, toy_recipe, LSP
    )
    assert "1 of 14 joints" in joints and "head top" in joints and "neck" not in joints
    # The crop fills 12 pixels of the teacher's heatmap and 16 of the store's: sigma 3 becomes 4.
    assert "--set targets.sigma_px=4" in sigma
    part["spec"] = TeacherSpec(input=(64, 48), joints=("neck",)).model_dump(mode="json")
    assert compatibility_warnings({"teachers": [part]}, toy_recipe, LSP) == []
