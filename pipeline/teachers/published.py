"""Specs of published networks, by the digest of their file, its name, and its outputs' names.

    BlazePose   pose_landmark_lite, _full and _heavy.tflite of MediaPipe (Bazarevsky et al., 2020)
    RTMPose     ONNX files of mmdeploy, also RTMW and DWPose: outputs simcc_x and simcc_y
    SimCC       likewise, of mmpose's simcc_res50, simcc_mobilenetv2 and simcc_vipnas
    ViTPose     ONNX files with "vitpose" in their name
    HRNet       ONNX files with "hrnet" or mmpose's "td-hm" in their name

They hold for exports without preprocessing: the input is normalized as in training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...data.skeletons import COCO, MPII

if TYPE_CHECKING:
    from .network_file import Port

Known = dict[str, Any]
"""Keys of a `TeacherSpec`, as JSON."""

_SIDES = ("left", "right")

BLAZEPOSE = (
    "nose",
    *(f"{side} eye{part}" for side in _SIDES for part in (" inner", "", " outer")),
    *(f"{side} ear" for side in _SIDES),
    *(f"mouth {side}" for side in _SIDES),
    *(
        f"{side} {joint}"
        for joint in ("shoulder", "elbow", "wrist", "pinky", "index", "thumb")
        for side in _SIDES
    ),
    *(
        f"{side} {joint}"
        for joint in ("hip", "knee", "ankle", "heel", "foot index")
        for side in _SIDES
    ),
    # 33 and 34: center of the hips, and a point that gives size and rotation of the body.
    *(f"auxiliary {number}" for number in range(33, 39)),
)
"""The 39 landmarks; MediaPipe shows the first 33."""

BLAZEPOSE_FILES = {
    "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f": "full",
    "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe": "heavy",
    "f17bfbecadb61c3be1baa8b8d851cc6619c870a87167b32848ad20db306b9d61": "lite",
}
"""SHA-256 of the files in the npm package @mediapipe/pose 0.5.1675469404."""

HALPE26 = (
    *COCO.joints,
    "head top",
    "neck",
    "pelvis",
    *(f"{side} {part}" for part in ("big toe", "small toe", "heel") for side in _SIDES),
)
"""Halpe's 26 joints, of RTMPose "body26": trained with MPII's upper neck and head top as neck and
head (mmpose, configs/body_2d_keypoint/rtmpose/body8)."""

WHOLEBODY = (
    *COCO.joints,
    *(f"{side} {part}" for side in _SIDES for part in ("big toe", "small toe", "heel")),
    *(f"face {number}" for number in range(1, 69)),
    *(f"{side} hand {number}" for side in _SIDES for number in range(1, 22)),
)
"""COCO-WholeBody's 133 joints."""

NO_JOINT = re.compile(r"auxiliary \d+")
"""Names of outputs that are no joints of a body, and that students need not learn."""

JOINTS = {len(joints): joints for joints in (COCO.joints, HALPE26, WHOLEBODY)}

OTHER_JOINTS = re.compile(
    r"ap-?10k|animal|horse|face|lapa|wflw|hand(?!s)|h36m|h3wb|crowdpose|aic\d"
)
"""Names of networks whose joints are others, although there may be as many."""

SIMCC = re.compile(r"simcc_(res|mobilenet|vipnas)")
SIMCC_SIGMA = 6.0
"""mmpose, configs/body_2d_keypoint/simcc: sigma of the labels, bins."""


def from_shapes(input_shape: Sequence[int | None], outputs: Sequence[Port]) -> Known:
    """What the shapes of a network's input and output determine.

    Args:
        input_shape: None where a size is free.
    """
    if len(input_shape) != 4:
        return {}
    known: Known = {}
    channels_last = input_shape[3] == 3 and input_shape[1] != 3
    known["layout"] = "NHWC" if channels_last else "NCHW"
    height, width = (input_shape[1:3] if channels_last else input_shape[2:4])[:2]
    if height is None or width is None:
        return known
    known["input"] = [height, width]
    maps = [port.shape for port in outputs if len(port.shape) == 4]
    if len(maps) == 1:
        map_height = maps[0][1] if channels_last else maps[0][2]
        if map_height and height % map_height == 0:
            known["stride_px"] = height // map_height
    return known


