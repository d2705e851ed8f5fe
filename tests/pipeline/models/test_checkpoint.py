"""A model's folder states all that users of its weights need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.runtime.files import write_json
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")


def test_the_folder_alone_is_enough(toy_work: Path, toy_recipe: Recipe) -> None:
    model = load_model(WorkDir(toy_work).model("teacher"), CPU)
    assert model.skeleton == LSP
    assert model.geometry == toy_recipe.geometry
    assert model.model == toy_recipe.teacher.model
    assert not model.network.training
    crop = torch.zeros(1, 3, 64, 64)
    assert model.network(crop)[-1].shape == (1, 14, 16, 16)


@pytest.mark.parametrize("key", ["model", "geometry", "skeleton", "log_mass"])
@pytest.mark.parametrize("value", [None, {"crop_px": "wide"}])
def test_a_damaged_record_is_named(work: WorkDir, key: str, value: object) -> None:
    record = work.teacher.record()
    if value is None:
        del record[key]
    else:
        record[key] = value
    write_json(work.teacher.record_path, record)
    with pytest.raises(ValueError, match=rf"record\.json is damaged.*{key}"):
        load_model(work.teacher, CPU)


def test_a_network_that_cannot_be_built_here_is_no_damage(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = work.teacher.record() | {"model": {"name": "timm", "backbone": "resnet18"}}
    write_json(work.teacher.record_path, record)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^[^\n]*record\.json: expected timm, [^\n]*$"):
        load_model(work.teacher, CPU)
