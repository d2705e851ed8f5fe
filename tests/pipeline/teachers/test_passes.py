"""One teacher on views: its square's size and turn, one pass or two, maps at their place."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fpd.data.heatmap_codec import decode, encode, flip_heatmaps
from fpd.data.skeletons import LSP
from fpd.data.views import Geometry, TeacherCrop
from fpd.pipeline.teachers import TeacherSpec, ensemble_predictor
from fpd.pipeline.teachers.heads import sigmas_on_store
from fpd.pipeline.teachers.passes import aligning_joints, count_passes, crop_for, shown_factor

CPU = torch.device("cpu")
GEOMETRY = Geometry(crop_px=64)
TORSO = ("left hip", "right hip", "left shoulder", "right shoulder")
COLORS = torch.tensor(
    [[255, 0, 0], [255, 0, 0], [0, 255, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.float32
)
JOINTS = (*TORSO, "neck")
BODY = ("middle", "rim")


class ColorTeacher:
    """Finds hips where the crop is red, shoulders where it is green, and the neck where it is blue.

    Its heatmaps are Gaussians at the centers of mass, as high as the color is strong.
    """

    digest = "colors"

    def __init__(self, sigma_px: float = 2.0, **changes: object) -> None:
        content: dict[str, object] = {"input": (128, 128), "joints": JOINTS, "stride_px": 4}
        self.spec = TeacherSpec.model_validate(
            content | {"mean_rgb": (0, 0, 0), "std_rgb": (1, 1, 1)} | changes
        )
        self.sigma_px = sigma_px
        self.seen: list[Tensor] = []

    def positions(self, crops: Tensor) -> Tensor:
        """Centers of mass of the colors in input pixels, (B, 3, 2)."""
        mass = crops.clamp_min(0).square()
        y, x = (torch.arange(side, dtype=torch.float32) for side in crops.shape[2:])
        total = mass.sum((2, 3)).clamp_min(1e-6)
        return torch.stack(
            [(mass.sum(2) * x).sum(-1) / total, (mass.sum(3) * y).sum(-1) / total], dim=-1
        )

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        self.seen.append(crops_B3HW)
        red, green, blue = self.positions(crops_B3HW).unbind(1)
        at = torch.stack([red, red, green, green, blue], dim=1)[:, : len(self.spec.joints)]
        stride = self.spec.stride_px
        drawn, _ = encode((at + 0.5) / stride - 0.5, self.spec.heatmap[0], self.sigma_px)
        return drawn * crops_B3HW.amax((1, 2, 3))[:, None, None, None].clamp(max=1)


def picture(crop: TeacherCrop, colors_32: Tensor) -> Tensor:
    """A wide crop with a blob of each color at a position in box coordinates: uint8 (S, S, 3)."""
    side = crop.side_px
    pixels = (colors_32 / crop.box_factor + 1) * side / 2 - 0.5
    blobs, _ = encode(pixels[None], side, side / 64)
    return (255 * blobs[0]).round().byte().permute(1, 2, 0)


def turned(points: list[tuple[float, float]], degrees: float) -> Tensor:
    """Points of an upright person, turned about the box's center."""
    angle = math.radians(degrees)
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    return torch.tensor(points) @ rotation.T


UPRIGHT = [(0.05, 0.3), (0.05, -0.2), (0.12, -0.4)]  # hips, shoulders, neck


def run(
    teacher: ColorTeacher,
    method: str,
    degrees: list[float],
    *,
    torso: bool = False,
    geometry: Geometry = GEOMETRY,
) -> tuple[Tensor, Tensor]:
    """Heatmaps of people turned by some angles, and the positions of the colors in them."""
    crop = crop_for([teacher.spec], method)  # type: ignore[arg-type]
    points = torch.stack([turned(UPRIGHT, angle) for angle in degrees])
    crops = torch.stack([picture(crop, colors) for colors in points])
    predictor = ensemble_predictor(
        [teacher],
        LSP,
        geometry,
        CPU,
        averaged=False,
        crop=crop,
        alignment=method,  # type: ignore[arg-type]
    )
    torsos = (points[:, :2] / crop.box_factor + 1) * crop.side_px / 2 - 0.5
    heatmaps = predictor(crops, torsos) if torso else predictor(crops)
    return heatmaps, (points + 1) * geometry.heatmap_px / 2 - 0.5


def check_places(heatmaps: Tensor, expected_B32: Tensor) -> None:
    joints, peaks = decode(heatmaps)
    for color, name in enumerate(("left hip", "left shoulder", "neck")):
        k = LSP.joints.index(name)
        assert (joints[:, k] - expected_B32[:, color]).norm(dim=-1).max() < 0.05, name
        assert peaks[:, k].min() > 0.75, name


ANGLES = [0.0, 25.0, -70.0, 90.0, 180.0, 200.0]


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.5])
def test_a_larger_box_leaves_joints_where_they_are(factor: float) -> None:
    teacher = ColorTeacher(box_factor=factor)
    heatmaps, expected = run(teacher, "none", ANGLES)
    check_places(heatmaps, expected)
    # What the teacher sees spans `factor` boxes.
    red = teacher.positions(teacher.seen[0])[0, 0]
    torch.testing.assert_close(
        red, (torch.tensor(UPRIGHT[0]) / factor + 1) * 64 - 0.5, atol=0.2, rtol=0
    )


