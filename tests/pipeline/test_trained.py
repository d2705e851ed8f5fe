"""A model's folder says all that its users need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fpd.data.skeletons import LSP, MPII
from fpd.pipeline.recipe import Recipe, apply_overrides
from fpd.pipeline.trained import find_model, load_trained
from fpd.pipeline.workdir import WorkDir, write_json

CPU = torch.device("cpu")


def test_the_folder_alone_is_enough(toy_work: Path, toy_recipe: Recipe) -> None:
    mpii = apply_overrides({"data": {"reader": "mpii", "root": "nowhere"}}, [])
    folder = find_model(WorkDir(toy_work), "teacher")
    trained = load_trained(folder, mpii, CPU)
    assert trained.skeleton == LSP  # as recorded, whatever another recipe reads
    assert trained.geometry == toy_recipe.geometry
    assert trained.model == toy_recipe.teacher.model
    assert trained.recipe(mpii).geometry.crop_px == 64
    assert not trained.network.training
    crop = torch.zeros(1, 3, 64, 64)
    assert trained.network(crop)[-1].shape == (1, 14, 16, 16)


def test_records_of_before_take_the_readers_skeleton(work: WorkDir, toy_recipe: Recipe) -> None:
    record = work.teacher.record()
    del record["result"]["skeleton"]
    write_json(work.teacher.record_path, record)
    assert load_trained(work.teacher, toy_recipe, CPU).skeleton == LSP
    mpii = apply_overrides({"data": {"reader": "mpii", "root": "nowhere"}}, [])
    assert MPII.num_joints == 16
    with pytest.raises(ValueError, match="weights of another network"):
        load_trained(work.teacher, mpii, CPU)


@pytest.mark.parametrize("broken", ["identity", "result"])
def test_a_damaged_record_is_named(work: WorkDir, toy_recipe: Recipe, broken: str) -> None:
    record = work.teacher.record()
    record[broken] = {"settings": {"geometry": {"crop_px": "wide"}}, "skeleton": {"name": 3}}
    write_json(work.teacher.record_path, record)
    with pytest.raises(ValueError, match=r"record\.json is damaged"):
        load_trained(work.teacher, toy_recipe, CPU)


def test_a_network_that_cannot_be_built_here_is_no_damage(
    work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = work.teacher.record()
    record["identity"]["settings"]["training"]["model"] = {"name": "timm", "backbone": "resnet18"}
    write_json(work.teacher.record_path, record)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^[^\n]*record\.json: model: expected timm, [^\n]*$"):
        load_trained(work.teacher, toy_recipe, CPU)


def test_unknown_models_are_named_with_the_command(work: WorkDir) -> None:
    with pytest.raises(ValueError, match=r"'mine' \(finished: teacher\).*--name mine -w"):
        find_model(work, "mine")
    with pytest.raises(ValueError, match=r"'teacher' \(finished: none\).*`fpd run teacher -w"):
        find_model(WorkDir(work.root / "nowhere"), "teacher")