def find(
    name: str, digest: str, input_shape: Sequence[int | None], outputs: Sequence[Port]
) -> Known:
    """The spec of a published network, as far as it is known; empty: it is none of them.

    Args:
        name: of the file, with its folders; those nearest to the file count first.
        digest: SHA-256 of the file, in hexadecimal.
        input_shape: None where a size is free.
    """
    parts = [part for part in reversed(re.split(r"[/\\:]", name.lower())) if part][:4]
    shapes = {port.name: port.shape for port in outputs}
    if digest in BLAZEPOSE_FILES or _looks_like_blazepose(parts, shapes):
        return _blazepose()
    if {"simcc_x", "simcc_y"} <= shapes.keys():
        return _simcc(parts, input_shape, shapes)
    for part in parts:
        if "vitpose" in part:
            return _heatmaps(parts, outputs, {"grid": "corners", "sigma_px": 2})
        if "hrnet" in part or "td-hm" in part:
            grid = "corners" if "udp" in part else "origin"
            # HRNet's and mmpose's configs: sigma 2 for 256 x 192 and 256 x 256, 3 for 384 x 288.
            sigma_px = 3 if input_shape[2:3] == (384,) else 2
            return _heatmaps(parts, outputs, {"grid": grid, "sigma_px": sigma_px})
    return {}


def _looks_like_blazepose(parts: list[str], shapes: dict[str, tuple[int | None, ...]]) -> bool:
    named = any(re.match(r"pose_landmarks?_", part) for part in parts[:1])
    return named and shapes.get("Identity_3") == (1, 64, 64, len(BLAZEPOSE))


def _blazepose() -> Known:
    return {
        "head": "logits",
        "output": "Identity_3",
        "joints": list(BLAZEPOSE),
        "mean_rgb": [0, 0, 0],
        "std_rgb": [1, 1, 1],
        # Measured on LSP's test images: sigma by the curvature of confident peaks, and where labels
        # are, 4 x heatmap pixel - 0.5 (MediaPipe: column / width is a position of 0..1).
        "sigma_px": 1.6,
        "grid": "origin",
        "body_points": ["auxiliary 33", "auxiliary 34"],
    }


def _simcc(
    parts: list[str],
    input_shape: Sequence[int | None],
    shapes: dict[str, tuple[int | None, ...]],
) -> Known:
    known: Known = {"head": "simcc", "output": ["simcc_x", "simcc_y"]}
    if any(SIMCC.search(part) for part in parts):
        known |= {"head": "simcc-logits", "sigma_px": SIMCC_SIGMA}
    shape = shapes["simcc_x"]
    bins = shape[-1] if len(shape) == 3 else None
    width = input_shape[3] if len(input_shape) == 4 else None
    if bins and width:
        known["split_ratio"] = bins / width
    return known | _joints(parts, shape[1] if len(shape) == 3 else None)


def _heatmaps(parts: list[str], outputs: Sequence[Port], known: Known) -> Known:
    counts = {port.shape[1] for port in outputs if len(port.shape) == 4}
    return known | _joints(parts, counts.pop() if len(counts) == 1 else None)


def _joints(parts: list[str], count: int | None) -> Known:
    """The joints, by their number, unless the name tells of others."""
    if count == MPII.num_joints and any("mpii" in part for part in parts):
        return {"joints": list(MPII.joints)}
    if count not in JOINTS or any(OTHER_JOINTS.search(part) for part in parts):
        return {}
    return {"joints": list(JOINTS[count])}