@pytest.mark.parametrize(("method", "torso"), [("torso", False), ("labels", True)])
def test_people_are_turned_upright_and_their_joints_back(method: str, torso: bool) -> None:
    teacher = ColorTeacher()
    heatmaps, expected = run(teacher, method, ANGLES, torso=torso)
    check_places(heatmaps, expected)
    assert len(teacher.seen) == (1 if torso else 2)
    hips, shoulders = teacher.positions(teacher.seen[-1])[:, :2].unbind(1)
    assert (shoulders - hips)[:, 0].abs().max() < 0.5  # upright
    assert ((shoulders - hips)[:, 1] < -20).all()


def test_samples_without_labels_are_turned_by_a_first_pass() -> None:
    """Each by itself: the others have one pass."""
    teacher = ColorTeacher()
    crop = crop_for([teacher.spec], "labels")
    points = torch.stack([turned(UPRIGHT, angle) for angle in (60.0, -100.0)])
    crops = torch.stack([picture(crop, colors) for colors in points])
    torsos = (points[:, :2] / crop.box_factor + 1) * crop.side_px / 2 - 0.5
    predictor = ensemble_predictor(
        [teacher], LSP, GEOMETRY, CPU, averaged=False, crop=crop, alignment="labels"
    )
    both = predictor(crops, torsos)
    torsos[1] = torch.nan
    mixed = predictor(crops, torsos)
    assert [len(batch) for batch in teacher.seen] == [2, 1, 2]
    torch.testing.assert_close(mixed[0], both[0], atol=0, rtol=0)
    torch.testing.assert_close(mixed[1], both[1], atol=0.03, rtol=0)
    alone = predictor(crops[1:], torsos[1:])
    torch.testing.assert_close(alone[0], mixed[1])


class BodyTeacher(ColorTeacher):
    """The circle's center is where it finds hips, its rim where it finds shoulders."""

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        self.seen.append(crops_B3HW)
        center, rim, neck = self.positions(crops_B3HW).unbind(1)
        at = torch.stack([center, rim, rim, neck], dim=1)
        drawn, _ = encode((at + 0.5) / 4 - 0.5, 32, self.sigma_px)
        return drawn


def test_a_body_is_centered_and_scaled_by_its_points() -> None:
    teacher = BodyTeacher(joints=(*BODY, "left shoulder", "neck"), body_points=BODY)
    # Finer than elsewhere: the circle is near the square's edge, beyond which there are no maps.
    heatmaps, expected = run(teacher, "body", ANGLES, geometry=Geometry(crop_px=256))
    joints, _ = decode(heatmaps)
    k = LSP.joints.index("left shoulder")
    assert (joints[:, k] - expected[:, 1]).norm(dim=-1).max() < 0.05
    center, rim, _ = teacher.positions(teacher.seen[-1]).unbind(1)
    torch.testing.assert_close(center, torch.full_like(center, 63.5), atol=0.5, rtol=0)
    expected_rim = torch.tensor([63.5, 63.5 - 64 / 1.25]).expand_as(rim)
    torch.testing.assert_close(rim, expected_rim, atol=0.7, rtol=0)


@pytest.mark.parametrize("method", ["torso", "labels"])
def test_averaged_heatmaps_of_flipped_crops_are_flipped_heatmaps(method: str) -> None:
    """The flipped copy is turned the other way."""
    teacher = ColorTeacher()
    crop = crop_for([teacher.spec], method)  # type: ignore[arg-type]
    points = torch.stack([turned(UPRIGHT, angle) for angle in ANGLES])
    crops = torch.stack([picture(crop, colors) for colors in points])
    predictor = ensemble_predictor(
        [teacher],
        LSP,
        GEOMETRY,
        CPU,
        averaged=True,
        crop=crop,
        alignment=method,  # type: ignore[arg-type]
    )
    torsos = (points[:, :2] / crop.box_factor + 1) * crop.side_px / 2 - 0.5
    flipped_torsos = torsos * torch.tensor([-1.0, 1.0]) + torch.tensor([crop.side_px - 1.0, 0.0])
    more = (torsos,) if method == "labels" else ()
    flipped_more = (flipped_torsos,) if method == "labels" else ()
    heatmaps, flipped = predictor(crops, *more), predictor(crops.flip(2), *flipped_more)
    expected = flip_heatmaps(heatmaps, LSP.flip_indices)
    torch.testing.assert_close(flipped, expected, atol=1e-4, rtol=0)
    check_places(heatmaps, (points + 1) * GEOMETRY.heatmap_px / 2 - 0.5)


