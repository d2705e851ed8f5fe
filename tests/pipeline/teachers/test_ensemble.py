"""Teachers asked on the store's grid: joints by name, means, mirrored twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpd.data.heatmap_codec import flip_heatmaps
from fpd.data.skeletons import LSP
from fpd.data.views import Geometry
from fpd.pipeline.teachers import TeacherSpec, covered_joints, ensemble_predictor

CPU = torch.device("cpu")
GEOMETRY = Geometry(crop_px=64)


def spec_of(*joints: str, **changes: object) -> TeacherSpec:
    return TeacherSpec.model_validate({"input": (64, 64), "joints": joints} | changes)


class Flat:
    """Says a number for each joint, everywhere."""

    digest = "flat"

    def __init__(self, spec: TeacherSpec, *values: float) -> None:
        self.spec, self.values = spec, torch.tensor(values)

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        return self.values[None, :, None, None].expand(len(crops_B3HW), -1, *self.spec.heatmap)


class Bright:
    """Says for each joint how bright the crop is there, times a number of its own."""

    digest = "bright"

    def __init__(self, spec: TeacherSpec) -> None:
        self.spec = spec

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        gray = torch.nn.functional.avg_pool2d(crops_B3HW.mean(1, keepdim=True), self.spec.stride_px)
        return gray * (1 + torch.arange(len(self.spec.joints)))[None, :, None, None]


@pytest.fixture
def crops() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=generator)


def test_maps_go_to_the_joints_of_their_names(crops: Tensor) -> None:
    spec = spec_of("nose", "R_Ankle", "upper_neck", "left wrist")
    predictor = ensemble_predictor([Flat(spec, 9, 1, 2, 3)], LSP, GEOMETRY, CPU, averaged=False)
    said = predictor(crops)
    assert said.shape == (3, 14, 16, 16)
    assert said.dtype == torch.float32
    expected = torch.zeros(14)
    expected[LSP.joints.index("right ankle")] = 1
    expected[LSP.joints.index("neck")] = 2
    expected[LSP.joints.index("left wrist")] = 3
    torch.testing.assert_close(said[1, :, 4, 5], expected)


def test_several_are_averaged_over_those_who_know_the_joint(crops: Tensor) -> None:
    first = Flat(spec_of("neck", "head top"), 1, 2)
    second = Flat(spec_of("head top", "left hip", input=(128, 96), peak=10.0), 60, 7)
    said = ensemble_predictor([first, second], LSP, GEOMETRY, CPU, averaged=False)(crops)
    found = {name: said[0, k, 8, 8].item() for k, name in enumerate(LSP.joints)}
    assert found.pop("neck") == 1
    assert found.pop("head top") == pytest.approx((2 + 6) / 2)
    assert found.pop("left hip") == pytest.approx(0.7)
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("changes", [{}, {"input": (128, 96)}, {"input": (97, 64), "stride_px": 1}])
@pytest.mark.parametrize("grid", ["half-pixel", "origin", "corners"])
def test_averaged_answers_to_mirrored_crops_are_mirrored_answers(
    crops: Tensor, changes: dict[str, object], grid: str
) -> None:
    teacher = Bright(spec_of(*LSP.joints, grid=grid, **changes))
    plain = ensemble_predictor([teacher], LSP, GEOMETRY, CPU, averaged=False)
    averaged = ensemble_predictor([teacher], LSP, GEOMETRY, CPU, averaged=True)
    turned = crops.flip(2)
    torch.testing.assert_close(averaged(turned), flip_heatmaps(averaged(crops), LSP.flip_indices))
    expected = (plain(crops) + flip_heatmaps(plain(turned), LSP.flip_indices)) / 2
    torch.testing.assert_close(averaged(crops), expected)
    assert not torch.allclose(
        plain(turned), flip_heatmaps(plain(crops), LSP.flip_indices), atol=0.1
    )


def test_a_joint_without_its_twin_is_not_taught_where_answers_are_averaged(crops: Tensor) -> None:
    spec = spec_of("left knee", "neck", "left hip", "right hip")
    assert covered_joints([spec], LSP, averaged=False) == (
        *("right hip", "left hip", "left knee", "neck"),
    )
    assert covered_joints([spec], LSP, averaged=True) == ("right hip", "left hip", "neck")
    predictor = ensemble_predictor([Flat(spec, 1, 1, 1, 1)], LSP, GEOMETRY, CPU, averaged=True)
    said = {name for k, name in enumerate(LSP.joints) if predictor(crops)[0, k].any()}
    assert said == {"right hip", "left hip", "neck"}


def test_a_teacher_of_no_joint_is_refused() -> None:
    with pytest.raises(ValueError, match=r"joints of lsp .* found one of tail, …"):
        covered_joints([spec_of("neck"), spec_of("tail")], LSP, averaged=False)


def test_an_answer_of_another_shape_is_refused(crops: Tensor) -> None:
    spec = spec_of("neck", "head top")
    with pytest.raises(ValueError, match=r"\(3, 2, 16, 16\).* found \(3, 3, 16, 16\)"):
        ensemble_predictor([Flat(spec, 1, 2, 3)], LSP, GEOMETRY, CPU, averaged=False)(crops)
