"""How others' loaders make a batch of the same views: written anew after what their code does.

`HRNetViews` follows leoxiaobin/deep-high-resolution-net.pytorch, `lib/dataset/JointsDataset.py`.
The authors' own code (ilovepose/fast-human-pose-estimation.pytorch) has that very file, with a
second kind of target; its recipes leave images in BGR, which saves the conversion done here.
Substituted: torchvision's `ToTensor` and `Normalize`, by the same tensor operations.

`PytorchPoseViews` follows bearpaw/pytorch-pose, `pose/datasets/mpii.py`, `pose/utils/imutils.py`
and `transforms.py`, which the other public port of the paper
(yuanyuanli85/Fast_Human_Pose_Estimation_Pytorch) is built on. Substituted: `imread`, `imresize` and
`imrotate`, which scipy has removed, by the calls of Pillow that they consisted of, scaling to bytes
included; ImageNet's mean for the data set's own.

Both are given what they would draw at random (scale, rotation, mirroring, all as our views have
them), for nothing: so all cut the same crops. Zip files, half-body crops and the like are left out.
"""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fpd.data.views import Views
from fpd.pipeline.models.preprocessing import MEAN_RGB, STD_RGB

SCALE_PX = 200.0  # a person's `scale` is the side of the box in units of this
HRNET_SIGMA_PX = 2
JITTER = (0.8, 1.2)  # pytorch-pose's factor on each color channel

Array = NDArray[Any]
Key = tuple[int, int, bool]
"""(sample index, view number, whether to mirror it), as `DistillationViews` has it."""


class OthersViews(torch.utils.data.Dataset[Any]):
    """What both have in common: people in their form, and parameters as ours."""

    def __init__(self, views: Views) -> None:
        self.crop_px = views.geometry.crop_px
        self.heatmap_px = views.geometry.heatmap_px
        self.parameters = [views.parameters(i, 0) for i in range(len(views))]
        skeleton = views.samples.skeleton
        self.swap = [(a, b) for a, b in enumerate(skeleton.flip_indices) if a < b]
        self.people = [person(views, index) for index in range(len(views))]


def person(views: Views, index: int) -> dict[str, Any]:
    """A person as HRNet's `db` has them."""
    sample = views.samples[index]
    labeled = ~np.isnan(sample.joints_K2).any(axis=1, keepdims=True)
    beside = np.zeros_like(sample.joints_K2[:, :1])
    return {
        "image": views.samples.images.locate(sample.image),
        "center": sample.center_2.copy(),
        "scale": np.full(2, sample.side_px / SCALE_PX),
        "joints_3d": np.hstack([np.where(labeled, sample.joints_K2, 0), beside]),
        "joints_3d_vis": np.hstack([labeled, labeled, beside]).astype(np.float64),
    }


