"""ViTPose (Xu et al., NeurIPS 2022) from a local folder, by Hugging Face's transformers.

    fpd cache-heatmaps --teacher models/vitpose-base-simple

The folder is one that `save_pretrained` writes: config.json, model.safetensors (or its parts) and,
where it is there, preprocessor_config.json. Nothing is downloaded, no code of the folder is run,
and weights in other formats, which would be unpickled, are not read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ...data.io.files import parse_json, read_bytes
from ..models.preprocessing import MEAN_RGB, STD_RGB
from ..runtime.files import sha256
from .joint_names import skeleton_of
from .spec import MAX_SPEC_BYTES, TeacherSpec, explain

if TYPE_CHECKING:
    from transformers import VitPoseForPoseEstimation

SIGMA_PX = 2.0
"""ViTPose's configs/body/2d_kpt_sview_rgb_img/topdown_heatmap/coco/*: sigma 2 at 64 x 48, UDP."""

COCO_EXPERT = 0
"""Of ViTPose+, the data set whose head is asked: the model cards have 0 for COCO."""

LARGEST = {
    "hidden_size": 8192,
    "num_hidden_layers": 128,
    "mlp_ratio": 16,
    "num_experts": 64,
    "image_size": 2048,
    "patch_size": 64,
}
"""Bounds on what a config.json may ask for; ViTPose-huge has 1280, 32, 4, 1, 256, 16."""

MOST_JOINTS = 1024


class VitPoseTeacher:
    """A ViTPose network."""

    def __init__(
        self, network: VitPoseForPoseEstimation, spec: TeacherSpec, digest: str, experts: int
    ) -> None:
        self.network, self.spec, self.digest, self.experts = network, spec, digest, experts

    def to(self, device: torch.device) -> VitPoseTeacher:
        self.network.to(device)  # type: ignore[arg-type]
        return self

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        expert = None
        if self.experts > 1:
            expert = crops_B3HW.new_full((len(crops_B3HW),), COCO_EXPERT, dtype=torch.long)
        answer: Tensor = self.network(crops_B3HW, dataset_index=expert).heatmaps
        return answer


def load(folder: Path) -> VitPoseTeacher:
    """The network in a folder.

    Raises:
        ValueError: transformers is not installed, or the folder has no ViTPose in safetensors.
    """
    _check_folder(folder)
    network, found = _from_pretrained(folder)
    if found["missing_keys"]:  # which transformers fills with random numbers
        some = ", ".join(sorted(found["missing_keys"])[:3])
        raise ValueError(f"{folder} lacks {len(found['missing_keys'])} weights: {some}")
    experts = int(getattr(network.config.backbone_config, "num_experts", 1))
    spec = _spec(folder, network.config)
    return VitPoseTeacher(network.train(False).requires_grad_(False), spec, digest(folder), experts)


def _from_pretrained(folder: Path) -> Any:
    """The network, and what of it was not in the folder."""
    try:
        from transformers import VitPoseForPoseEstimation
        from transformers.utils import logging as chatter
    except ImportError as error:
        raise ValueError(
            f"expected transformers, to load {folder}, found none ({error}): "
            "pip install 'fast-pose-distillation[vitpose]'"
        ) from None
    chatter.disable_progress_bar()  # type: ignore[no-untyped-call]  # of a second's reading
    try:
        return VitPoseForPoseEstimation.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of many kinds, for damage and for other networks
        first = str(error).strip().splitlines()
        reason = first[0] if first else type(error).__name__
        raise ValueError(f"{folder} cannot be read as a ViTPose: {reason}") from None


def digest(folder: Path) -> str:
    """SHA-256 of the network's settings and weights."""
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    parts = [[file.name, sha256(file)] for file in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _check_folder(folder: Path) -> None:
    """Refuse what is no ViTPose, has no weights to be read, or asks for too much memory."""
    config = _read(folder / "config.json")
    if config.get("model_type") != "vitpose":
        raise ValueError(
            f"{folder}/config.json: expected model_type vitpose, the one Hugging Face model that "
            "is known here; any other goes by package.module:factory (docs/teachers.md)"
        )
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"expected weights in {folder}/*.safetensors, found none; other formats are not read: "
            "save_pretrained of transformers writes this one"
        )
    for key, most in LARGEST.items():
        value = (config.get("backbone_config") or {}).get(key, 1)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int | float) and 0 < v <= most for v in values):
            raise ValueError(f"{folder}/config.json: expected {key} of up to {most}, found {value}")
    if len(config.get("id2label") or ()) > MOST_JOINTS:
        raise ValueError(f"{folder}/config.json: expected up to {MOST_JOINTS} joints")


def _spec(folder: Path, config: Any) -> TeacherSpec:
    prepared = _read(folder / "preprocessor_config.json", optional=True)
    backbone = config.backbone_config
    input_px = [int(side) for side in backbone.image_size]
    size = prepared.get("size")
    if isinstance(size, dict) and [size.get("height"), size.get("width")] != input_px:
        raise ValueError(
            f"{folder}: config.json has an input of {input_px} (height, width), and "
            f"preprocessor_config.json one of {size}"
        )
    plain = prepared.get("do_normalize") is False
    try:
        return TeacherSpec.model_validate(
            {
                "input": input_px,
                "joints": _joints(config),
                "stride_px": int(backbone.patch_size[0]) // _enlarged(config),
                "mean_rgb": (0, 0, 0) if plain else prepared.get("image_mean", MEAN_RGB),
                "std_rgb": (1, 1, 1) if plain else prepared.get("image_std", STD_RGB),
                "grid": "corners",
                "sigma_px": SIGMA_PX,
            }
        )
    except ValidationError as error:
        raise ValueError(f"{folder}: {explain(error)}") from None


def _enlarged(config: Any) -> int:
    """How much larger than the patches' grid the maps are: the classic head has two x 2."""
    return int(config.scale_factor) if config.use_simple_decoder else 4


def _joints(config: Any) -> tuple[str, ...]:
    """The names that the folder gives them; where it gives none, COCO's, by their number."""
    names = tuple(str(config.id2label[k]) for k in sorted(config.id2label))
    if any(name.startswith("LABEL_") for name in names):
        return skeleton_of(len(names)).joints
    return names


def _read(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    value = parse_json(path, read_bytes(path, MAX_SPEC_BYTES, "JSON"), "JSON")
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return value
