"""Inference: a trained network's joints for every sample of a data set.

With the flip test, each heatmap is averaged with that of the flipped crop. With several scales, the
heatmaps of crops of several sizes are averaged on the grid of the unscaled crop's heatmap.

Shape letters: N samples, B samples in a batch, F scales, K joints, H and W height and width of a
heatmap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data.augmentation import invert, transform
from ...data.heatmap_codec import decode
from ...data.joint_names import joint_order
from ...data.samples import SampleSet
from ...data.sections import Augmentation
from ...data.skeletons import Skeleton, check_pairs
from ...data.views import CENTER_CROP, TeacherCrop, View, Views
from ..config.recipe import Recipe
from ..config.sections import UNIT_SCALE, TestTimeAugmentation
from ..models.export.deployable import ModelRunner
from ..models.predictor import HeatmapPredictor, input_crop, make_predictor, teacher_input
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.interrupt import Interrupted, Stop
from ..runtime.loader import Key, in_batches, make_loader
from ..runtime.memory import explain_out_of_memory
from .pck import Pck, pck

BATCH_SIZE = 32
"""Samples in a batch, and at most as many crops in a forward pass."""

NO_TTA = TestTimeAugmentation()
"""One pass per sample."""

SCORING_STOPPED = "scoring stopped"


@dataclass(frozen=True)
class PredictedJoints:
    """A model's predictions for all samples of a data set.

    Attributes:
        joints_NK2: float64 (x, y), pixels of the original images.
        peaks_NK: float64, height of each heatmap's highest pixel: the model's confidence.
        uncovered: indices of joints that the model does not predict. They are NaN with a peak of
            0, and do not count in any score.
    """

    joints_NK2: NDArray[np.float64]
    peaks_NK: NDArray[np.float64]
    uncovered: tuple[int, ...] = ()

    def reordered(self, order: Sequence[int]) -> PredictedJoints:
        """The same predictions with joint `order[k]` as joint k."""
        return PredictedJoints(
            self.joints_NK2[:, list(order)],
            self.peaks_NK[:, list(order)],
            tuple(k for k, joint in enumerate(order) if joint in self.uncovered),
        )

    def without_joints(self, uncovered: tuple[int, ...]) -> PredictedJoints:
        """A copy in which these joints, by index, are marked as not predicted."""
        joints_NK2, peaks_NK = self.joints_NK2.copy(), self.peaks_NK.copy()
        joints_NK2[:, uncovered], peaks_NK[:, uncovered] = np.nan, 0
        return PredictedJoints(joints_NK2, peaks_NK, uncovered)

    def comparable_labels(self, labeled_NK2: NDArray[np.float64]) -> NDArray[np.float64]:
        """A copy of the labels in which joints that are not predicted are NaN."""
        labels_NK2 = labeled_NK2.copy()
        labels_NK2[:, self.uncovered] = np.nan
        return labels_NK2


class NamedModel(Protocol):
    """A model, trained or exported, as far as its joints are concerned."""

    @property
    def name(self) -> str: ...

    @property
    def skeleton(self) -> Skeleton: ...


def in_model_order(model: NamedModel, samples: SampleSet) -> tuple[SampleSet, tuple[int, ...]]:
    """Samples with their joints in a model's order, for `predict`.

    Returns:
        (samples, order): for each joint of the data set, its index in the model's order, for
        `PredictedJoints.reordered`.

    Raises:
        ValueError: model and data set have different joints, or other pairs of left and right.
    """
    owners = f"the model {model.name}", f"the data set {samples.skeleton.name}"
    to_model = joint_order(model.skeleton.joints, samples.skeleton.joints, *owners)
    skeleton = samples.skeleton.reordered(to_model)
    check_pairs(model.skeleton, skeleton, *owners)
    if skeleton.joints == samples.skeleton.joints:
        return samples, to_model
    reordered = replace(
        samples, skeleton=skeleton, joints_NK2=samples.joints_NK2[:, list(to_model)]
    )
    return reordered, tuple(to_model.index(joint) for joint in range(len(to_model)))


def predict(
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    stop: Stop | None = None,
    tta: TestTimeAugmentation = NO_TTA,
) -> PredictedJoints:
    """Predict the joints of all samples with a network.

    The network runs in `eval()` and is returned to the mode it was in.

    Args:
        recipe: its geometry is the network's.
        group: the processes that share the work; each returns the whole result.
        stop: checked after every batch.
        tta: whether to average over flipped crops, and over which scales.

    Raises:
        Interrupted: in all processes, if `stop` is set in any of them.
    """
    predictor = make_predictor(
        network, device, samples.skeleton.flip_indices if tta.flip_test else None
    )
    training = network.training
    network.eval()
    try:
        return predict_with(predictor, recipe, samples, device, group, stop, tta.scales)
    finally:
        network.train(training)


def predict_with(
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    stop: Stop | None = None,
    scales: Sequence[float] = NO_TTA.scales,
) -> PredictedJoints:
    """Predict the joints of all samples with any function from crops to heatmaps; see `predict`."""
    indices = group.share(range(len(samples)))
    keypoints_NK3 = torch.zeros(*samples.joints_NK2.shape[:2], 3, dtype=torch.float64)
    alternative = "another machine" if device.type == "cpu" else "--device cpu"
    advice = f"free some, or use {alternative}"
    with (
        explain_out_of_memory(f"a pass of up to {BATCH_SIZE} crops on {device}", advice),
        torch.inference_mode(),
    ):
        for batch_indices, batch_keypoints_BK3 in _predict_batches(
            predictor, recipe, samples, indices, device, scales
        ):
            keypoints_NK3[batch_indices] = batch_keypoints_BK3
            if stop is not None and stop.is_set():
                break
    signal_number = int(group.max([0 if stop is None else stop.signal])[0])
    if signal_number:
        raise Interrupted(SCORING_STOPPED, signal_number)
    gathered_NK3 = np.asarray(group.sum(keypoints_NK3).numpy())
    return PredictedJoints(gathered_NK3[..., :2], gathered_NK3[..., 2])


def score(
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    stop: Stop | None = None,
) -> Pck:
    """PCK of a network on a data set, with one pass per sample; see `predict`."""
    joints_NK2 = predict(network, recipe, samples, device, group, stop).joints_NK2
    return pck(joints_NK2, samples.joints_NK2, samples.normalizer_N, samples.skeleton)


def score_exported(runner: ModelRunner, recipe: Recipe, samples: SampleSet) -> Pck:
    """PCK of an exported model on a data set; see `predict_exported`."""
    joints_NK2 = predict_exported(runner, recipe, samples).joints_NK2
    return pck(joints_NK2, samples.joints_NK2, samples.normalizer_N, samples.skeleton)


def predict_exported(
    runner: ModelRunner, recipe: Recipe, samples: SampleSet, stop: Stop | None = None
) -> PredictedJoints:
    """Predict the joints of all samples with an exported model, with one pass per sample.

    Args:
        runner: from crops, uint8 (B, S, S, 3), to joints in pixels of the crop.
        recipe: its geometry is the model's.
        stop: checked after every batch.

    Raises:
        Interrupted: if `stop` is set.
    """
    views = Views(samples, recipe.geometry, Augmentation(), 0)
    keys = [
        [(index, CENTER_CROP) for index in indices]
        for indices in in_batches(range(len(samples)), BATCH_SIZE)
    ]
    joints = [np.zeros((0, samples.skeleton.num_joints, 2))]
    peaks = [np.zeros((0, samples.skeleton.num_joints))]
    for batch in make_loader(
        views,
        keys,
        torch.device("cpu"),
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    ):
        output = runner(batch["crop"].numpy())
        in_crop = output.joints.astype(np.float64)
        joints.append(transform(invert(batch["affine"].numpy()), in_crop))
        peaks.append(output.peaks.astype(np.float64))
        if stop is not None and stop.is_set():
            raise Interrupted(SCORING_STOPPED, stop.signal)
    return PredictedJoints(np.concatenate(joints), np.concatenate(peaks))


def _predict_batches(
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    indices: Sequence[int],
    device: torch.device,
    scales: Sequence[float],
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each batch, the samples' indices, int64 (B,), and keypoints, float64 (B, K, 3).

    A keypoint is x, y in pixels of the original image, and the peak.
    """
    keys = [
        [(index, scale_number) for index in batch for scale_number in range(len(scales))]
        for batch in in_batches(indices, BATCH_SIZE)
    ]
    for batch in make_loader(
        ScaledCrops(samples, recipe, scales, input_crop(predictor)),
        keys,
        device,
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    ):
        (inputs,) = teacher_input(batch)  # without torsos, see `ScaledCrops`
        heatmaps = [predictor(crops) for crops in torch.split(inputs, BATCH_SIZE)]
        joints, peaks = decode(average_scales(torch.cat(heatmaps), scales))
        in_crop = recipe.geometry.to_crop(joints.cpu().double().numpy())
        unscaled = slice(scales.index(UNIT_SCALE), None, len(scales))
        in_image = transform(invert(batch["affine"][unscaled].numpy()), in_crop)
        keypoints = torch.cat([torch.from_numpy(in_image), peaks.cpu().double()[..., None]], dim=-1)
        yield batch["index"][unscaled], keypoints


