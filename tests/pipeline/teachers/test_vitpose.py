"""ViTPose from a local folder: a tiny network saved by transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fpd.data.skeletons import COCO
from fpd.pipeline.teachers.vitpose import digest, load

transformers = pytest.importorskip("transformers", reason="ViTPose needs transformers")

NAMES = ("Nose", "L_Eye", "R_Eye", "L_Ankle", "R_Ankle")


def network(**changes: Any) -> Any:
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        out_indices=[2],
        **{k: changes.pop(k) for k in ("num_experts", "part_features") if k in changes},
    )
    names = changes.pop("names", NAMES)
    config = transformers.VitPoseConfig(
        backbone_config=backbone, id2label=dict(enumerate(names)), **changes
    )
    torch.manual_seed(0)
    return transformers.VitPoseForPoseEstimation(config).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vitpose") / "tiny"
    network().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def test_heatmaps_are_those_of_transformers(saved: Path) -> None:
    teacher = load(saved)
    spec = teacher.spec
    assert (spec.input, spec.heatmap, spec.stride_px) == ((64, 48), (16, 12), 4)
    assert (spec.joints, spec.grid, spec.mean_rgb[0]) == (NAMES, "corners", 0.485)
    crops = torch.rand(3, 3, 64, 48)
    reference = transformers.VitPoseForPoseEstimation.from_pretrained(saved).eval()
    with torch.inference_mode():
        torch.testing.assert_close(teacher(crops), reference(crops).heatmaps)


@pytest.mark.parametrize(
    "settings",
    [
        {"attn_implementation": "somebody/kernels"},
        {"_attn_implementation": "somebody/kernels"},
        {"auto_map": {"AutoModel": "evil.Network"}},
    ],
)
def test_settings_that_name_code_have_no_effect(folder: Path, settings: dict[str, Any]) -> None:
    crops = torch.rand(1, 3, 64, 48)
    expected = load(folder)(crops)
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"] |= settings
    (folder / "config.json").write_text(json.dumps(config | settings))
    (folder / "evil.py").write_text("raise SystemExit('code ran')")
    # An adapter that transformers would look for in the folder.
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    torch.testing.assert_close(load(folder)(crops), expected)


def test_quantized_weights_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: expected weights in floating point"):
        load(folder)


def test_the_classic_head_and_cocos_expert(tmp_path: Path) -> None:
    theirs = network(use_simple_decoder=False, num_experts=3, part_features=4)
    theirs.save_pretrained(tmp_path)
    teacher = load(tmp_path)
    assert teacher.spec.heatmap == (16, 12)
    crops = torch.rand(2, 3, 64, 48)
    with torch.inference_mode():
        expected = theirs(crops, dataset_index=torch.tensor([0, 0])).heatmaps
        other = theirs(crops, dataset_index=torch.tensor([1, 1])).heatmaps
        heatmaps = teacher(crops)
    torch.testing.assert_close(heatmaps, expected)
    assert not torch.allclose(heatmaps, other)


def test_unnamed_joints_are_cocos(tmp_path: Path) -> None:
    network(names=[f"LABEL_{k}" for k in range(17)]).save_pretrained(tmp_path)
    assert load(tmp_path).spec.joints == COCO.joints


def test_normalization_is_read_from_the_preprocessor(folder: Path) -> None:
    preprocessor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 0.3]}
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(preprocessor | {"size": {"height": 64, "width": 48}}))
    spec = load(folder).spec
    assert (spec.mean_rgb, spec.std_rgb) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    file.write_text(json.dumps(preprocessor | {"do_normalize": False}))
    spec = load(folder).spec
    assert (spec.mean_rgb, spec.std_rgb) == ((0, 0, 0), (1, 1, 1))
    file.write_text(json.dumps({"size": {"height": 48, "width": 64}}))
    with pytest.raises(ValueError, match=r"\[64, 48\] .*config\.json.* preprocessor_config"):
        load(folder)


def test_the_digest_depends_on_settings_and_weights_only(folder: Path) -> None:
    before = digest(folder)
    assert load(folder).digest == before
    (folder / "README.md").write_text("hello")
    assert digest(folder) == before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config))  # without its line breaks
    assert digest(folder) != before


def test_weights_that_would_be_unpickled_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"\*\.safetensors, found none"):
        load(folder)


def test_other_models_and_damaged_files_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ValueError, match="expected model_type vitpose"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="cannot be read as a ViTPose"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        load(folder)


def test_missing_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["head.conv.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights: head\.conv\.weight"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10**9}, "hidden_size of up to 8192, found 1000000000"),
        ({"image_size": [64, 10**6]}, "image_size of up to 2048"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers of up to 128"),
    ],
)
def test_a_config_that_would_need_too_much_memory_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load(folder)