class HRNetViews(OthersViews):
    """Full decode, warp, float32 image and targets in the worker."""

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        index, _, mirrored = key
        record = copy.deepcopy(self.people[index])
        image = cv2.imread(record["image"], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        joints, visible = record["joints_3d"], record["joints_3d_vis"]
        center = record["center"]
        factor, rotation_deg, _ = self.parameters[index]
        scale = record["scale"] * factor
        if mirrored:
            image = image[:, ::-1, :]
            joints, visible = self._flip_indices(joints, visible, image.shape[1])
            center[0] = image.shape[1] - center[0] - 1
            rotation_deg = -rotation_deg  # mirrored before it is turned; ours afterwards
        affine = self._affine(center, scale, rotation_deg)
        crop = cv2.warpAffine(image, affine, (self.crop_px,) * 2, flags=cv2.INTER_LINEAR)
        for k in range(len(joints)):
            if visible[k, 0] > 0:
                joints[k, :2] = np.dot(affine, np.array([joints[k, 0], joints[k, 1], 1.0]))
        target, weight = self._target(joints, visible)
        meta = {
            "image": record["image"],
            "filename": "",
            "imgnum": "",
            "joints": joints,
            "joints_vis": visible,
            "center": center,
            "scale": scale,
            "rotation": rotation_deg,
            "score": 1,
        }
        return normalized(crop), torch.from_numpy(target), torch.from_numpy(weight), meta

    def _flip_indices(self, joints: Array, visible: Array, width: int) -> tuple[Array, Array]:
        joints[:, 0] = width - joints[:, 0] - 1
        for left, right in self.swap:
            for rows in (joints, visible):
                rows[left], rows[right] = rows[right], rows[left].copy()
        return joints * visible, visible

    def _affine(self, center: Array, scale: Array, rotation_deg: float) -> Array:
        """From three points: the box's center, the middle of its upper edge, one beside them."""
        side = self.crop_px
        angle = -math.radians(rotation_deg)  # HRNet turns the box, ours the content
        up = np.array([math.sin(angle), -math.cos(angle)]) * SCALE_PX * scale[0] / 2
        source, goal = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
        source[0], source[1] = center, center + up
        goal[0], goal[1] = (side / 2, side / 2), (side / 2, 0)
        for points in (source, goal):
            x, y = points[0] - points[1]
            points[2] = points[1] + np.array([-y, x], np.float32)
        return cv2.getAffineTransform(source, goal)

    def _target(self, joints: Array, visible: Array) -> tuple[Array, Array]:
        """Gaussians at whole pixels, in windows of three sigma; float32 (K, H, W) and (K, 1)."""
        size, reach, sigma = self.heatmap_px, 3 * HRNET_SIGMA_PX, HRNET_SIGMA_PX
        target = np.zeros((len(joints), size, size), np.float32)
        weight = visible[:, :1].astype(np.float32)
        for k in range(len(joints)):
            x0, y0 = (int(v / (self.crop_px / size) + 0.5) for v in joints[k, :2])
            left, top, right, bottom = x0 - reach, y0 - reach, x0 + reach + 1, y0 + reach + 1
            if left >= size or top >= size or right < 0 or bottom < 0:
                weight[k] = 0
                continue
            x = np.arange(0, 2 * reach + 1, 1, np.float32)
            y = x[:, None]
            gaussian = np.exp(-((x - reach) ** 2 + (y - reach) ** 2) / (2 * sigma**2))
            if weight[k] > 0.5:
                paste(target[k], gaussian, left, top)
        return target, weight


class HRNetWithMaps(HRNetViews):
    """The same, with the teacher's heatmaps as one would cache them without further thought."""

    def __init__(self, views: Views, maps: Array) -> None:
        """Take `maps`: float16 (samples, K, H, W) in a mapped file."""
        super().__init__(views)
        self.maps = maps

    def __getitem__(self, key: Key) -> Any:
        maps = torch.from_numpy(np.array(self.maps[key[0]]))
        return *super().__getitem__(key), maps


def normalized(crop: Array) -> Tensor:
    """torchvision's `ToTensor` and `Normalize`: float32 (3, H, W)."""
    image = torch.from_numpy(crop.transpose(2, 0, 1)).contiguous().float().div(255).clone()
    mean, std = torch.tensor(MEAN_RGB), torch.tensor(STD_RGB)
    return image.sub_(mean[:, None, None]).div_(std[:, None, None])


def paste(into: Array, patch: Array, left: int, top: int) -> None:
    """Put as much of `patch` into an array as there is room for."""
    height, width = into.shape
    rows = slice(max(0, top), min(top + patch.shape[0], height))
    columns = slice(max(0, left), min(left + patch.shape[1], width))
    into[rows, columns] = patch[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]


class PytorchPoseViews(OthersViews):
    """Floats from the start: the whole image as a tensor, cut, turned and resized in pieces."""

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, dict[str, Any]]:
        index, _, mirrored = key
        record = self.people[index]
        joints = torch.tensor(
            np.hstack([record["joints_3d"][:, :2], record["joints_3d_vis"][:, :1]])
        )
        center = torch.tensor(record["center"], dtype=torch.float32)
        factor, rotation_deg, _ = self.parameters[index]
        scale = float(record["scale"][0] * factor)
        rotation_deg = -rotation_deg  # pluralize the other way
        image = as_tensor(np.asarray(Image.open(record["image"]).convert("RGB")))
        if mirrored:
            flipped = np.fliplr(image.numpy().transpose(0, 2, 1)).transpose(0, 2, 1)
            image = torch.from_numpy(flipped.astype(float)).float()
            joints = self._flip_indices(joints, image.shape[2])
            center[0] = image.shape[2] - center[0]
            rotation_deg = -rotation_deg
        for channel in image:
            channel.mul_(random.uniform(*JITTER)).clamp_(0, 1)
        crop = self._crop(image.numpy().transpose(1, 2, 0), center.numpy(), scale, rotation_deg)
        for channel, mean in zip(crop, MEAN_RGB, strict=True):
            channel.sub_(mean)
        target, moved = self._target(joints, center, scale, rotation_deg)
        meta = {"index": index, "center": center, "scale": scale, "pts": joints, "tpts": moved}
        return crop, target, meta

    def _flip_indices(self, joints: Tensor, width: int) -> Tensor:
        joints[:, 0] = width - joints[:, 0]
        for left, right in self.swap:
            kept = joints[left].clone()
            joints[left] = joints[right]
            joints[right] = kept
        return joints

    def _crop(self, image: Array, center: Array, scale: float, rotation_deg: float) -> Tensor:
        """The box cut out with a margin for turning, turned, trimmed, resized."""
        side = self.crop_px
        shrink = scale * SCALE_PX / side
        if shrink >= 2:
            height, width = (math.floor(length / shrink) for length in image.shape[:2])
            image = resized(image, height, width)
            center, scale = center / shrink, scale / shrink
        low = moved_by(np.linalg.inv(box_affine(center, scale, side)), (0, 0))
        high = moved_by(np.linalg.inv(box_affine(center, scale, side)), (side, side))
        margin = int(np.linalg.norm(high - low) / 2 - float(high[1] - low[1]) / 2)
        if rotation_deg:
            low, high = low - margin, high + margin
        cut = np.zeros((high[1] - low[1], high[0] - low[0], 3))
        seen = image[max(0, low[1]) : max(0, high[1]), max(0, low[0]) : max(0, high[0])]
        top, left = max(0, -low[1]), max(0, -low[0])
        cut[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        if rotation_deg:
            turned = Image.fromarray(to_bytes(cut)).rotate(rotation_deg, Image.Resampling.BILINEAR)
            cut = np.asarray(turned)[margin:-margin, margin:-margin]
        return as_tensor(resized(cut, side, side))

    def _target(
        self, joints: Tensor, center: Tensor, scale: float, rotation_deg: float
    ) -> tuple[Tensor, Tensor]:
        target = torch.zeros(len(joints), self.heatmap_px, self.heatmap_px)
        moved = joints.clone()
        for k in range(len(joints)):
            if moved[k, 1] > 0:
                affine = box_affine(center.numpy(), scale, self.heatmap_px, -rotation_deg)
                moved[k, :2] = torch.from_numpy(moved_by(affine, moved[k, :2].numpy()))
                draw(target[k].numpy(), moved[k])
        return target, moved


def draw(map_HW: Array, joint: Tensor) -> None:
    """A Gaussian at a whole pixel, made in float64."""
    reach = 3 * HRNET_SIGMA_PX
    left, top, right, bottom = (int(joint[i]) + d for d in (-reach, reach + 1) for i in (0, 1))
    if left >= map_HW.shape[1] or top >= map_HW.shape[0] or right < 0 or bottom < 0:
        return
    x = np.arange(0, 2 * reach + 1, 1, float)
    y = x[:, None]
    gaussian = np.exp(-((x - reach) ** 2 + (y - reach) ** 2) / (2 * HRNET_SIGMA_PX**2))
    paste(map_HW, gaussian, left, top)


def box_affine(center: Array, scale: float, side: int, rotation_deg: float = 0.0) -> Array:
    """float64 (3, 3): the box around `center` to a square of `side` pixels."""
    zoom = side / (SCALE_PX * scale)
    affine = np.zeros((3, 3))
    affine[0, 0] = affine[1, 1] = zoom
    affine[:2, 2] = [side * 0.5 - zoom * float(center[0]), side * 0.5 - zoom * float(center[1])]
    affine[2, 2] = 1
    if rotation_deg:
        sine, cosine = math.sin(math.radians(rotation_deg)), math.cos(math.radians(rotation_deg))
        turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        there = np.array([[1, 0, -side / 2], [0, 1, -side / 2], [0, 0, 1]])
        back = np.array([[1, 0, side / 2], [0, 1, side / 2], [0, 0, 1]])
        affine = back @ turn @ there @ affine
    return affine


def moved_by(affine: Array, point: Any) -> Array:
    """A point, moved and cut to whole pixels."""
    return np.dot(affine, np.array([point[0], point[1], 1.0]))[:2].astype(int)


def as_tensor(image: Array) -> Tensor:
    """float32 (3, H, W), 0..1, of (H, W, 3)."""
    tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1))).float()
    return tensor / 255 if tensor.max() > 1 else tensor


def resized(image: Array, height: int, width: int) -> Array:
    """scipy's `imresize`: bilinear, by way of bytes."""
    content = Image.fromarray(to_bytes(image))
    return np.asarray(content.resize((width, height), Image.Resampling.BILINEAR))


def to_bytes(image: Array) -> NDArray[np.uint8]:
    """scipy's `bytescale`: from the smallest to the largest value; bytes stay as they are."""
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    scaled = (image - low) * (255 / ((high - low) or 1))
    return (scaled.clip(0, 255) + 0.5).astype(np.uint8)
