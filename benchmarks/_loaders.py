"""How other projects' loaders make a batch of the same views, rewritten after their code.

`HRNetViews` follows leoxiaobin/deep-high-resolution-net.pytorch, `lib/dataset/JointsDataset.py`.
The paper's authors (ilovepose/fast-human-pose-estimation.pytorch) use that file with a second kind
of target; their recipes leave images in BGR, which saves the color conversion done here.
Substituted: torchvision's `ToTensor` and `Normalize`, by the same tensor operations.

`PytorchPoseViews` follows bearpaw/pytorch-pose, `pose/datasets/mpii.py`, `pose/utils/imutils.py`
and `transforms.py`, on which the other public port of the paper
(yuanyuanli85/Fast_Human_Pose_Estimation_Pytorch) is built. Substituted: scipy's `imread`,
`imresize` and `imrotate`, which no longer exist, by the calls of Pillow that they consisted of,
scaling to bytes included; the data set's own mean color, by ImageNet's.

Scale, rotation and flip, which both would draw at random, are those of our views and cost them
nothing, so that all loaders cut the same crops. Zip files, half-body crops and the like are left
out.
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

SCALE_PX = 200.0  # the side of a person's box is `scale` times this
HRNET_SIGMA_PX = 2
JITTER = (0.8, 1.2)  # pytorch-pose's factor on each color channel

Array = NDArray[Any]
Key = tuple[int, int, bool]
"""(sample index, view number, whether to flip it), as `DistillationViews` takes it."""


class LoaderViews(torch.utils.data.Dataset[Any]):
    """Common to both: records in HRNet's form, and the augmentation parameters of our views."""

    def __init__(self, views: Views) -> None:
        self.crop_px = views.geometry.crop_px
        self.heatmap_px = views.geometry.heatmap_px
        self.parameters = [views.parameters(i, 0) for i in range(len(views))]
        skeleton = views.samples.skeleton
        self.flip_pairs = [(a, b) for a, b in enumerate(skeleton.flip_indices) if a < b]
        self.records = [make_record(views, index) for index in range(len(views))]


def make_record(views: Views, index: int) -> dict[str, Any]:
    """A sample in the form of HRNet's `db`."""
    sample = views.samples[index]
    labeled = ~np.isnan(sample.joints_K2).any(axis=1, keepdims=True)
    third_column = np.zeros_like(sample.joints_K2[:, :1])
    return {
        "image": views.samples.images.locate(sample.image),
        "center": sample.center_2.copy(),
        "scale": np.full(2, sample.side_px / SCALE_PX),
        "joints_3d": np.hstack([np.where(labeled, sample.joints_K2, 0), third_column]),
        "joints_3d_vis": np.hstack([labeled, labeled, third_column]).astype(np.float64),
    }


