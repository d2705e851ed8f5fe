"""A trained network's joints for every person of a set.

With the flip test, each answer is averaged with its mirrored twin; with several scales, the answers
to crops of several sizes are averaged on the plain crop's heatmap.

Shape letters: N samples, B people in a batch, F scales, K joints, H and W heatmap height and width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...data.augmentation import Augmentation, invert, transform
from ...data.heatmap_codec import decode
from ...data.samples import SampleSet
from ...data.views import CENTER_CROP, View, Views
from ..config.recipe import Recipe
from ..config.sections import UNIT_SCALE, TestTimeAugmentation
from ..models.checkpoint import TrainedModel
from ..models.export.deployable import ModelRunner
from ..models.predictor import HeatmapPredictor, make_predictor
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.interrupt import Interrupted, Stop
from ..runtime.loader import Key, in_batches, make_loader
from ..runtime.memory import explain_out_of_memory
from .pck import Pck, pck

BATCH = 32
"""Crops in a pass, and people in a batch."""

NO_TTA = TestTimeAugmentation()
"""One pass a person."""


@dataclass(frozen=True)
class Predicted:
    """What a network says of a set.

    Attributes:
        joints_NK2: float64 (x, y), pixels of the original images.
        peaks_NK: float64, height of each heatmap's highest pixel: how sure the network is.
        silent: joints (by number) that it has no answer for: they are NaN, and do not count.
    """

    joints_NK2: NDArray[np.float64]
    peaks_NK: NDArray[np.float64]
    silent: tuple[int, ...] = ()

    def without(self, silent: tuple[int, ...]) -> Predicted:
        """The same, with no answer for some joints."""
        joints_NK2, peaks_NK = self.joints_NK2.copy(), self.peaks_NK.copy()
        joints_NK2[:, silent], peaks_NK[:, silent] = np.nan, 0
        return Predicted(joints_NK2, peaks_NK, silent)

    def labels(self, labeled_NK2: NDArray[np.float64]) -> NDArray[np.float64]:
        """Those labels that its answers can be held against; the others NaN."""
        labels_NK2 = labeled_NK2.copy()
        labels_NK2[:, self.silent] = np.nan
        return labels_NK2


def check_skeleton(model: TrainedModel, samples: SampleSet) -> None:
    """Refuse to score a model on joints in another order than its heatmaps.

    Raises:
        ValueError: naming both.
    """
    own, wanted = model.skeleton.joints, samples.skeleton.joints
    if own != wanted:
        raise ValueError(
            f"{model.name} predicts {', '.join(own)}; {samples.name} has {', '.join(wanted)}: "
            "expected the same joints in the same order"
        )


def predict(
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    stop: Stop | None = None,
    tta: TestTimeAugmentation = NO_TTA,
) -> Predicted:
    """Joints of each person, by a network, which is left in the mode it is found in.

    Args:
        group: the processes that share the work; each gets the whole result.
        stop: looked at after every batch.
        tta: whether to average over the mirror, and over which scales.

    Raises:
        Interrupted: in all processes, where `stop` was set in any.
    """
    predictor = make_predictor(
        network, device, samples.skeleton.flip_indices if tta.flip_test else None
    )
    training = network.training
    network.eval()
    try:
        return predict_by(predictor, recipe, samples, device, group, stop, tta.scales)
    finally:
        network.train(training)


def predict_by(
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    stop: Stop | None = None,
    scales: Sequence[float] = NO_TTA.scales,
) -> Predicted:
    """Joints of each person, by whatever maps crops to heatmaps; as `predict`."""
    people = group.share(range(len(samples)))
    found = torch.zeros(*samples.joints_NK2.shape[:2], 3, dtype=torch.float64)
    other = "another machine" if device.type == "cpu" else "--device cpu"
    advice = f"free some, or use {other}"
    with (
        explain_out_of_memory(f"a pass of up to {BATCH} crops on {device}", advice),
        torch.inference_mode(),
    ):
        for index, answer in _answers(predictor, recipe, samples, people, device, scales):
            found[index] = answer
            if stop is not None and stop.is_set():
                break
    number = int(group.highest([0 if stop is None else stop.signal])[0])
    if number:
        raise Interrupted("scoring stopped", number)
    found_NK3 = np.asarray(group.sum(found).numpy())
    return Predicted(found_NK3[..., :2], found_NK3[..., 2])


def score(
    network: nn.Module,
    recipe: Recipe,
    samples: SampleSet,
    device: torch.device,
    group: ProcessGroup = SINGLE_PROCESS,
    stop: Stop | None = None,
) -> Pck:
    """PCK of a network on a set, one pass a person; see `predict`."""
    joints_NK2 = predict(network, recipe, samples, device, group, stop).joints_NK2
    return pck(joints_NK2, samples.joints_NK2, samples.normalizer_N, samples.skeleton)


def _answers(
    predictor: HeatmapPredictor,
    recipe: Recipe,
    samples: SampleSet,
    people: Sequence[int],
    device: torch.device,
    scales: Sequence[float],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch: indices of people, and float64 (B, K, 3) of x, y in the image, and peak."""
    keys = [
        [(i, s) for i in part for s in range(len(scales))] for part in in_batches(people, BATCH)
    ]
    for batch in make_loader(
        ScaledCrops(samples, recipe, scales),
        keys,
        device,
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    ):
        answers = [predictor(crops) for crops in batch["crop"].split(BATCH)]
        joints, peaks = decode(average_scales(torch.cat(answers), scales))
        in_crop = recipe.geometry.to_crop(joints.cpu().double().numpy())
        plain = slice(scales.index(UNIT_SCALE), None, len(scales))
        in_image = transform(invert(batch["affine"][plain].numpy()), in_crop)
        found = torch.cat([torch.from_numpy(in_image), peaks.cpu().double()[..., None]], dim=-1)
        yield batch["index"][plain], found


