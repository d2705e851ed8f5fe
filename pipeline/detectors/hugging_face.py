"""A detector of Hugging Face's transformers: YOLOS, RT-DETR or D-FINE, from a local folder.

The folder is as `save_pretrained` writes it: config.json, preprocessor_config.json and safetensors.
As for ViTPose (`teachers/vitpose.py`), transformers is given settings and tensors that were read
and checked here, not the folder; no code is run, and nothing that the settings name is followed.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from torch import Tensor

from ...data.io.boxes import PERSON
from ...data.io.files import parse_json, read_bytes
from ..teachers.spec import MAX_SPEC_BYTES
from ..teachers.vitpose import MAX_FILE_BYTES, weight_files, without_code
from .detector import People

MODEL_TYPES = ("yolos", "rt_detr", "rt_detr_v2", "d_fine")
"""Values of model_type in config.json. DETR and its kin have backbones of timm, which loads files
that their settings name."""

BACKBONE_TYPES = ("rt_detr_resnet", "hgnet_v2")
"""Values of model_type in the settings of a backbone."""

MAX_NUMBER = 16384
"""Largest size or number in the settings: of pixels, channels, classes; layers are up to 128."""

MAX_LAYERS = 128
MAX_PARAMETERS = 1 << 30
MAX_SIDE_PX = 4096
DEFAULT_SIDE_PX = 1333
"""The longer side of a picture where preprocessor_config.json has none: DETR's."""


class HuggingFaceDetector:
    """A network with its image processor."""

    def __init__(self, folder: Path, network: Any, processor: Any, side_px: int) -> None:
        self.folder, self.network, self.processor = folder, network, processor
        self._side_px = side_px
        self.device = torch.device("cpu")
        names = {int(key): str(name) for key, name in network.config.id2label.items()}
        self.people = [key for key, name in names.items() if name.strip().casefold() == PERSON]
        if not self.people:
            raise ValueError(
                f"{folder}/config.json: expected a class {PERSON!r} in id2label, found "
                f"{', '.join(names.values())[:200]}"
            )

    @property
    def side_px(self) -> int:
        return self._side_px

    def to(self, device: torch.device) -> None:
        self.network.to(device)
        self.device = device

    def __call__(self, image_HW3: NDArray[np.uint8], min_score: float, /) -> People:
        height, width = image_HW3.shape[:2]
        inputs = self.processor(images=[image_HW3], return_tensors="pt").to(self.device)
        with torch.inference_mode():
            outputs = self.network(**inputs)
        [found] = self.processor.post_process_object_detection(
            outputs, threshold=min_score, target_sizes=[(height, width)]
        )
        keep = np.isin(found["labels"].cpu().numpy(), self.people)
        xyxy_N4 = found["boxes"].double().cpu().numpy()[keep]
        xywh_N4 = np.concatenate([xyxy_N4[:, :2], xyxy_N4[:, 2:] - xyxy_N4[:, :2]], -1)
        return People(xywh_N4, found["scores"].double().cpu().numpy()[keep])


def load(folder: Path) -> HuggingFaceDetector:
    """Load a detector from a folder.

    Raises:
        ValueError: transformers is not installed, or the folder has no detector in safetensors.
    """
    settings = _read(folder / "config.json")
    preprocessing = _read(folder / "preprocessor_config.json")
    if settings.get("model_type") not in MODEL_TYPES:
        raise ValueError(
            f"{folder}/config.json: expected model_type {', '.join(MODEL_TYPES)}, found "
            f"{str(settings.get('model_type'))[:80]!r}"
        )
    _check_backbone(folder / "config.json", settings)
    files = weight_files(sorted(folder.glob("*.safetensors")))
    if not files:
        raise ValueError(
            f"expected weights in {folder}/*.safetensors, found none; other formats are not read: "
            "write this one with save_pretrained of transformers"
        )
    _check_numbers(folder / "config.json", settings, MAX_NUMBER)
    _check_numbers(folder / "preprocessor_config.json", preprocessing, MAX_SIDE_PX)
    network = _build(folder, settings, files)
    return HuggingFaceDetector(
        folder, network, _processor(folder, preprocessing), _side_px(preprocessing)
    )


