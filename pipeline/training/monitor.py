"""What a run shows while it trains: contact sheets, and curves for TensorBoard.

    work/lsp/student/contact_sheets/epoch_0005.png
    work/lsp/student/tensorboard/

Neither touches what is trained, and no failure to show ends a run (docs/monitoring.md).
Shape letters: B people, K joints.
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
from torch import Tensor, nn
from torch.utils.data import default_collate

from ...data.heatmap_codec import decode
from ...data.samples import SampleSet
from ..config.recipe import Recipe
from ..evaluation.pck import Pck, group_means
from ..models.checkpoint import ModelDir
from ..models.predictor import make_predictor
from ..runtime.files import atomic
from ..runtime.loader import FlipKey, Key
from .contact_sheet import Column, Sheet, draw
from .objective import Batch, Objective
from .sampler import EpochSampler
from .tensorboard import EventLog, check_installed

log = logging.getLogger("fpd")

FAINT = 0.1
"""Joints whose map is lower, as a share of a label's peak, are drawn without limbs."""

SCALARS = {
    "loss": "loss/training",
    "collapsed_loss": "loss/of_a_collapsed_network",
    "pose_loss": "loss/to_labels",
    "kd_pose_loss": "loss/to_teacher",
    "validation_pck": "validation_pck/mean",
    "learning_rate": "optimizer/learning_rate",
    "images_per_s": "speed/images_per_s",
    "data_wait_fraction": "speed/data_wait_fraction",
    "seconds": "speed/seconds_of_an_epoch",
    "peak_memory_mb": "memory/peak_mb",
}
"""TensorBoard's names for the columns of `metrics.jsonl`."""