class ScaledCrops:
    """Crops without augmentation, by (sample index, number of the scale)."""

    def __init__(self, samples: SampleSet, recipe: Recipe, scales: Sequence[float]) -> None:
        self.views = [
            Views(
                replace(samples, side_N=samples.side_N * scale), recipe.geometry, Augmentation(), 0
            )
            for scale in scales
        ]

    def __getitem__(self, key: Key) -> View:
        index, number = key
        return self.views[number][index, CENTER_CROP]


def average_scales(heatmaps_NKHW: Tensor, scales: Sequence[float]) -> Tensor:
    """The mean of several crops' answers, on the heatmap of the crop at `UNIT_SCALE`.

    Crops share their center, so one scale's map is another's, enlarged about its middle (half-pixel
    convention; bicubic). Where a crop does not reach, the others' mean stands.

    Args:
        heatmaps_NKHW: float32, those of a person one after another, N = B x F.
        scales: of the F crops, factors on the box's side.

    Returns:
        float32 (B, K, H, W).
    """
    if len(scales) == 1:
        return heatmaps_NKHW
    sums = torch.zeros_like(heatmaps_NKHW[:: len(scales)])
    covered = torch.zeros_like(sums[:, :1])
    for number, scale in enumerate(scales):
        maps, inside = _enlarge(heatmaps_NKHW[number :: len(scales)], scale)
        sums, covered = sums + maps, covered + inside
    return sums / covered


def _enlarge(heatmaps_BKHW: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """A scale's maps on the plain crop's pixels, zero beyond their reach; and 1 within, else 0."""
    if scale == UNIT_SCALE:
        return heatmaps_BKHW, torch.ones_like(heatmaps_BKHW[:, :1])
    about_middle = (torch.eye(2, 3, device=heatmaps_BKHW.device) / scale)[None]
    shape = list(heatmaps_BKHW.shape)
    grid = nn.functional.affine_grid(
        about_middle.expand(shape[0], 2, 3), shape, align_corners=False
    )
    inside = (grid.abs() <= 1).all(-1)[:, None].float()
    enlarged = nn.functional.grid_sample(
        heatmaps_BKHW, grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return enlarged * inside, inside


def score_exported(answer: ModelRunner, recipe: Recipe, samples: SampleSet) -> Pck:
    """PCK on a set, one pass a person.

    Args:
        recipe: with the model's geometry.
    """
    views = Views(samples, recipe.geometry, Augmentation(), 0)
    keys = [[(i, CENTER_CROP) for i in part] for part in in_batches(range(len(samples)), BATCH)]
    found: list[NDArray[np.float64]] = []
    for batch in make_loader(
        views,
        keys,
        torch.device("cpu"),
        workers=recipe.loader.workers,
        prefetch=recipe.loader.prefetch,
    ):
        in_crop = answer(batch["crop"].numpy()).joints.astype(np.float64)
        found.append(transform(invert(batch["affine"].numpy()), in_crop))
    return pck(np.concatenate(found), samples.joints_NK2, samples.normalizer_N, samples.skeleton)
