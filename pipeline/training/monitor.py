"""Contact sheets and callbacks of a running training.

    work/lsp/student/contact_sheets/epoch_0005.png
    work/lsp/student/tensorboard/

They do not affect training, and an error in one does not end it (docs/monitoring.md).

Shape letters: B samples, K joints, S crop side, H and W heatmap height and width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
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
from ..config.sections import Training
from ..evaluation.pck import Pck, group_means
from ..models.model_dir import ModelDir
from ..models.predictor import make_predictor
from ..runtime.files import atomic
from ..runtime.loader import FlipKey, Key
from .callbacks import Callback, Epoch, RunInfo, make_callback
from .contact_sheet import Column, Sheet, draw
from .dataset import TrainingData
from .objective import Batch, Objective
from .sampler import EpochSampler
from .tensorboard import TensorBoard, check_installed

log = logging.getLogger("fpd")

FAINT = 0.1
"""Joints with a lower peak, as a share of a label's peak, are drawn without limbs."""


class Monitor:
    """Draws the contact sheets and calls the callbacks of one run, in its first process only."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        data: TrainingData,
        sampler: EpochSampler,
        out: ModelDir,
        device: torch.device,
        training: Training,
        callbacks: Sequence[str] = (),
    ) -> None:
        """Prepare to monitor a run.

        Args:
            callbacks: names as given to `--callback` (`callbacks.make_callback`).

        Raises:
            ValueError: a package is missing that `monitor.tensorboard` or a callback needs, or
                there is no such callback.
        """
        epochs = training.epochs
        self.settings = recipe.monitor
        self.recipe = recipe
        self.objective = objective
        self.data = data
        self.sampler = sampler
        self.out = out
        self.device = device
        self.epochs = epochs
        self._batch: Batch | None = None
        self._warned_of: set[str] = set()
        self._callbacks: list[tuple[str, Callback]] = []  # with the warning if one fails
        if not sampler.group.is_first:
            return
        if self.settings.tensorboard:
            check_installed()
            events = TensorBoard(out.path / "tensorboard")
            self._callbacks.append(("TensorBoard files were not written", events))
        run = RunInfo(
            name=out.name,
            folder=out.path,
            epochs=epochs,
            steps=sampler.steps,
            settings=training.model_dump(mode="json"),
        )
        self._callbacks += [
            (f"callback {name} failed", make_callback(name, run)) for name in callbacks
        ]

    def after_steps(self, epoch: int, last_step: int, losses: list[dict[str, float]]) -> None:
        """Pass on the losses of the last steps.

        Args:
            epoch, last_step: from 1; the step that the last of `losses` is of.
        """
        for consequence, callback in self._callbacks:
            with self._warn_on_error(consequence):
                for step, values in enumerate(losses, last_step - len(losses) + 1):
                    callback.on_step(epoch, step, values)

    @contextmanager
    def ended(self) -> Iterator[None]:
        """Tell the callbacks when the block is over, and the run's result if it succeeded."""
        try:
            yield
        except BaseException:
            self._end(None)
            raise
        self._end(self.out.record()["result"] if self._callbacks else None)

    def _end(self, result: Mapping[str, Any] | None) -> None:
        for consequence, callback in self._callbacks:
            with self._warn_on_error(consequence):
                callback.on_end(result)

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
        shares = {} if score is None else group_means(score, self.data.samples.skeleton)
        known = {name: share for name, share in shares.items() if not math.isnan(share)}
        for consequence, callback in self._callbacks:
            with self._warn_on_error(consequence):
                callback.on_epoch(Epoch(history=history, validation_pck=known, images=images))

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


def _predict(network: nn.Module, crop_BSS3: Tensor, device: torch.device) -> Tensor:
    """A network's heatmaps in evaluation mode, as when it is scored: float32 (B, K, H, W)."""
    was_training = network.training
    network.eval()
    try:
        return make_predictor(network, device, None)(crop_BSS3)
    finally:
        network.train(was_training)
