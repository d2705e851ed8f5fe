"""A model can be used with its folder alone; damaged folders are refused."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.models.checkpoint import (
    load_model,
    parse_weights,
    read_weights_file,
    save_weights,
)
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.runtime.files import sha256, write_sealed_json
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")


def test_a_model_loads_from_its_folder_alone(toy_work: Path, toy_recipe: Recipe) -> None:
    model = load_model(WorkDir(toy_work).model("teacher"), CPU)
    assert model.skeleton == LSP
    assert model.geometry == toy_recipe.geometry
    assert model.model == toy_recipe.teacher.model
    assert model.weights_sha256 == sha256(WorkDir(toy_work).teacher.weights)
    assert not model.network.training
    crop = torch.zeros(1, 3, 64, 64)
    assert model.network(crop)[-1].shape == (1, 14, 16, 16)


@pytest.mark.parametrize(
    "key",
    ["model", "geometry", "skeleton", "log_mass", "identity", "result", "weights_sha256", "epochs"],
)
def test_a_damaged_record_is_refused(work: WorkDir, key: str) -> None:
    intact = work.teacher.record()
    damaged: list[dict[str, Any]] = [copy.deepcopy(intact), copy.deepcopy(intact)]
    parents = [record["result"] if key in record["result"] else record for record in damaged]
    del parents[0][key]
    parents[1][key] = ["not", "valid"]
    for record in damaged:
        write_sealed_json(work.teacher.record_path, record)
        with pytest.raises(ValueError, match=rf"record\.json is damaged.*{key}.*train it again"):
            work.teacher.record()


def test_weights_of_another_network_are_refused(work: WorkDir) -> None:
    record = work.teacher.record()
    record["model"]["channels"] *= 2
    write_sealed_json(work.teacher.record_path, record)
    with pytest.raises(ValueError, match=r"weights\.safetensors holds weights of another network"):
        load_model(work.teacher, CPU)


def test_weights_that_the_record_does_not_describe_are_refused(work: WorkDir) -> None:
    """Also where safetensors would read them."""
    weights, whole = work.teacher.weights, work.teacher.weights.read_bytes()
    for content in (flipped(whole), whole[:-1], b"", b"\0" * 8):
        weights.write_bytes(content)
        for refused in (work.teacher.check_weights, lambda: read_weights_file(weights)):
            with pytest.raises(
                ValueError, match=r"weights\.safetensors is not the file that rec.*"
            ):
                refused()
        with pytest.raises(ValueError, match=r"restore it, or remove .*teacher and train it again"):
            load_model(work.teacher, CPU)
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing, although .*record"):
        load_model(work.teacher, CPU)
    weights.mkdir()
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing, although .*record"):
        load_model(work.teacher, CPU)
    weights.rmdir()
    weights.write_bytes(whole)
    load_model(work.teacher, CPU)


def flipped(content: bytes) -> bytes:
    """The content with one bit of its last tensor changed."""
    return content[:-1] + bytes([content[-1] ^ 1])


def test_a_record_that_was_changed_is_refused(work: WorkDir) -> None:
    path = work.teacher.record_path
    text = path.read_text()
    path.write_text(text.replace('"epochs": 2', '"epochs": 3'))
    with pytest.raises(ValueError, match=r"record\.json does not match its checksum.*restore it"):
        work.teacher.record()
    path.write_text(json.dumps({"identity": {}}))
    with pytest.raises(ValueError, match=r"record\.json has no checksum"):
        work.teacher.record()


def test_a_network_that_cannot_be_built_here_is_not_called_damaged(
    work: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = work.teacher.record() | {"model": {"name": "timm", "backbone": "resnet18"}}
    write_sealed_json(work.teacher.record_path, record)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^[^\n]*record\.json: model: expected timm, [^\n]*$"):
        load_model(work.teacher, CPU)


# The weights file


@pytest.fixture
def out(tmp_path: Path) -> ModelDir:
    folder = ModelDir(tmp_path / "student")
    folder.path.mkdir()
    return folder


def load_weights(network: nn.Module, path: Path) -> None:
    parse_weights(network, read_weights_file(path), path)


def build(seed: int = 0, joints: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    network: nn.Module = HourglassSettings(stages=1, channels=8, depth=1).build(joints)
    return network


def test_weights_are_saved_and_loaded(out: ModelDir, tmp_path: Path) -> None:
    """The bytes depend on the network only, not on its memory format."""
    network, other = build(0).to(memory_format=torch.channels_last), build(1)
    save_weights(network, out)
    assert [path.name for path in out.path.iterdir()] == ["weights.safetensors"]
    load_weights(other, out.weights)
    expected = network.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in other.state_dict().items())
    again = ModelDir(tmp_path / "again")
    again.path.mkdir()
    save_weights(build(0), again)
    assert again.weights.read_bytes() == out.weights.read_bytes()


def test_weights_of_other_joints_or_without_a_tensor_are_refused(out: ModelDir) -> None:
    save_weights(build(joints=4), out)
    with pytest.raises(ValueError, match="weights of another network: "):
        load_weights(build(), out.weights)
    save_weights(build(), out)
    tensors = load_file(out.weights)
    del tensors["score.0.bias"]
    save_file(tensors, out.weights)
    with pytest.raises(ValueError, match=r"another network: Missing key.*score\.0\.bias"):
        load_weights(build(), out.weights)


@pytest.mark.parametrize("truncated", [False, True])
def test_missing_and_truncated_weights_are_refused(out: ModelDir, truncated: bool) -> None:
    if truncated:
        save_weights(build(), out)
        out.weights.write_bytes(out.weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read as weights"):
        load_weights(build(), out.weights)