def test_what_finds_nothing_stays_upright() -> None:
    teacher = ColorTeacher()
    crop = crop_for([teacher.spec], "torso")
    predictor = ensemble_predictor(
        [teacher], LSP, GEOMETRY, CPU, averaged=False, crop=crop, alignment="torso"
    )
    heatmaps = predictor(torch.zeros(2, crop.side_px, crop.side_px, 3, dtype=torch.uint8))
    assert heatmaps.isfinite().all() and heatmaps.abs().max() == 0
    faint = torch.zeros(1, crop.side_px, crop.side_px, 3, dtype=torch.uint8)
    faint[0, 100:120, 30:60] = torch.tensor([20, 0, 0], dtype=torch.uint8)
    predictor(faint)
    torch.testing.assert_close(teacher.seen[-1], teacher.seen[-2])


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "landmarks"},
        {"head": "simcc", "split_ratio": 2.0},
        {"head": "logits"},
    ],
)
def test_every_head_is_turned(changes: dict[str, object]) -> None:
    """The torso of the labels turns the square: the output is drawn as the head has it."""

    class Headed(ColorTeacher):
        def __call__(self, crops_B3HW: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
            maps = super().__call__(crops_B3HW)
            red, green, blue = self.positions(crops_B3HW).unbind(1)
            at = torch.stack([red, red, green, green, blue], dim=1)
            if self.spec.head == "logits":
                return torch.logit(maps.clamp(1e-6, 1 - 1e-6))
            if self.spec.head == "landmarks":
                return torch.cat([at, torch.full((len(at), 5, 1), 0.9)], dim=-1)
            sigma_yx = self.spec.sigma_input_px
            assert sigma_yx is not None
            bins = torch.arange(256.0)
            lines = [
                torch.exp(-(((bins / 2 - at[..., axis, None]) / sigma_yx[0]) ** 2) / 2)
                for axis in (0, 1)
            ]
            return lines[0], lines[1]

    heatmaps, expected = run(Headed(**changes), "labels", ANGLES, torso=True)
    check_places(heatmaps, expected)


def test_an_ensemble_shares_the_widest_crop_in_the_finest_pixels() -> None:
    coarse, fine = ColorTeacher(input=(64, 64), box_factor=1.5), ColorTeacher()
    assert crop_for([coarse.spec, fine.spec], "none") == TeacherCrop(192, 1.5)
    assert crop_for([coarse.spec, fine.spec], "labels") == TeacherCrop(384, 3.0, torso=True)
    assert crop_for([fine.spec], "torso") == TeacherCrop(256, 2.0)
    assert crop_for([fine.spec], "none") == TeacherCrop(128)
    crop = crop_for([coarse.spec, fine.spec], "none")
    points = turned(UPRIGHT, 30.0)
    predictor = ensemble_predictor([coarse, fine], LSP, GEOMETRY, CPU, averaged=False, crop=crop)
    heatmaps = predictor(picture(crop, points)[None])
    check_places(heatmaps, (points[None] + 1) * GEOMETRY.heatmap_px / 2 - 0.5)
    assert coarse.seen[0].shape[-1] == 64 and fine.seen[0].shape[-1] == 128


def test_what_a_method_needs() -> None:
    specs = {
        "all": ColorTeacher().spec,
        "no hips": ColorTeacher(joints=("neck", "left shoulder")).spec,
    }
    assert aligning_joints(specs["all"], "torso") == (0, 1, 2, 3)
    assert aligning_joints(specs["no hips"], "labels") is None
    with pytest.raises(ValueError, match=r"without left hip, right hip, right shoulder.*none"):
        aligning_joints(specs["no hips"], "torso")
    with pytest.raises(ValueError, match=r"body_points in its spec.*alignment=torso"):
        aligning_joints(specs["all"], "body")
    with pytest.raises(ValueError, match=r"joints in body_points, got \['rim'\]"):
        ColorTeacher(body_points=("neck", "rim"))


def test_the_width_of_gaussians_grows_with_the_square() -> None:
    """What `compatibility_warnings` compares with the labels'."""
    teacher = ColorTeacher(sigma_px=2.0)
    spec = teacher.spec.model_copy(update={"sigma_px": 2.0})
    sigmas = sigmas_on_store(spec, GEOMETRY, shown_factor=shown_factor(spec, "labels"))
    assert sigmas == pytest.approx((1.25, 1.25))  # 2 / 32 of 1.25 boxes, of 16 pixels
    heatmaps, _ = run(teacher, "labels", [0.0], torso=True)
    heatmap = heatmaps[0, LSP.joints.index("neck")].double()
    x = torch.arange(16.0, dtype=torch.float64)
    weight = heatmap.sum(0) / heatmap.sum()
    deviation = ((x - (x * weight).sum()).square() * weight).sum().sqrt()
    assert deviation.item() == pytest.approx(1.25, rel=0.02)


@pytest.mark.parametrize(
    ("entry", "passes"),
    [
        ({"sha256": "x", "model": {}}, 1),
        ({"teachers": [1, 2]}, 2),
        ({"teachers": [1, 2], "alignment": {"method": "torso", "version": 1}}, 4),
        ({"teachers": [1], "alignment": {"method": "labels", "version": 1}}, 1),
        ({"teachers": [1], "alignment": 7}, 1),
    ],
)
def test_passes_are_counted(entry: dict[str, object], passes: int) -> None:
    assert count_passes(entry) == passes