def _read(path: Path) -> dict[str, Any]:
    value = parse_json(path, read_bytes(path, MAX_SPEC_BYTES, "JSON"), "JSON")
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object")
    plain: dict[str, Any] = without_code(value)
    return plain


def _check_backbone(path: Path, settings: dict[str, Any]) -> None:
    """Refuse a backbone that is named, not described: it would be looked for elsewhere."""
    described = settings.get("backbone_config")
    kind = described.get("model_type") if isinstance(described, dict) else None
    named = settings.get("backbone") or settings.get("use_timm_backbone")
    if named or (described is not None and kind not in BACKBONE_TYPES):
        raise ValueError(
            f"{path}: expected a backbone_config of {' or '.join(BACKBONE_TYPES)}, found "
            f"{str(kind or settings.get('backbone') or 'one of timm')[:80]!r}"
        )


def _check_numbers(path: Path, value: Any, most: int, key: str = "") -> None:
    """Refuse settings by which a network would need too much memory."""
    if isinstance(value, dict):
        for name, item in value.items():
            layers = "layers" in name or name in ("depths", "depth")
            _check_numbers(path, item, MAX_LAYERS if layers else most, str(name))
    elif isinstance(value, list):
        for item in value:
            _check_numbers(path, item, most, key)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > most:
        raise ValueError(f"{path}: expected {key:.80} of up to {most}, found {value}")


def _build(folder: Path, settings: dict[str, Any], files: list[Path]) -> Any:
    try:
        from transformers import AutoConfig, AutoModelForObjectDetection
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise _missing(folder, error) from None
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tensors: dict[str, Tensor] = {}
    try:
        for file in files:
            tensors |= load_safetensors(read_bytes(file, MAX_FILE_BYTES, "weights"))
        plain = {key: value for key, value in settings.items() if key != "model_type"}
        # Weights of a backbone are in the file, too: none are downloaded.
        plain["use_pretrained_backbone"] = False
        config = AutoConfig.for_model(settings["model_type"], **plain)
        with torch.device("meta"):
            automatic: Any = AutoModelForObjectDetection
            empty = automatic.from_config(config)
        if sum(weight.numel() for weight in empty.parameters()) > MAX_PARAMETERS:
            raise ValueError(f"expected up to {MAX_PARAMETERS} weights, found more")
        network, info = type(empty).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # of many types, for damage and for other networks
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        raise ValueError(f"{folder} cannot be read as a detector: {reason}") from None
    if info["missing_keys"]:  # transformers would initialize them randomly
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise ValueError(f"{folder} lacks {len(info['missing_keys'])} weights: {some}")
    return network.train(False).requires_grad_(False)


def _processor(folder: Path, preprocessing: dict[str, Any]) -> Any:
    """The image processor, from the checked settings alone."""
    from transformers import AutoImageProcessor
    from transformers.utils import logging as transformers_logging

    automatic: Any = AutoImageProcessor
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(
        logging.ERROR
    )  # it would recommend torchvision for each processor
    try:
        with tempfile.TemporaryDirectory() as alone:
            (Path(alone) / "preprocessor_config.json").write_text(json.dumps(preprocessing))
            return automatic.from_pretrained(alone, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many types
        lines = str(error).strip().splitlines()
        reason = lines[0][:300] if lines else type(error).__name__
        raise ValueError(
            f"{folder}/preprocessor_config.json cannot be read as an image processor's: {reason}"
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)


def _side_px(preprocessing: dict[str, Any]) -> int:
    size = preprocessing.get("size")
    sides = size.values() if isinstance(size, dict) else [size]
    numbers = [side for side in sides if type(side) is int and side > 0]
    return max(numbers, default=DEFAULT_SIDE_PX)


def _missing(folder: Path, error: ImportError) -> ValueError:
    return ValueError(
        f"expected transformers, to load {folder}, found none ({error}): "
        "pip install 'fast-pose-distillation[vitpose]'"
    )
