"""Specs of published networks: by digest, file name, folder and outputs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fpd.data.skeletons import COCO, LSP, MPII
from fpd.pipeline.teachers import TeacherSpec
from fpd.pipeline.teachers.joint_names import find_joints
from fpd.pipeline.teachers.network_file import Port
from fpd.pipeline.teachers.published import (
    BLAZEPOSE,
    BLAZEPOSE_FILES,
    HALPE26,
    WHOLEBODY,
    find,
    from_shapes,
)

NCHW = (None, 3, 256, 192)


def spec(name: str, outputs: list[Port], shape: Any = NCHW, digest: str = "") -> TeacherSpec:
    known = from_shapes(shape, outputs) | find(name, digest, shape, outputs)
    return TeacherSpec.model_validate_json(json.dumps(known))


def simcc(joints: int, ratio: int = 2) -> list[Port]:
    return [
        Port("simcc_x", (None, joints, 192 * ratio)),
        Port("simcc_y", (None, joints, 256 * ratio)),
    ]


def maps(joints: int, height: int = 64, width: int = 48) -> list[Port]:
    return [Port("output", (None, joints, height, width))]


@pytest.mark.parametrize(
    ("name", "joints"),
    [
        ("rtmpose-m_simcc-body7_pt-body7_420e-256x192/end2end.onnx", COCO.joints),
        ("hf:somebody/RTMPose/rtmpose-s.onnx", COCO.joints),
        ("end2end.onnx", COCO.joints),
        ("rtmpose-x_body26.onnx", HALPE26),
        ("rtmw-l_cocktail14.onnx", WHOLEBODY),
        ("dw-ll_ucoco_384.onnx", WHOLEBODY),
    ],
)
def test_rtmpose(name: str, joints: tuple[str, ...]) -> None:
    found = spec(name, simcc(len(joints)))
    assert (found.head, found.joints, found.split_ratio) == ("simcc", joints, 2)
    assert found.output == ("simcc_x", "simcc_y") and found.bins == (512, 384)
    assert found.mean_rgb == (0.485, 0.456, 0.406) and found.channels == "rgb"


def test_simcc_of_the_first_kind() -> None:
    found = spec("simcc_res50_8xb64-210e_coco-256x192/end2end.onnx", simcc(17, 3))
    assert (found.head, found.sigma_px, found.split_ratio) == ("simcc-logits", 6, 3)


@pytest.mark.parametrize("name", ["rtmpose-m_ap10k.onnx", "rtmpose_hand5.onnx"])
def test_networks_of_other_joints_are_left_to_a_spec(name: str) -> None:
    assert "joints" not in find(name, "", NCHW, simcc(17))


@pytest.mark.parametrize(
    ("name", "joints", "grid", "sigma"),
    [
        ("vitpose-b-coco.onnx", 17, "corners", 2),
        ("hf:onnx-community/vitpose-base-simple/onnx/model.onnx", 17, "corners", 2),
        ("pose_hrnet_w32_256x192.onnx", 17, "origin", 2),
        ("td-hm_hrnet-w48_udp-8xb32-210e_coco-256x192.onnx", 17, "corners", 2),
        ("hrnet_w32_mpii/model.onnx", 16, "origin", 2),
    ],
)
def test_heatmaps(name: str, joints: int, grid: str, sigma: float) -> None:
    found = spec(name, maps(joints))
    assert (found.head, found.grid, found.sigma_px) == ("heatmaps", grid, sigma)
    assert found.joints == (MPII.joints if joints == 16 else COCO.joints)
    assert found.heatmap == (64, 48)


def test_the_file_counts_before_its_folders() -> None:
    assert spec("vitpose-against-hrnet/hrnet.onnx", maps(17)).grid == "origin"
    assert spec("hrnet.onnx", maps(17, 96, 72), (1, 3, 384, 288)).sigma_px == 3


def test_unknown_networks_have_what_their_shapes_determine() -> None:
    assert find("model.onnx", "", NCHW, maps(17)) == {}
    assert from_shapes(NCHW, maps(17)) == {"layout": "NCHW", "input": [256, 192], "stride_px": 4}
    nhwc = from_shapes((1, 192, 160, 3), [Port("x", (1, 96, 80, 17))])
    assert nhwc == {"layout": "NHWC", "input": [192, 160], "stride_px": 2}
    assert from_shapes((None, 3, None, None), maps(17)) == {"layout": "NCHW"}
    assert from_shapes((1, 5), []) == {}


def test_blazepose_by_digest_and_by_name() -> None:
    ports = [Port("Identity", (1, 195)), Port("Identity_3", (1, 64, 64, 39))]
    shape = (1, 256, 256, 3)
    for name, digest in (
        ("x", next(iter(BLAZEPOSE_FILES))),
        ("pose_landmarks_detector.tflite", ""),
    ):
        found = spec(name, ports, shape, digest)
        assert (found.head, found.output, found.layout) == ("logits", ("Identity_3",), "NHWC")
        assert (found.mean_rgb, found.std_rgb) == ((0, 0, 0), (1, 1, 1))
        assert found.body_points == ("auxiliary 33", "auxiliary 34") and found.box_factor == 1
        # Stores of upright crops do not depend on the points, and may be older than they are.
        assert "body_points" not in found.manifest_entry()
        assert "body_points" in found.manifest_entry(with_body_points=True)
    assert find("pose_landmarks_detector.tflite", "", shape, ports[:1]) == {}
    # The README of the data has these: left first.
    numbers = {"nose": 0, "left ear": 7, "right ear": 8, "left shoulder": 11, "right wrist": 16}
    numbers |= {"left hip": 23, "right hip": 24, "left knee": 25, "right ankle": 28}
    assert {name: BLAZEPOSE.index(name) for name in numbers} == numbers
    assert len(BLAZEPOSE) == 39
    assert sum(index is not None for index in find_joints(LSP.joints, BLAZEPOSE)) == 12


def test_the_joints_of_larger_sets() -> None:
    assert (len(HALPE26), len(WHOLEBODY)) == (26, 133)
    assert len(set(WHOLEBODY)) == 133
    assert all(index is not None for index in find_joints(LSP.joints, HALPE26))
    assert WHOLEBODY[17:23] == (
        *("left big toe", "left small toe", "left heel"),
        *("right big toe", "right small toe", "right heel"),
    )
    assert HALPE26[20:26] == (
        *("left big toe", "right big toe", "left small toe", "right small toe"),
        *("left heel", "right heel"),
    )
