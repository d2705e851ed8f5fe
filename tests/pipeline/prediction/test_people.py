"""Pictures in memory, and what is drawn and written of people."""

from __future__ import annotations

import numpy as np
import pytest

from fpd.data.skeletons import LSP
from fpd.pipeline.prediction.people import PixelSource, draw_poses, make_person, pose

RNG = np.random.default_rng(0)


def test_small_crops_get_reduced_pictures_as_of_a_jpeg() -> None:
    image = RNG.integers(0, 256, (36, 50, 3)).astype(np.uint8)
    source = PixelSource([image], ["a"], reduces=True)
    for zoom, reduction in ((2.0, 1), (0.6, 1), (0.5, 2), (0.3, 2), (0.25, 4), (0.01, 8)):
        reduced, found = source.read(0, zoom)
        assert found == reduction
        assert reduced.shape == (-(-36 // reduction), -(-50 // reduction), 3)
    blocks = image[:, :48].reshape(9, 4, 12, 4, 3).mean((1, 3))
    np.testing.assert_allclose(source.read(0, 0.25)[0][:, :12], blocks, atol=0.51)
    # The last column has two pixels of the picture, and its border twice more.
    last = (image[:, 48] + 3.0 * image[:, 49]).reshape(9, 4, 3).mean(1) / 4
    np.testing.assert_allclose(source.read(0, 0.25)[0][:, 12], last, atol=0.51)
    assert source.size(0) == (50, 36)


def test_pictures_are_not_reduced_unless_asked() -> None:
    image = np.zeros((36, 50, 3), np.uint8)
    pixels, reduction = PixelSource([image], ["a"]).read(0, 0.01)
    assert pixels is image and reduction == 1


def test_nobody_is_drawn_on_an_unchanged_copy() -> None:
    image = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    drawn = draw_poses(image, [], LSP)
    assert drawn is not image
    np.testing.assert_array_equal(drawn, image)


def test_a_pose_is_drawn_where_it_is() -> None:
    image = np.full((100, 100, 3), 127, np.uint8)
    source = PixelSource([image], ["a"])
    joints_K2 = RNG.uniform(20, 40, (LSP.num_joints, 2))
    person = make_person(source, 0, None, (100, 100))
    row = pose(person, joints_K2, np.full(LSP.num_joints, 0.8))
    assert row["bbox"] == [0, 0, 100, 100] and row["score"] == pytest.approx(0.8)
    np.testing.assert_allclose(
        np.array(row["keypoints"]).reshape(-1, 3)[:, :2], joints_K2, atol=1e-4
    )
    changed = (draw_poses(image, [row], LSP) != image).any(-1)
    assert changed[20:40, 20:40].any() and not changed[60:90, 60:90].any()
