"""Detectors of transformers: a tiny random YOLOS, saved here."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fpd.pipeline.detectors.hugging_face import load

transformers = pytest.importorskip("transformers", reason="Hugging Face's detectors need it")

PREPROCESSING = {
    "image_processor_type": "YolosImageProcessor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "size": {"shortest_edge": 64, "longest_edge": 96},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of which every class but the last is as likely; the last means no object."""
    folder = tmp_path_factory.mktemp("yolos") / "tiny"
    config = transformers.YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=5,
        id2label={0: "N/A", 1: "person", 2: "bicycle"},
        label2id={"person": 1},
    )
    torch.manual_seed(0)
    network = transformers.YolosForObjectDetection(config).eval()
    with torch.no_grad():
        network.class_labels_classifier.layers[-1].bias += torch.tensor([0.0, 5.0, 0.0, 0.0])
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING))
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_people_are_those_of_transformers(saved: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8)
    detector = load(saved)
    people = detector(image, 0.3)
    assert detector.side_px == 96
    assert len(people.score_N) == 5 and (people.score_N > 0.9).all()
    network = transformers.YolosForObjectDetection.from_pretrained(saved).eval()
    with torch.inference_mode():
        boxes = network(**detector.processor(images=[image], return_tensors="pt")).pred_boxes[0]
    cx, cy, w, h = (boxes * torch.tensor([80, 50, 80, 50])).T.double().numpy()
    expected = np.stack([cx - w / 2, cy - h / 2, w, h], -1)
    np.testing.assert_allclose(people.xywh_N4, expected, atol=1e-3)


def test_other_classes_are_not_people(folder: Path) -> None:
    names = {"0": "N/A", "1": "bicycle", "2": "Person"}
    change(folder / "config.json", id2label=names)
    image = np.zeros((50, 80, 3), np.uint8)
    assert len(load(folder)(image, 0.3).score_N) == 0
    change(folder / "config.json", id2label={"0": "cat", "1": "dog", "2": "car"})
    with pytest.raises(ValueError, match="expected a class 'person' in id2label, found cat, dog"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "config.json",
            {"model_type": "bert"},
            "expected model_type yolos, rt_detr.* found 'bert'",
        ),
        ("config.json", {"hidden_size": 10**9}, "expected hidden_size of up to 16384, found"),
        ("config.json", {"num_hidden_layers": 5000}, "expected num_hidden_layers of up to 128"),
        ("config.json", {"backbone": "evil/model"}, "backbone_config of .*found 'evil/model'"),
        ("config.json", {"backbone_config": {"model_type": "timm_backbone"}}, "timm_backbone"),
        ("config.json", {"hidden_size": 24}, "cannot be read as a detector"),
        (
            "preprocessor_config.json",
            {"size": {"shortest_edge": 10**6}},
            "expected shortest_edge of up to 4096",
        ),
        ("preprocessor_config.json", {"image_processor_type": "X"}, "cannot be read as an image"),
    ],
)
def test_other_networks_are_refused(
    folder: Path, name: str, values: dict[str, Any], message: str
) -> None:
    change(folder / name, **values)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_settings_that_name_code_are_ignored(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('code was run')")
    for name in ("config.json", "preprocessor_config.json"):
        change(folder / name, auto_map={"AutoImageProcessor": "evil.X", "AutoConfig": "evil.X"})
    detector = load(folder)
    # Its classes are transformers' own, and the code, which would end this process, was not run.
    assert not [module for module in sys.modules if module.rpartition(".")[2] == "evil"]
    assert type(detector.network).__module__.startswith("transformers.models.")


def test_weights_must_be_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"expected weights in .*\.safetensors, found none"):
        load(folder)


def test_missing_weights_are_named(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    removed = sorted(tensors)[0]
    del tensors[removed]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="lacks 1 weights"):
        load(folder)
