"""YOLO exports: files with the inputs and outputs of Ultralytics', and boxes of our choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fpd.pipeline.detectors.yolo import distinct, letterbox, load

onnx = pytest.importorskip("onnx", reason="YOLO exports are ONNX files")
pytest.importorskip("onnxruntime", reason="YOLO exports are run by onnxruntime")

SIDE = 64


def write_yolo(path: Path, output: NDArray[np.float32], side: int | str = SIDE) -> Path:
    """A network that computes `output`, whatever the picture shows."""
    from onnx import TensorProto, helper, numpy_helper

    float32 = TensorProto.FLOAT
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["boxes", "nothing"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "yolo",
        [helper.make_tensor_value_info("images", float32, [1, 3, side, side])],
        [helper.make_tensor_value_info("output0", float32, list(output.shape))],
        [
            numpy_helper.from_array(output, "boxes"),
            numpy_helper.from_array(np.zeros((), np.float32), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def raw(*boxes: tuple[Any, ...], classes: int = 80) -> NDArray[np.float32]:
    """A raw output of boxes (cx, cy, w, h, class, score), and of eight empty ones."""
    values = np.zeros((1, 4 + classes, len(boxes) + 8), np.float32)
    for n, (cx, cy, w, h, number, score) in enumerate(boxes):
        values[0, :4, n] = cx, cy, w, h
        values[0, 4 + number, n] = score
    return values


PICTURE = np.zeros((100, 200, 3), np.uint8)
"""Letterboxed into 64 x 64 at a scale of 0.32: rows 16 to 48."""


def test_people_of_a_raw_output_are_in_the_pictures_pixels(tmp_path: Path) -> None:
    output = raw(
        (32, 32, 32, 16, 0, 0.9),
        (33, 32, 32, 16, 0, 0.8),  # the same person
        (8, 24, 8, 8, 0, 0.5),
        (8, 40, 8, 8, 2, 0.9),  # a car
        (50, 40, 8, 8, 0, 0.1),
    )
    detector = load(write_yolo(tmp_path / "yolo.onnx", output))
    people = detector(PICTURE, 0.3)
    assert detector.side_px == SIDE
    np.testing.assert_allclose(people.score_N, [0.9, 0.5], atol=1e-6)
    np.testing.assert_allclose(people.xywh_N4, [[50, 25, 100, 50], [12.5, 12.5, 25, 25]], atol=1e-4)


@pytest.mark.parametrize("classes", [1, 52])
def test_networks_of_one_class_have_the_score_in_the_fifth_value(
    tmp_path: Path, classes: int
) -> None:
    output = raw((32, 32, 32, 16, 0, 0.9), classes=classes)
    output[0, 5:] = 40  # keypoints
    people = load(write_yolo(tmp_path / "pose.onnx", output))(PICTURE, 0.3)
    np.testing.assert_allclose(people.xywh_N4, [[50, 25, 100, 50]], atol=1e-4)


def test_an_output_after_suppression_is_taken_as_it_is(tmp_path: Path) -> None:
    output = np.zeros((1, 300, 6), np.float32)
    output[0, 0] = 16, 24, 48, 40, 0.9, 0
    output[0, 1] = 17, 24, 49, 40, 0.8, 0
    output[0, 2] = 0, 16, 8, 24, 0.9, 5
    people = load(write_yolo(tmp_path / "final.onnx", output))(PICTURE, 0.3)
    np.testing.assert_allclose(people.xywh_N4[0], [50, 25, 100, 50], atol=1e-4)
    assert len(people.score_N) == 2


def test_a_free_input_gets_the_usual_side(tmp_path: Path) -> None:
    detector = load(write_yolo(tmp_path / "yolo.onnx", raw((320, 320, 64, 64, 0, 1)), "side"))
    assert detector.side_px == 640
    assert detector(PICTURE, 0.3).xywh_N4[0, 2] == pytest.approx(20)


def test_a_picture_without_people_has_none(tmp_path: Path) -> None:
    people = load(write_yolo(tmp_path / "yolo.onnx", raw()))(PICTURE, 0.3)
    assert people.xywh_N4.shape == (0, 4) and len(people.score_N) == 0


def test_letterbox_keeps_the_aspect_ratio() -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    inputs, scale, edge = letterbox(image, 64, 64)
    assert inputs.shape == (1, 3, 64, 64) and scale == 0.32 and edge == (0, 16)
    assert (inputs[0, :, 16:48] == 1).all() and (inputs[0, :, :16] == np.float32(114 / 255)).all()


def test_boxes_that_overlap_little_are_different_people() -> None:
    xywh = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [0.5, 0, 10, 10]], np.float64)
    assert distinct(xywh, np.array([0.5, 0.9, 0.7])).tolist() == [1, 2]


@pytest.mark.parametrize("shape", [(1, 84), (1, 7, 30), (1, 3, 4, 4)])
def test_other_outputs_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_yolo(tmp_path / "other.onnx", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"expected the output of a YOLO export, .*found output0"):
        load(path)


def test_other_inputs_are_refused(tmp_path: Path) -> None:
    path = write_yolo(tmp_path / "large.onnx", raw(), 8192)
    with pytest.raises(ValueError, match="expected a YOLO export with an input of 1 x 3 x 640"):
        load(path)
