"""Published stacked hourglasses, in the files that their authors' code writes.

    fpd cache-heatmaps --teacher ilovepose:models/mpii_hg8.pth

Three projects share one set of parameter names (bearpaw's), which `models/hourglass.py` uses with
`stem="ports"`; stages, channels, blocks, depth and joints are read from the tensors' shapes. The
projects differ in how they normalize crops and where they place joints in heatmaps; see `LAYOUTS`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from ...data.io.files import read_bytes
from ...data.skeletons import MPII
from ..models.hourglass import Hourglass, StemWidths, stem_widths
from ..models.settings import HourglassSettings
from ..runtime.zip_files import is_zip, read_members, repack
from .spec import TeacherSpec, explain, read_spec

SUFFIXES = (".safetensors", ".pth", ".pt", ".tar")
MAX_FILE_BYTES = 4 << 30
"""The weights of 8 x 256, the paper's teacher, have 0.1 GB; with an optimizer's state, 0.3 GB."""

_BEARPAW = TeacherSpec(
    # pose/datasets/mpii.py of pytorch-pose: 256 in, 64 out, sigma 1; pose/utils/transforms.py
    # subtracts the mean (from data/mpii/mean.pth.tar) but does not divide. Its targets are
    # truncated to whole pixels: on average 1/8 heatmap pixel away from the half-pixel convention.
    input=(256, 256),
    joints=MPII.joints,
    mean_rgb=(0.4404, 0.4440, 0.4327),
    std_rgb=(1.0, 1.0, 1.0),
    sigma_px=1.0,
)

LAYOUTS = {
    # experiments/fpd_mpii/hourglass/*.yaml: 256 x 256, sigma 2, COLOR_RGB false: OpenCV's channel
    # order (blue, green, red), normalized by ImageNet's statistics in the order red, green, blue.
    "ilovepose": TeacherSpec(
        input=(256, 256),
        joints=MPII.joints,
        mean_rgb=(0.406, 0.456, 0.485),
        std_rgb=(0.225, 0.224, 0.229),
        channels="bgr",
        grid="origin",
        sigma_px=2.0,
    ),
    "pytorch-pose": _BEARPAW,
    "anibali": _BEARPAW,  # has pytorch-pose's weights and normalization
}
"""The spec of each project's MPII models. For other models, `FILE.json` has the spec."""

# Keys that only one project's training code saves with the weights (tools/fpd_train.py,
# example/main.py).
LAYOUT_KEYS = {"best_state_dict": "ilovepose", "perf": "ilovepose", "best_acc": "pytorch-pose"}


class HourglassTeacher:
    """A stacked hourglass with the spec of the project that trained it."""

    def __init__(self, network: Hourglass, spec: TeacherSpec, digest: str) -> None:
        self.network, self.spec, self.digest = network, spec, digest

    def to(self, device: torch.device) -> HourglassTeacher:
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        heatmaps: Tensor = self.network(crops_B3HW)[-1]
        return heatmaps


def load(path: Path, layout: str | None) -> HourglassTeacher:
    """Load a published hourglass. A spec in `FILE.json` takes precedence over the layout.

    Args:
        layout: a key of `LAYOUTS`; None: determined by the file's keys.

    Raises:
        ValueError: the file would have to be unpickled, is not a stacked hourglass, or does not
            determine a layout.
    """
    file = _read(path)
    network = _build(path, file.tensors)
    spec = _spec(path, layout or file.layout, len(network.score[0].bias))  # type: ignore[arg-type]
    return HourglassTeacher(network.eval(), spec, file.digest)


@dataclass(frozen=True)
class _File:
    tensors: dict[str, Tensor]
    layout: str | None
    digest: str