class ScaledCrops:
    """Crops without augmentation, by key (index of the sample, index of the scale)."""

    def __init__(
        self,
        samples: SampleSet,
        recipe: Recipe,
        scales: Sequence[float],
        teacher_crop: TeacherCrop | None = None,
    ) -> None:
        """Crops of `samples`; with `teacher_crop`, also those (`Views`).

        Without the torso: a teacher is scored on labels, so it must not be turned by them.
        """
        if teacher_crop is not None:
            teacher_crop = teacher_crop._replace(torso=False)
        self.views = [
            Views(
                replace(samples, side_N=samples.side_N * scale),
                recipe.geometry,
                Augmentation(),
                0,
                teacher_crop=teacher_crop,
            )
            for scale in scales
        ]

    def __getitem__(self, key: Key) -> View:
        index, scale_number = key
        return self.views[scale_number][index, CENTER_CROP]


def average_scales(heatmaps_NKHW: Tensor, scales: Sequence[float]) -> Tensor:
    """Average the heatmaps of crops at several scales on the grid of the unscaled crop.

    The crops of a sample share their center, so the heatmap of a scaled crop is resampled about its
    center (bicubic, half-pixel convention). Pixels outside a smaller crop are the mean of the
    others.

    Args:
        heatmaps_NKHW: float32, the F heatmaps of each sample one after another, N = B x F.
        scales: of the F crops, factors on the box's side; one is `UNIT_SCALE`.

    Returns:
        float32 (B, K, H, W).
    """
    if len(scales) == 1:
        return heatmaps_NKHW
    sums = torch.zeros_like(heatmaps_NKHW[:: len(scales)])
    weights = torch.zeros_like(sums[:, :1])
    for number, scale in enumerate(scales):
        resampled, inside = _resample(heatmaps_NKHW[number :: len(scales)], scale)
        sums, weights = sums + resampled, weights + inside
    return sums / weights


def _resample(heatmaps_BKHW: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A scale's heatmaps on the unscaled crop's grid, 0 outside; and 1 inside the crop, else 0."""
    if scale == UNIT_SCALE:
        return heatmaps_BKHW, torch.ones_like(heatmaps_BKHW[:, :1])
    about_center = (torch.eye(2, 3, device=heatmaps_BKHW.device) / scale)[None]
    shape = list(heatmaps_BKHW.shape)
    grid = nn.functional.affine_grid(
        about_center.expand(shape[0], 2, 3), shape, align_corners=False
    )
    inside = (grid.abs() <= 1).all(-1)[:, None].float()
    resampled = nn.functional.grid_sample(
        heatmaps_BKHW, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return resampled * inside, inside
