"""Contact sheets and TensorBoard curves of a running training.

    work/lsp/student/contact_sheets/epoch_0005.png
    work/lsp/student/tensorboard/

Neither affects training, and a failure to write one does not end it (docs/monitoring.md).

Shape letters: B samples, K joints, S crop side, H and W heatmap height and width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from ...data.heatmap_codec import decode
from ..config.recipe import Recipe
from ..evaluation.pck import Pck, group_means
from ..models.checkpoint import ModelDir
from ..models.predictor import make_predictor
from ..runtime.files import atomic
from ..runtime.loader import FlipKey, Key
from .contact_sheet import Column, Sheet, draw
from .dataset import TrainingData
from .objective import Batch, Objective
from .sampler import EpochSampler
from .tensorboard import EventLog, check_installed

log = logging.getLogger("fpd")

FAINT = 0.1
"""Joints with a lower peak, as a share of a label's peak, are drawn without limbs."""

SCALAR_TAGS = {
    "loss": "loss/loss",
    "collapsed_loss": "loss/collapsed_loss",
    "pose_loss": "loss/pose_loss",
    "kd_pose_loss": "loss/kd_pose_loss",
    "validation_pck": "validation_pck/mean",
    "learning_rate": "optimizer/learning_rate",
    "images_per_s": "speed/images_per_s",
    "data_wait_fraction": "speed/data_wait_fraction",
    "seconds": "speed/seconds",
    "peak_memory_mb": "memory/peak_memory_mb",
}
"""TensorBoard tags by column of `metrics.jsonl`: the column's name under a group."""