def _read(path: Path) -> _File:
    """The tensors of a file by name, without the prefix of torch.nn.DataParallel."""
    encoded = read_bytes(path, MAX_FILE_BYTES, "a stacked hourglass")
    content = _parse(path, encoded)
    layout = next((LAYOUT_KEYS[key] for key in LAYOUT_KEYS if key in content), None)
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: expected tensors by name under 'state_dict', found none")
    tensors = {
        str(name).removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    return _File(tensors, layout, hashlib.sha256(encoded).hexdigest())


def _parse(path: Path, encoded: bytes) -> Mapping[str, Any]:
    file = io.BytesIO(encoded)
    if is_zip(encoded) and path.suffix != ".safetensors":
        # PyTorch could see other members in the file than those whose size is checked here.
        try:
            file = repack(read_members(encoded, MAX_FILE_BYTES))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as plain tensors: {error}") from None
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(encoded)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, for damage and for refused pickles
        raise ValueError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}); if you trust "
            "it, convert it to a .safetensors file as docs/teachers.md shows"
        ) from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected tensors by name, found a {type(content).__name__}")
    return content


def _build(path: Path, tensors: dict[str, Tensor]) -> Hourglass:
    """Build the network whose tensors a file has; it shares their memory."""
    try:
        settings, joints = _settings(tensors)
    except (KeyError, ValidationError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else f"no {error.args[0]}"
        raise ValueError(
            f"{path}: expected a stacked hourglass with the parameter names of bearpaw's "
            f"pytorch-pose, found {len(tensors)} tensors of another network ({reason})"
        ) from None
    with torch.device("meta"):  # sizes from the file are not trusted: nothing is allocated
        network = settings.build(joints)
    _check_shapes(path, network, tensors)
    counters = {
        name: torch.zeros((), dtype=torch.long)
        for name in network.state_dict()
        if name.endswith("num_batches_tracked")  # PyTorch before 0.4.1 did not save these
    }
    network.load_state_dict(counters | tensors, assign=True)
    return network.requires_grad_(False)


def _settings(tensors: Mapping[str, Tensor]) -> tuple[HourglassSettings, int]:
    """The network's settings and number of joints, from names and shapes."""
    score = tensors["score.0.weight"]
    widths = StemWidths(
        *(
            len(tensors[name])
            for name in ("conv1.weight", *(f"layer{i}.0.conv3.weight" for i in (1, 2, 3)))
        )
    )
    sizes = {
        "stages": _count(tensors, r"score\.(\d+)\.weight"),
        "channels": score.shape[1] if score.ndim == 4 else 0,
        "blocks": _count(tensors, r"res\.0\.(\d+)\.conv1\.weight"),
        "depth": _count(tensors, r"hg\.0\.hg\.(\d+)\.0\.0\.conv1\.weight"),
    }
    settings = HourglassSettings.model_validate(sizes | {"stem": "ports"})
    if stem_widths(settings) != widths:
        settings = HourglassSettings.model_validate(sizes | {"stem": "newell"})
    return settings, len(score)


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in tensors if (match := re.fullmatch(pattern, name))})


def _check_shapes(path: Path, network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    actual = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | actual.keys()):
        optional = name.endswith("num_batches_tracked")
        if expected.get(name) != actual.get(name) and not (optional and name not in actual):
            raise ValueError(
                f"{path}: expected {name} of shape {expected.get(name, 'none')} in a stacked "
                f"hourglass, found {actual.get(name, 'none')}"
            )


def _spec(path: Path, layout: str | None, joints: int) -> TeacherSpec:
    spec_path = path.with_name(path.name + ".json")
    if spec_path.is_file():
        spec = read_spec(spec_path)
        if len(spec.joints) != joints:
            raise ValueError(
                f"{spec_path}: expected the names of {joints} joints, found {len(spec.joints)}"
            )
        return spec
    if layout is None:
        choices = ", ".join(f"{name}:{path}" for name in LAYOUTS)
        raise ValueError(
            f"{path}: expected a file that shows which project trained it, and so how crops are "
            f"normalized, found none of their keys: give --teacher as one of {choices}; or write "
            f"its spec to {spec_path} (docs/teachers.md)"
        )
    if joints != MPII.num_joints:
        raise ValueError(
            f"{path}: expected an MPII model of {layout} with {MPII.num_joints} joints, found "
            f"{joints} joints: write its spec to {spec_path} (docs/teachers.md)"
        )
    return LAYOUTS[layout]