class Monitor:
    """What one run, or the first of the processes that share it, shows after each epoch."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        dataset: Any,
        batches: EpochSampler,
        samples: SampleSet,
        out: ModelDir,
        device: torch.device,
        epochs: int,
    ) -> None:
        """Prepare to watch a run.

        Args:
            dataset, batches: what the network is trained on.

        Raises:
            ValueError: TensorBoard's files are asked for and cannot be written here.
        """
        self.settings = recipe.monitor
        self.recipe = recipe
        self.objective = objective
        self.dataset = dataset
        self.batches = batches
        self.samples = samples
        self.out = out
        self.device = device
        self.epochs = epochs
        self._people: Batch | None = None
        self._unwritten: list[tuple[int, dict[str, float], dict[str, bytes]]] = []
        self._told: set[str] = set()
        self._events: EventLog | None = None
        if self.settings.tensorboard:
            check_installed()
            self._events = EventLog(out.path / "tensorboard")

    def epoch(self, history: list[dict[str, Any]], score: Pck | None, network: nn.Module) -> None:
        """Show how the last epoch of `history` went.

        Args:
            score: its validation, if there was one.
            network: that which was scored; left as it is found.
        """
        if not self.batches.group.is_first:
            return
        row, images = history[-1], {}
        if self._is_due(row["epoch"]):
            with self._no_harm("no contact sheet was drawn"):
                images["contact_sheet"] = self._draw(row, score, network)
        if self._events is not None:
            with self._no_harm("TensorBoard's files were not written"):
                self._log(self._events, history, score, images)

    def _is_due(self, epoch: int) -> bool:
        """The first shows whether crops and labels fit, the last what has become of them."""
        every = self.settings.contact_sheet_every
        return every > 0 and (epoch in (1, self.epochs) or epoch % every == 0)

    @contextmanager
    def _no_harm(self, consequence: str) -> Iterator[None]:
        """Say once what went wrong, and go on.

        Every kind of error: a full disk, too little memory, a network that answers NaN, a mistake
        in here; a run of days is worth more than its picture, and whatever is wrong with the run
        itself shows in its own steps. Not a second Ctrl-C, which is none of `Exception`'s kind.
        """
        try:
            yield
        except Exception as error:
            if consequence not in self._told:
                kind = type(error).__name__
                log.warning(
                    "warning: %s (%s: %s); training goes on, and this is not said again",
                    *(consequence, kind, error),
                )
            self._told.add(consequence)

    # Contact sheets

    def _draw(self, row: Mapping[str, Any], score: Pck | None, network: nn.Module) -> bytes:
        """Write the sheet of an epoch. Returns the file's content."""
        content = draw(self._sheet(row, score, network))
        folder = self.out.path / "contact_sheets"
        folder.mkdir(exist_ok=True)
        with atomic(folder / f"epoch_{row['epoch']:04d}.png") as temporary:
            temporary.write_bytes(content)
        return content

    def _sheet(self, row: Mapping[str, Any], score: Pck | None, network: nn.Module) -> Sheet:
        if self._people is None:
            self._people = default_collate([self.dataset[key] for key in self._keys()])
        people, targets = self._people, self.recipe.targets
        area = 2 * math.pi * targets.sigma_px**2 if targets.area_normalized else 1.0
        top = 1 / area
        with torch.inference_mode():
            labels, due = self.objective.encode_labels(people, self.device)
            columns = [self._column("target", labels, due > 0)]
            taught = self.objective.teacher_maps(people, self.device)
            if taught is not None:
                columns.append(self._column("teacher, as cached", taught, None, top))
            said = _ask(network, people["crop"], self.device)
            columns.append(self._column("prediction", said, None, top))
        return Sheet(
            title=self._title(row, score),
            captions=[self.samples.ids[index] for index in people["index"].tolist()],
            crops_BSS3=people["crop"].numpy(),
            labels_BK2=self._to_crop(people["joints"]),
            columns=columns,
            skeleton=self.samples.skeleton,
            top=top,
        )

    def _keys(self) -> list[Key] | list[FlipKey]:
        """People by their ids' hashes, in the views that the first epoch has them in."""
        people = np.argsort(self.samples.id_hash_N, kind="stable")
        people = people[self.batches.keep[people]]
        first = copy(self.batches)
        first.set_epoch(0, 0)
        return first.keys(people[: self.settings.contact_sheet_samples].tolist())

    def _column(
        self, name: str, maps_BKHW: Tensor, sure_BK: Tensor | None, top: float = 1.0
    ) -> Column:
        """Joints are read from the maps.

        Args:
            sure_BK: the joints that there are; None: all are, and sure where a map is high enough.
        """
        joints, peaks = decode(maps_BKHW)
        joints_BK2 = self._to_crop(joints)
        there = peaks > 0 if sure_BK is None else sure_BK
        joints_BK2[~there.cpu().numpy()] = np.nan
        sure = peaks >= FAINT * top if sure_BK is None else sure_BK
        return Column(name, maps_BKHW.float().cpu().numpy(), joints_BK2, sure.cpu().numpy())

    def _to_crop(self, joints_BK2: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.recipe.geometry.to_crop(joints_BK2.cpu().double().numpy())

    def _title(self, row: Mapping[str, Any], score: Pck | None) -> tuple[str, str]:
        share = row["loss"] / max(row["collapsed_loss"], 1e-12)
        below = f"loss {row['loss']:.4g} ({share:.2f} of a collapsed network's)"
        if score is not None:
            below += f", validation {score.metric} {100 * score.mean:.1f} %"
        return f"{self.out.name}, epoch {row['epoch']} of {self.epochs}", below

    # TensorBoard

    def _log(
        self,
        events: EventLog,
        history: list[dict[str, Any]],
        score: Pck | None,
        images: dict[str, bytes],
    ) -> None:
        """Write the last epoch, and those before it where they are not written yet."""
        row = history[-1]
        if events.is_new and not self._unwritten:
            self._unwritten = [(old["epoch"], _scalars(old), {}) for old in history[:-1]]
        scalars = _scalars(row)
        if score is not None:
            means = group_means(score, self.samples.skeleton)
            shares = {f"validation_pck/{name}": share for name, share in means.items()}
            scalars |= {tag: share for tag, share in shares.items() if not math.isnan(share)}
        # Numbers can wait for room on the disk; pictures would fill the memory.
        self._unwritten = [(epoch, values, {}) for epoch, values, _ in self._unwritten]
        self._unwritten.append((row["epoch"], scalars, images))
        while self._unwritten:
            events.write(*self._unwritten[0])
            del self._unwritten[0]


def _scalars(row: Mapping[str, Any]) -> dict[str, float]:
    return {tag: row[key] for key, tag in SCALARS.items() if key in row}


def _ask(network: nn.Module, crop_BSS3: Tensor, device: torch.device) -> Tensor:
    """A network's heatmaps, as when it is scored: float32 (B, K, H, W)."""
    training = network.training
    network.eval()
    try:
        return make_predictor(network, device, None)(crop_BSS3)
    finally:
        network.train(training)
