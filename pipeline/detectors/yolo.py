"""YOLO as Ultralytics exports it to ONNX (YOLOv8, YOLO11 and kin), for COCO's classes or people.

    input      float32 (1, 3, H, W), RGB in 0..1; the picture is letterboxed in gray
    output     (1, 4 + C, N): cx, cy, w, h in input pixels, and the score of each of C classes
               (C = 80, or 1), or (1, 56, N) of a pose network, with one score and 17 keypoints
    or         (1, N, 6): x1, y1, x2, y2, score, class, after non-maximum suppression

Class 0 is a person. https://docs.ultralytics.com/modes/export/
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..teachers.network_file import Network, describe
from ..teachers.onnx_file import load_network
from .detector import People

DEFAULT_SIDE_PX = 640
MAX_SIDE_PX = 4096
GRAY = 114
"""Fills the letterbox (ultralytics, data/augment.py, LetterBox)."""

BOX_VALUES, PERSON_SCORE = 4, 4
ROWS = {84: "COCO's 80 classes", 5: "one class", 56: "one class and 17 keypoints"}
"""Values of a box, with what they are: a person's score is the fifth in all."""

FINAL_VALUES, FINAL_SCORE, FINAL_CLASS = 6, 4, 5

MAX_IOU = 0.7
"""Of two boxes that overlap more, the one with the lower score is left out (ultralytics,
cfg/default.yaml, iou)."""

MAX_CANDIDATES = 1000
"""Boxes that are compared with each other; ultralytics keeps up to 300 of a picture."""


class Yolo:
    """A YOLO network in a vetted ONNX file."""

    def __init__(self, path: Path, network: Network) -> None:
        self.path, self.network = path, network
        self.height, self.width = _input_size(path, network)
        self.name, self.is_final = _output(path, network)

    @property
    def side_px(self) -> int:
        return max(self.height, self.width)

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def __call__(self, image_HW3: NDArray[np.uint8], min_score: float, /) -> People:
        inputs_13HW, scale, (left, top) = letterbox(image_HW3, self.height, self.width)
        try:
            [output] = self.network.run(inputs_13HW, [self.name])
        except Exception as error:  # of many types
            raise ValueError(f"{self.path} cannot be run: {str(error)[:300]}") from None
        values = output.reshape(output.shape[-2:]).astype(np.float64)
        people = final_people(values) if self.is_final else raw_people(values)
        keep_N = (people.score_N >= min_score) & np.isfinite(people.xywh_N4).all(-1)
        keep = np.flatnonzero(keep_N)
        if not self.is_final:
            keep = keep[distinct(people.xywh_N4[keep], people.score_N[keep])]
        xywh_N4 = (people.xywh_N4[keep] - [left, top, 0, 0]) / scale
        return People(xywh_N4, people.score_N[keep])


def load(path: Path, *, root: Path | None = None) -> Yolo:
    """Load an ONNX file, vetted as a teacher's is.

    Raises:
        ValueError: it is damaged or hostile, or has other inputs and outputs than YOLO's.
    """
    network, _ = load_network(path, root=root)
    return Yolo(path, network)


def _input_size(path: Path, network: Network) -> tuple[int, int]:
    shape = network.input.shape
    fits = len(shape) == 4 and shape[0] in (1, None) and shape[1] in (3, None)
    height, width = shape[2:] if fits else (0, 0)
    height, width = height or DEFAULT_SIDE_PX, width or DEFAULT_SIDE_PX
    if not fits or max(height, width) > MAX_SIDE_PX:
        raise ValueError(
            f"{path}: expected a YOLO export with an input of 1 x 3 x {DEFAULT_SIDE_PX} x "
            f"{DEFAULT_SIDE_PX} or other sides up to {MAX_SIDE_PX}, found "
            f"{describe([network.input])}"
        )
    return height, width


def _output(path: Path, network: Network) -> tuple[str, bool]:
    """The name of the output, and whether its boxes are after non-maximum suppression."""
    if len(network.outputs) == 1 and len(network.outputs[0].shape) == 3:
        name, (_, rows, columns) = network.outputs[0]
        if columns == FINAL_VALUES:
            return name, True
        if rows in ROWS:
            return name, False
    listed = ", ".join(f"1 x {rows} x N ({what})" for rows, what in ROWS.items())
    raise ValueError(
        f"{path}: expected the output of a YOLO export, {listed} or 1 x N x {FINAL_VALUES}, found "
        f"{describe(network.outputs)}"
    )


def letterbox(
    image_HW3: NDArray[np.uint8], height: int, width: int
) -> tuple[NDArray[np.float32], float, tuple[int, int]]:
    """Fit a picture into the input, centered.

    Returns:
        float32 (1, 3, height, width) in 0..1; input pixels per pixel of the picture; the picture's
        left and top edge in the input.
    """
    rows, columns = image_HW3.shape[:2]
    scale = min(height / rows, width / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    canvas = np.full((height, width, 3), GRAY, np.uint8)
    resized = cv2.resize(image_HW3, size, interpolation=cv2.INTER_LINEAR)
    canvas[top : top + size[1], left : left + size[0]] = resized
    inputs = canvas.transpose(2, 0, 1)[None].astype(np.float32) / 255
    return np.ascontiguousarray(inputs), scale, (left, top)


def raw_people(values_CN: NDArray[np.float64]) -> People:
    """The candidates of a raw output (4 + classes, N) whose best class is a person."""
    cx, cy, w, h = values_CN[:BOX_VALUES]
    classes = values_CN[PERSON_SCORE:] if len(values_CN) == max(ROWS) else values_CN[4:5]
    is_person = classes.argmax(0) == 0
    xywh_N4 = np.stack([cx - w / 2, cy - h / 2, w, h], -1)
    return People(xywh_N4[is_person], classes[0, is_person])


def final_people(values_N6: NDArray[np.float64]) -> People:
    """The people of an output after non-maximum suppression."""
    values_N6 = values_N6[values_N6[:, FINAL_CLASS] == 0]
    x1, y1, x2, y2 = values_N6[:, :4].T
    return People(np.stack([x1, y1, x2 - x1, y2 - y1], -1), values_N6[:, FINAL_SCORE])


def distinct(xywh_N4: NDArray[np.float64], score_N: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the boxes that no better one overlaps by more than `MAX_IOU`, best first."""
    best = np.argsort(-score_N, kind="stable")[:MAX_CANDIDATES]
    kept = cv2.dnn.NMSBoxes(xywh_N4[best].tolist(), score_N[best].tolist(), 0.0, MAX_IOU)
    return best[np.asarray(kept, np.int64).ravel()]