class HRNetViews(LoaderViews):
    """Decodes at full size, warps, and makes float32 images and targets, all in the worker."""

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
        index, _, flipped = key
        record = copy.deepcopy(self.records[index])
        image = cv2.imread(record["image"], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        joints, visible = record["joints_3d"], record["joints_3d_vis"]
        center = record["center"]
        factor, rotation_deg, _ = self.parameters[index]
        scale = record["scale"] * factor
        if flipped:
            image = image[:, ::-1, :]
            joints, visible = self._flip_joints(joints, visible, image.shape[1])
            center[0] = image.shape[1] - center[0] - 1
            rotation_deg = -rotation_deg  # flipped before the rotation; ours, after it
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

    def _flip_joints(self, joints: Array, visible: Array, width: int) -> tuple[Array, Array]:
        joints[:, 0] = width - joints[:, 0] - 1
        for left, right in self.flip_pairs:
            for rows in (joints, visible):
                rows[left], rows[right] = rows[right], rows[left].copy()
        return joints * visible, visible

    def _affine(self, center: Array, scale: Array, rotation_deg: float) -> Array:
        """From three points: the box's center, the middle of its upper edge, one to the side."""
        side = self.crop_px
        angle = -math.radians(rotation_deg)  # HRNet rotates the box, ours the content
        up = np.array([math.sin(angle), -math.cos(angle)]) * SCALE_PX * scale[0] / 2
        source, target = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
        source[0], source[1] = center, center + up
        target[0], target[1] = (side / 2, side / 2), (side / 2, 0)
        for points in (source, target):
            x, y = points[0] - points[1]
            points[2] = points[1] + np.array([-y, x], np.float32)
        return cv2.getAffineTransform(source, target)

    def _target(self, joints: Array, visible: Array) -> tuple[Array, Array]:
        """Gaussians at whole pixels within 3 sigma, float32 (K, H, W), and weights (K, 1)."""
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


class HRNetViewsWithHeatmaps(HRNetViews):
    """The same, with the teacher's heatmaps from the simplest cache: an uncompressed file."""

    def __init__(self, views: Views, heatmaps: Array) -> None:
        """`heatmaps`: float16 (samples, K, H, W), memory-mapped."""
        super().__init__(views)
        self.heatmaps = heatmaps

    def __getitem__(self, key: Key) -> Any:
        heatmaps = torch.from_numpy(np.array(self.heatmaps[key[0]]))
        return *super().__getitem__(key), heatmaps


def normalized(crop: Array) -> Tensor:
    """torchvision's `ToTensor` and `Normalize`: float32 (3, H, W)."""
    image = torch.from_numpy(crop.transpose(2, 0, 1)).contiguous().float().div(255).clone()
    mean, std = torch.tensor(MEAN_RGB), torch.tensor(STD_RGB)
    return image.sub_(mean[:, None, None]).div_(std[:, None, None])


def paste(target: Array, patch: Array, left: int, top: int) -> None:
    """Copy the part of `patch` that falls inside an array."""
    height, width = target.shape
    rows = slice(max(0, top), min(top + patch.shape[0], height))
    columns = slice(max(0, left), min(left + patch.shape[1], width))
    target[rows, columns] = patch[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]


class PytorchPoseViews(LoaderViews):
    """Makes the whole image a float tensor first, then crops, rotates and resizes it."""

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, dict[str, Any]]:
        index, _, flipped = key
        record = self.records[index]
        joints = torch.tensor(
            np.hstack([record["joints_3d"][:, :2], record["joints_3d_vis"][:, :1]])
        )
        center = torch.tensor(record["center"], dtype=torch.float32)
        factor, rotation_deg, _ = self.parameters[index]
        scale = float(record["scale"][0] * factor)
        rotation_deg = -rotation_deg  # measured in the other direction
        image = as_tensor(np.asarray(Image.open(record["image"]).convert("RGB")))
        if flipped:
            flipped_image = np.fliplr(image.numpy().transpose(0, 2, 1)).transpose(0, 2, 1)
            image = torch.from_numpy(flipped_image.astype(float)).float()
            joints = self._flip_joints(joints, image.shape[2])
            center[0] = image.shape[2] - center[0]
            rotation_deg = -rotation_deg
        for channel in image:
            channel.mul_(random.uniform(*JITTER)).clamp_(0, 1)
        crop = self._crop(image.numpy().transpose(1, 2, 0), center.numpy(), scale, rotation_deg)
        for channel, mean in zip(crop, MEAN_RGB, strict=True):
            channel.sub_(mean)
        target, crop_joints = self._target(joints, center, scale, rotation_deg)
        meta = {
            "index": index,
            "center": center,
            "scale": scale,
            "pts": joints,
            "tpts": crop_joints,
        }
        return crop, target, meta

    def _flip_joints(self, joints: Tensor, width: int) -> Tensor:
        joints[:, 0] = width - joints[:, 0]
        for left, right in self.flip_pairs:
            left_joint = joints[left].clone()
            joints[left] = joints[right]
            joints[right] = left_joint
        return joints

    def _crop(self, image: Array, center: Array, scale: float, rotation_deg: float) -> Tensor:
        """Crop the box with a margin for the rotation, rotate, trim and resize it."""
        side = self.crop_px
        shrink = scale * SCALE_PX / side
        if shrink >= 2:
            height, width = (math.floor(length / shrink) for length in image.shape[:2])
            image = resize(image, height, width)
            center, scale = center / shrink, scale / shrink
        low = transform_point(np.linalg.inv(box_affine(center, scale, side)), (0, 0))
        high = transform_point(np.linalg.inv(box_affine(center, scale, side)), (side, side))
        margin = int(np.linalg.norm(high - low) / 2 - float(high[1] - low[1]) / 2)
        if rotation_deg:
            low, high = low - margin, high + margin
        crop = np.zeros((high[1] - low[1], high[0] - low[0], 3))
        inside = image[max(0, low[1]) : max(0, high[1]), max(0, low[0]) : max(0, high[0])]
        top, left = max(0, -low[1]), max(0, -low[0])
        crop[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        if rotation_deg:
            upright = Image.fromarray(to_bytes(crop))
            rotated = upright.rotate(rotation_deg, Image.Resampling.BILINEAR)
            crop = np.asarray(rotated)[margin:-margin, margin:-margin]
        return as_tensor(resize(crop, side, side))

    def _target(
        self, joints: Tensor, center: Tensor, scale: float, rotation_deg: float
    ) -> tuple[Tensor, Tensor]:
        target = torch.zeros(len(joints), self.heatmap_px, self.heatmap_px)
        crop_joints = joints.clone()
        for k in range(len(joints)):
            if crop_joints[k, 1] > 0:
                affine = box_affine(center.numpy(), scale, self.heatmap_px, -rotation_deg)
                point = transform_point(affine, crop_joints[k, :2].numpy())
                crop_joints[k, :2] = torch.from_numpy(point)
                draw_gaussian(target[k].numpy(), crop_joints[k])
        return target, crop_joints


def draw_gaussian(heatmap_HW: Array, joint: Tensor) -> None:
    """Draw a Gaussian at a whole pixel, computed in float64."""
    reach = 3 * HRNET_SIGMA_PX
    left, top, right, bottom = (int(joint[i]) + d for d in (-reach, reach + 1) for i in (0, 1))
    if left >= heatmap_HW.shape[1] or top >= heatmap_HW.shape[0] or right < 0 or bottom < 0:
        return
    x = np.arange(0, 2 * reach + 1, 1, float)
    y = x[:, None]
    gaussian = np.exp(-((x - reach) ** 2 + (y - reach) ** 2) / (2 * HRNET_SIGMA_PX**2))
    paste(heatmap_HW, gaussian, left, top)


def box_affine(center: Array, scale: float, side: int, rotation_deg: float = 0.0) -> Array:
    """float64 (3, 3), from the box around `center` to a square of `side` pixels."""
    zoom = side / (SCALE_PX * scale)
    affine = np.zeros((3, 3))
    affine[0, 0] = affine[1, 1] = zoom
    affine[:2, 2] = [side * 0.5 - zoom * float(center[0]), side * 0.5 - zoom * float(center[1])]
    affine[2, 2] = 1
    if rotation_deg:
        sine, cosine = math.sin(math.radians(rotation_deg)), math.cos(math.radians(rotation_deg))
        rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        to_origin = np.array([[1, 0, -side / 2], [0, 1, -side / 2], [0, 0, 1]])
        from_origin = np.array([[1, 0, side / 2], [0, 1, side / 2], [0, 0, 1]])
        affine = from_origin @ rotation @ to_origin @ affine
    return affine


def transform_point(affine: Array, point: Any) -> Array:
    """The transformed point, truncated to whole pixels; int64 (2,)."""
    return np.dot(affine, np.array([point[0], point[1], 1.0]))[:2].astype(int)


def as_tensor(image: Array) -> Tensor:
    """From (H, W, 3) to float32 (3, H, W) in 0..1."""
    tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1))).float()
    return tensor / 255 if tensor.max() > 1 else tensor


def resize(image: Array, height: int, width: int) -> Array:
    """scipy's `imresize`: bilinear, on bytes."""
    content = Image.fromarray(to_bytes(image))
    return np.asarray(content.resize((width, height), Image.Resampling.BILINEAR))


def to_bytes(image: Array) -> NDArray[np.uint8]:
    """scipy's `bytescale`: the range of the values becomes 0 to 255; bytes stay as they are."""
    if image.dtype == np.uint8:
        return image
    low, high = image.min(), image.max()
    scaled = (image - low) * (255 / ((high - low) or 1))
    return (scaled.clip(0, 255) + 0.5).astype(np.uint8)
