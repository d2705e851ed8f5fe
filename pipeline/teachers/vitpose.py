"""ViTPose (Xu et al., NeurIPS 2022) from a local folder, with Hugging Face's transformers.

    fpd cache-heatmaps --teacher models/vitpose-base-simple

The folder is as `save_pretrained` writes it: config.json, model.safetensors (or its shards) and,
optionally, preprocessor_config.json. Nothing is downloaded, no code in the folder is run, and
weights in other formats, which would have to be unpickled, are not read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors.torch import load as load_safetensors
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
"""Index of the expert of a ViTPose+ to use; according to the model cards, 0 is COCO's."""

MAX_CONFIG = {
    "hidden_size": 8192,
    "num_hidden_layers": 128,
    "mlp_ratio": 16,
    "num_experts": 64,
    "image_size": 2048,
    "patch_size": 64,
}
"""Upper bounds of values in config.json; ViTPose-huge has 1280, 32, 4, 1, 256 and 16."""

MAX_JOINTS = 1024

MAX_FILE_BYTES = 8 << 30
"""Limit of a file of weights, which is read into memory; ViTPose++ huge has 3.7 GB in all."""

CODE_SETTINGS = {
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "auto_map",
    "custom_pipelines",
}
"""Settings in config.json that name code to load (transformers 5.24: modeling_utils.py, kernels of
the Hub; dynamic_module_utils.py)."""


class VitPoseTeacher:
    """A teacher that runs a ViTPose network."""

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
        heatmaps: Tensor = self.network(crops_B3HW, dataset_index=expert).heatmaps
        return heatmaps


def load(folder: Path) -> VitPoseTeacher:
    """Load the network from a folder.

    Raises:
        ValueError: transformers is not installed, or the folder has no ViTPose in safetensors.
    """
    encoded = read_bytes(folder / "config.json", MAX_SPEC_BYTES, "JSON")
    settings = _check_folder(folder, encoded)
    contents = {
        file: encoded if file.suffix == ".json" else read_bytes(file, MAX_FILE_BYTES, "weights")
        for file in _files(folder)
    }
    network, info = _build(folder, settings, contents)
    if info["missing_keys"]:  # transformers would initialize them randomly
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise ValueError(f"{folder} lacks {len(info['missing_keys'])} weights: {some}")
    experts = int(getattr(network.config.backbone_config, "num_experts", 1))
    spec = _spec(folder, network.config)
    sums = {file.name: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    network = network.train(False).requires_grad_(False)
    return VitPoseTeacher(network, spec, _digest_of(sums), experts)


def _build(folder: Path, settings: dict[str, Any], contents: dict[Path, bytes]) -> Any:
    """The network, and transformers' report on what was loaded.

    transformers is given settings and tensors that were read and checked here, not the folder: it
    would follow what other files in it name, such as adapters, and what its settings name, such as
    attention kernels on the Hub.
    """
    try:
        from transformers import VitPoseConfig, VitPoseForPoseEstimation
        from transformers.utils import logging
    except ImportError as error:
        raise ValueError(
            f"expected transformers, to load {folder}, found none ({error}): "
            "pip install 'fast-pose-distillation[vitpose]'"
        ) from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tensors: dict[str, Tensor] = {}
        for file in weight_files(list(contents)):
            tensors |= load_safetensors(contents[file])
        return VitPoseForPoseEstimation.from_pretrained(
            None,
            config=VitPoseConfig.from_dict(without_code(settings)),
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of many types, for damage and for other networks
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ValueError(f"{folder} cannot be read as a ViTPose: {reason}") from None


def without_code(value: Any) -> Any:
    """Settings without those by which transformers would load code."""
    if isinstance(value, dict):
        return {k: without_code(v) for k, v in value.items() if k not in CODE_SETTINGS}
    return [without_code(item) for item in value] if isinstance(value, list) else value


def digest(folder: Path) -> str:
    """SHA-256 of the network's settings and weights, in hexadecimal."""
    return _digest_of({file.name: sha256(file) for file in _files(folder)})


def _digest_of(sums: dict[str, str]) -> str:
    """SHA-256 of the SHA-256 of each file, by name."""
    parts = [[name, sum_] for name, sum_ in sums.items()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    """The files that decide the network: its settings, and all weights."""
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]


def weight_files(files: list[Path]) -> list[Path]:
    """The files of weights: one, or all shards."""
    whole = [file for file in files if file.name == "model.safetensors"]
    return whole or [file for file in files if file.suffix == ".safetensors"]


def _check_folder(folder: Path, encoded: bytes) -> dict[str, Any]:
    """The settings of a folder, after refusing one that is not a ViTPose, has no safetensors, or
    would need too much memory.

    Args:
        encoded: the content of config.json.
    """
    config = parse_json(folder / "config.json", encoded, "JSON")
    if not isinstance(config, dict):
        raise ValueError(f"{folder}/config.json: expected a JSON object")
    if config.get("model_type") != "vitpose":
        raise ValueError(
            f"{folder}/config.json: expected model_type vitpose, the only supported Hugging Face "
            "model; load any other with package.module:factory (docs/teachers.md)"
        )
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"expected weights in {folder}/*.safetensors, found none; other formats are not read: "
            "write this one with save_pretrained of transformers"
        )
    if config.get("quantization_config") is not None:
        raise ValueError(
            f"{folder}/config.json: expected weights in floating point, found quantization_config"
        )
    for key, limit in MAX_CONFIG.items():
        value = (config.get("backbone_config") or {}).get(key, 1)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int | float) and 0 < v <= limit for v in values):
            raise ValueError(
                f"{folder}/config.json: expected {key} of up to {limit}, found {value}"
            )
    if len(config.get("id2label") or ()) > MAX_JOINTS:
        raise ValueError(f"{folder}/config.json: expected up to {MAX_JOINTS} joints")
    return config


def _spec(folder: Path, config: Any) -> TeacherSpec:
    preprocessor = _read(folder / "preprocessor_config.json", optional=True)
    backbone = config.backbone_config
    input_px = [int(side) for side in backbone.image_size]
    size = preprocessor.get("size")
    if isinstance(size, dict) and [size.get("height"), size.get("width")] != input_px:
        raise ValueError(
            f"{folder}: expected the same input in both files, found {input_px} (height, width) in "
            f"config.json and {size} in preprocessor_config.json"
        )
    unnormalized = preprocessor.get("do_normalize") is False
    try:
        return TeacherSpec.model_validate(
            {
                "input": input_px,
                "joints": _joints(config),
                "stride_px": int(backbone.patch_size[0]) // _head_upsampling(config),
                "mean_rgb": (0, 0, 0) if unnormalized else preprocessor.get("image_mean", MEAN_RGB),
                "std_rgb": (1, 1, 1) if unnormalized else preprocessor.get("image_std", STD_RGB),
                "grid": "corners",
                "sigma_px": SIGMA_PX,
            }
        )
    except ValidationError as error:
        raise ValueError(f"{folder}: {explain(error)}") from None


def _head_upsampling(config: Any) -> int:
    """Heatmap pixels per patch: the classic head has two deconvolutions of stride 2."""
    return int(config.scale_factor) if config.use_simple_decoder else 4


def _joints(config: Any) -> tuple[str, ...]:
    """The joint names in config.json or, if it has none, those of a skeleton of that size."""
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
