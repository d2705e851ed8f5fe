"""Teachers combined on the store's grid: joints by name, means, flip averaging."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpd.data.geometry import Geometry
from fpd.data.heatmap_codec import flip_heatmaps
from fpd.data.skeletons import LSP
from fpd.pipeline.teachers import TeacherSpec, covered_joints, ensemble_predictor

CPU = torch.device("cpu")
GEOMETRY = Geometry(crop_px=64)


def spec_of(*joints: str, **changes: object) -> TeacherSpec:
    return TeacherSpec.model_validate({"input": (64, 64), "joints": joints} | changes)


class ConstantTeacher:
    """One value per joint, in every pixel."""

    digest = "constant"

    def __init__(self, spec: TeacherSpec, *values: float) -> None:
        self.spec, self.values = spec, torch.tensor(values)

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        return self.values[None, :, None, None].expand(len(crops_B3HW), -1, *self.spec.heatmap)


class BrightnessTeacher:
    """The brightness of the crop, times a factor that depends on the joint."""

    digest = "brightness"

    def __init__(self, spec: TeacherSpec) -> None:
        self.spec = spec

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        gray = torch.nn.functional.avg_pool2d(crops_B3HW.mean(1, keepdim=True), self.spec.stride_px)
        return gray * (1 + torch.arange(len(self.spec.joints)))[None, :, None, None]


@pytest.fixture
def crops() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=generator)


def test_heatmaps_are_assigned_by_joint_name(crops: Tensor) -> None:
    spec = spec_of("nose", "R_Ankle", "upper_neck", "left wrist")
    predictor = ensemble_predictor(
        [ConstantTeacher(spec, 9, 1, 2, 3)], LSP, GEOMETRY, CPU, averaged=False
    )
    heatmaps = predictor(crops)
    assert heatmaps.shape == (3, 14, 16, 16)
    assert heatmaps.dtype == torch.float32
    expected = torch.zeros(14)
    expected[LSP.joints.index("right ankle")] = 1
    expected[LSP.joints.index("neck")] = 2
    expected[LSP.joints.index("left wrist")] = 3
    torch.testing.assert_close(heatmaps[1, :, 4, 5], expected)


def test_heatmaps_are_averaged_over_the_teachers_that_cover_a_joint(crops: Tensor) -> None:
    first = ConstantTeacher(spec_of("neck", "head top"), 1, 2)
    second = ConstantTeacher(spec_of("head top", "left hip", input=(128, 96), peak=10.0), 60, 7)
    heatmaps = ensemble_predictor([first, second], LSP, GEOMETRY, CPU, averaged=False)(crops)
    values = {name: heatmaps[0, k, 8, 8].item() for k, name in enumerate(LSP.joints)}
    assert values.pop("neck") == 1
    assert values.pop("head top") == pytest.approx((2 + 6) / 2)
    assert values.pop("left hip") == pytest.approx(0.7)
    assert set(values.values()) == {0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"grid": "origin", "input": (128, 96)},
        {"grid": "corners", "input": (97, 64), "stride_px": 1},
    ],
)
def test_averaged_heatmaps_of_flipped_crops_are_flipped_heatmaps(
    crops: Tensor, changes: dict[str, object]
) -> None:
    teacher = BrightnessTeacher(spec_of(*LSP.joints, **changes))
    plain = ensemble_predictor([teacher], LSP, GEOMETRY, CPU, averaged=False)
    averaged = ensemble_predictor([teacher], LSP, GEOMETRY, CPU, averaged=True)
    flipped = crops.flip(2)
    torch.testing.assert_close(averaged(flipped), flip_heatmaps(averaged(crops), LSP.flip_indices))
    expected = (plain(crops) + flip_heatmaps(plain(flipped), LSP.flip_indices)) / 2
    torch.testing.assert_close(averaged(crops), expected)
    assert not torch.allclose(
        plain(flipped), flip_heatmaps(plain(crops), LSP.flip_indices), atol=0.1
    )


def test_flip_averaging_covers_a_joint_only_together_with_its_counterpart(crops: Tensor) -> None:
    spec = spec_of("left knee", "neck", "left hip", "right hip")
    assert covered_joints([spec], LSP, averaged=False) == (
        *("right hip", "left hip", "left knee", "neck"),
    )
    assert covered_joints([spec], LSP, averaged=True) == ("right hip", "left hip", "neck")
    predictor = ensemble_predictor(
        [ConstantTeacher(spec, 1, 1, 1, 1)], LSP, GEOMETRY, CPU, averaged=True
    )
    nonzero = predictor(crops)[0].flatten(1).any(1)
    covered = {name for name, any_ in zip(LSP.joints, nonzero, strict=True) if any_}
    assert covered == {"right hip", "left hip", "neck"}


def test_a_teacher_without_any_of_the_joints_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"joints of lsp \(right ankle, .*, head top\), found one with tail: no name",
    ):
        covered_joints([spec_of("neck"), spec_of("tail")], LSP, averaged=False)


def test_heatmaps_of_another_shape_are_refused(crops: Tensor) -> None:
    spec = spec_of("neck", "head top")
    with pytest.raises(ValueError, match=r"\(3, 2, 16, 16\).* found \(3, 3, 16, 16\)"):
        ensemble_predictor([ConstantTeacher(spec, 1, 2, 3)], LSP, GEOMETRY, CPU, averaged=False)(
            crops
        )