class Monitor:
    """Writes the contact sheets and TensorBoard files of one run, in its first process only."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        data: TrainingData,
        sampler: EpochSampler,
        out: ModelDir,
        device: torch.device,
        epochs: int,
    ) -> None:
        """Prepare to monitor a run of `epochs` epochs.

        Raises:
            ValueError: `monitor.tensorboard` is on and the tensorboard package is missing.
        """
        self.settings = recipe.monitor
        self.recipe = recipe
        self.objective = objective
        self.data = data
        self.sampler = sampler
        self.out = out
        self.device = device
        self.epochs = epochs
        self._batch: Batch | None = None
        self._unwritten: list[tuple[int, dict[str, float], dict[str, bytes]]] = []
        self._warned_of: set[str] = set()
        self._events: EventLog | None = None
        if self.settings.tensorboard:
            check_installed()
            self._events = EventLog(out.path / "tensorboard")

    def after_epoch(
        self, history: list[dict[str, Any]], score: Pck | None, network: nn.Module
    ) -> None:
        """Draw and write what is due after the last epoch of `history`.

        Args:
            history: rows of `metrics.jsonl`.
            score: on the validation samples; None: there are none.
            network: the one that was scored. Its mode and weights are left unchanged.
        """
        if not self.sampler.group.is_first:
            return
        row, images = history[-1], {}
        if self._sheet_is_due(row["epoch"]):
            with self._warn_on_error("no contact sheet was drawn"):
                images["contact_sheet"] = self._write_sheet(row, score, network)
        if self._events is not None:
            with self._warn_on_error("TensorBoard files were not written"):
                self._write_events(self._events, history, score, images)

    def _sheet_is_due(self, epoch: int) -> bool:
        """Always after the first epoch, to check crops and labels, and after the last one."""
        every = self.settings.contact_sheet_every
        return every > 0 and (epoch in (1, self.epochs) or epoch % every == 0)

    @contextmanager
    def _warn_on_error(self, consequence: str) -> Iterator[None]:
        """Turn any error into a warning, shown once for each `consequence`.

        Monitoring must not end a run of days, whatever fails: the disk is full, memory runs out,
        the network outputs NaN, or there is a bug in this module. A second Ctrl-C still ends the
        run: KeyboardInterrupt is not an `Exception`.
        """
        try:
            yield
        except Exception as error:
            if consequence not in self._warned_of:
                log.warning(
                    "warning: %s (%s: %s); training continues, and this warning is not repeated",
                    consequence,
                    type(error).__name__,
                    error,
                )
            self._warned_of.add(consequence)

    # Contact sheets

    def _write_sheet(self, row: Mapping[str, Any], score: Pck | None, network: nn.Module) -> bytes:
        """Write the contact sheet of an epoch. Returns the content of the file."""
        content = draw(self._sheet(row, score, network))
        folder = self.out.path / "contact_sheets"
        folder.mkdir(exist_ok=True)
        with atomic(folder / f"epoch_{row['epoch']:04d}.png") as temporary:
            temporary.write_bytes(content)
        return content

    def _sheet(self, row: Mapping[str, Any], score: Pck | None, network: nn.Module) -> Sheet:
        if self._batch is None:
            self._batch = default_collate([self.data.dataset[key] for key in self._keys()])
        batch, targets = self._batch, self.recipe.targets
        label_peak = 1 / (2 * math.pi * targets.sigma_px**2) if targets.area_normalized else 1.0
        with torch.inference_mode():
            labels, weights_BK = self.objective.encode_labels(batch, self.device)
            columns = [self._column("target", labels, label_peak, confident_BK=weights_BK > 0)]
            teacher = self.objective.teacher_heatmaps(batch, self.device)
            if teacher is not None:
                columns.append(self._column("teacher, as cached", teacher, label_peak))
            prediction = _predict(network, batch["crop"], self.device)
            columns.append(self._column("prediction", prediction, label_peak))
        return Sheet(
            title=self._title(row, score),
            captions=[self.data.samples.ids[index] for index in batch["index"].tolist()],
            crops_BSS3=batch["crop"].numpy(),
            labels_BK2=self._to_crop(batch["joints"]),
            columns=columns,
            skeleton=self.data.samples.skeleton,
            label_peak=label_peak,
        )

    def _keys(self) -> list[Key] | list[FlipKey]:
        """The samples whose ids have the lowest hashes, in their views of the first epoch."""
        indices = np.argsort(self.data.samples.id_hash_N, kind="stable")
        indices = indices[self.sampler.keep_N[indices]]
        sampler = copy(self.sampler)
        sampler.set_epoch(0, 0)
        return sampler.keys(indices[: self.settings.contact_sheet_samples].tolist())

    def _column(
        self,
        name: str,
        heatmaps_BKHW: Tensor,
        label_peak: float,
        *,
        confident_BK: Tensor | None = None,
    ) -> Column:
        """A column of heatmaps, with the joints decoded from them.

        Args:
            confident_BK: the joints to draw, all with limbs; None: those with a peak above 0, with
                limbs where it is at least `FAINT` of a label's.
        """
        joints_BK2, peaks_BK = decode(heatmaps_BKHW)
        joints = self._to_crop(joints_BK2)
        drawn_BK = peaks_BK > 0 if confident_BK is None else confident_BK
        joints[~drawn_BK.cpu().numpy()] = np.nan
        if confident_BK is None:
            confident_BK = peaks_BK >= FAINT * label_peak
        return Column(
            name=name,
            heatmaps_BKHW=heatmaps_BKHW.float().cpu().numpy(),
            joints_BK2=joints,
            confident_BK=confident_BK.cpu().numpy(),
        )

    def _to_crop(self, joints_BK2: Tensor) -> NDArray[np.float64]:
        """Heatmap pixels to crop pixels."""
        return self.recipe.geometry.to_crop(joints_BK2.cpu().double().numpy())

    def _title(self, row: Mapping[str, Any], score: Pck | None) -> tuple[str, str]:
        ratio = row["loss"] / max(row["collapsed_loss"], 1e-12)
        second_line = f"loss {row['loss']:.4g} ({ratio:.2f} of collapsed_loss)"
        if score is not None:
            second_line += f", validation {score.metric} {100 * score.mean:.1f} %"
        return f"{self.out.name}, epoch {row['epoch']} of {self.epochs}", second_line

    # TensorBoard

    def _write_events(
        self,
        events: EventLog,
        history: list[dict[str, Any]],
        score: Pck | None,
        images: dict[str, bytes],
    ) -> None:
        """Write the last epoch, after any earlier ones that are not written yet."""
        row = history[-1]
        if events.is_empty and not self._unwritten:
            self._unwritten = [(old["epoch"], _scalars(old), {}) for old in history[:-1]]
        scalars = _scalars(row)
        if score is not None:
            means = group_means(score, self.data.samples.skeleton)
            shares = {f"validation_pck/{name}": share for name, share in means.items()}
            scalars |= {tag: share for tag, share in shares.items() if not math.isnan(share)}
        # While the disk is full, keep the numbers and drop the images, which would fill the memory.
        self._unwritten = [(epoch, values, {}) for epoch, values, _ in self._unwritten]
        self._unwritten.append((row["epoch"], scalars, images))
        while self._unwritten:
            epoch, values, pngs = self._unwritten[0]
            events.write(step=epoch, scalars=values, images=pngs)
            del self._unwritten[0]


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row of `metrics.jsonl` by TensorBoard tag."""
    return {tag: row[column] for column, tag in SCALAR_TAGS.items() if column in row}


def _predict(network: nn.Module, crop_BSS3: Tensor, device: torch.device) -> Tensor:
    """A network's heatmaps in evaluation mode, as when it is scored: float32 (B, K, H, W)."""
    was_training = network.training
    network.eval()
    try:
        return make_predictor(network, device, None)(crop_BSS3)
    finally:
        network.train(was_training)
