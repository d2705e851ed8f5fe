"""Labels survive encoding and decoding: PCKh@0.1 of the ground truth itself.

Rounding loses joints elsewhere: HRNet recovers 97.7 %, pytorch-pose 95.0 %, mmpose 1.x 90.4 %.
A joint outside its crop cannot be recovered. Such joints are counted separately, by the label's
position, not by whether the joint was recovered.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fpd.data.augmentation import UNAUGMENTED, affine_23, draw_parameters, invert, transform
from fpd.data.datasets import load
from fpd.data.geometry import Geometry
from fpd.data.heatmap_codec import decode, encode
from fpd.data.sections import Augmentation, Data

GEOMETRY = Geometry(crop_px=256, stride_px=4)
THRESHOLD = 0.1


def encode_and_decode(joints_NK2, center_N2, side_N, parameters_N3, sigma_px):
    """Labels after image -> crop -> heatmap -> crop -> image, and a mask of those in the crop."""
    rows = zip(center_N2, side_N, parameters_N3, strict=True)
    affine_N23 = np.stack([affine_23(c, s, p, GEOMETRY.crop_px) for c, s, p in rows])
    in_map = GEOMETRY.to_heatmap(transform(affine_N23, joints_NK2))
    inside_NK = ((in_map >= -0.5) & (in_map <= GEOMETRY.heatmap_px - 0.5)).all(-1)
    maps, _ = encode(torch.from_numpy(in_map.astype(np.float32)), GEOMETRY.heatmap_px, sigma_px)
    decoded, _ = decode(maps)
    in_crop = GEOMETRY.to_crop(decoded.double().numpy())
    return transform(invert(affine_N23), in_crop), inside_NK


def share_correct(joints_NK2, decoded_NK2, unit_N, counted_NK) -> float:
    errors_NK = np.linalg.norm(decoded_NK2 - joints_NK2, axis=-1) / unit_N[:, None]
    return float((errors_NK <= THRESHOLD)[counted_NK].mean())


def mpii_like(count: int, seed: int = 0):
    """Joints, centers, sides and PCKh units of samples with MPII's proportions.

    Scales of 0.5 to 10 (in units of 200 pixels), a head box a fifth as high as the person, joints
    anywhere in the box of 1.25 x 200 x scale. Every tenth sample extends beyond the box's edge, as
    0.5 % of MPII's joints do.
    """
    rng = np.random.default_rng(seed)
    side_N = 1.25 * 200 * rng.uniform(0.5, 10, count)
    center_N2 = rng.uniform(0, 1500, (count, 2))
    reach_N11 = np.where(np.arange(count) % 10, 0.45, 0.55)[:, None, None]
    offsets = rng.uniform(-1, 1, (count, 16, 2)) * reach_N11 * side_N[:, None, None]
    # 0.6 x the diagonal of a box of 0.2 x 200 x scale.
    unit_N = 0.6 * np.sqrt(2) * 0.2 * side_N / 1.25
    return center_N2[:, None] + offsets, center_N2, side_N, unit_N


@pytest.mark.parametrize(("sigma_px", "augmented"), [(1.0, False), (2.0, True)])
def test_random_joints_are_recovered(sigma_px, augmented) -> None:
    joints_NK2, center_N2, side_N, unit_N = mpii_like(300, seed=int(sigma_px) + 2 * augmented)
    settings = Augmentation()
    parameters = [
        draw_parameters(settings, 0, number, 0) if augmented else UNAUGMENTED
        for number in range(len(side_N))
    ]
    decoded_NK2, inside_NK = encode_and_decode(
        joints_NK2, center_N2, side_N, np.array(parameters), sigma_px
    )
    assert share_correct(joints_NK2, decoded_NK2, unit_N, inside_NK) >= 0.999
    outside = 1 - inside_NK.mean()
    assert (0.005 < outside < 0.05) or augmented  # some are outside
    # Joints outside, but within the Gaussian's reach, are decoded at the edge.
    if (~inside_NK).any():
        assert share_correct(joints_NK2, decoded_NK2, unit_N, ~inside_NK) < 0.9


def test_joints_on_the_crops_edges_are_recovered() -> None:
    """On all four sides, just inside the outermost heatmap pixel's border."""
    edge = np.linspace(-0.45, GEOMETRY.heatmap_px - 0.55, 200)
    low, high = np.full(200, -0.45), np.full(200, GEOMETRY.heatmap_px - 0.55)
    joints = [np.stack(p, -1) for p in ((edge, low), (edge, high), (low, edge), (high, edge))]
    maps, weights = encode(torch.from_numpy(np.stack(joints).astype(np.float32)), 64, 1.0)
    decoded, _ = decode(maps)
    assert weights.all()
    assert np.abs(decoded.numpy() - np.stack(joints)).max() < 0.01  # heatmap pixels


@pytest.mark.parametrize("sigma_px", [1.0, 2.0])
def test_published_labels_are_recovered(published_root, sigma_px) -> None:
    root = published_root("mpii/annot/valid.json")
    samples = load(Data(reader="mpii", root=root), "test")
    # Without head boxes: 0.6 x the head's labeled length, which is below the box's diagonal.
    head_N = 0.6 * np.linalg.norm(samples.joints_NK2[:, 9] - samples.joints_NK2[:, 8], axis=-1)
    plain = np.tile(UNAUGMENTED, (len(samples), 1))
    arrays = samples.joints_NK2, samples.center_N2, samples.side_N
    decoded_NK2, inside_NK = encode_and_decode(*arrays, plain, sigma_px)
    labeled_NK = ~np.isnan(samples.joints_NK2).any(-1)
    assert (inside_NK == labeled_NK).all() and labeled_NK.sum() == 76
    assert share_correct(samples.joints_NK2, decoded_NK2, head_N, labeled_NK) == 1.0
