"""From settings to a trained network in its folder: what both training stages share."""

from __future__ import annotations

import logging
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...data.samples import SampleSet
from ...data.views import Geometry
from ..levelling import levelled
from ..metrics import pck
from ..recipe import Recipe, describe
from ..sections import Student, Targets, Training, parse_training
from ..sizes import counted
from ..workdir import ModelDir, sha256, versions, write_json
from .checkpoint import Identity, TrainingState, check_identity, load_weights
from .feed import EpochBatches, make_loader
from .group import joined
from .loop import Run
from .monitor import Monitor
from .objective import Objective
from .optimisers import make_optimiser, make_schedule

log = logging.getLogger("fpd")
_seeded = threading.Lock()


def train_model(
    out: ModelDir,
    recipe: Recipe,
    training: Training,
    objective: Objective,
    dataset: Any,
    people: dict[str, SampleSet],
    views: int | None,
    inputs: dict[str, Any],
    device: torch.device,
    init_from: Path | None = None,
    *,
    mirror: bool = False,
    keep: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Train, or go on training, the network in `out`; nothing is done where it is finished.

    Processes that torchrun started do it together; the first of them writes.

    Args:
        dataset: map-style, by (sample index, view number).
        people: the "train" and "validation" sets.
        views: how many views the samples come in; None: a fresh one every epoch.
        inputs: digests of what the run depends on besides its settings.
        init_from: weights to start from.
        mirror: mirror half of the views, by a third part of the data set's keys.
        keep: bool (N,), which of the "train" people to train on; None: all.

    Returns:
        The content of `record.json`.

    Raises:
        ValueError: `out` holds another run, or the weights to start from do not fit.
    """
    if init_from is not None:
        inputs = inputs | {"init_from": sha256(init_from)}
    identity = make_identity(recipe, training, inputs)
    if out.finished:
        record = out.record()
        check_identity(out, identity, record["identity"])
        return record
    samples, validation = people["train"], people["validation"]
    check_labels(samples, training, recipe, out)
    check_validation(validation, training)
    with joined(device) as group:
        group.check_same(identity)
        batches = EpochBatches(
            samples, training.batch, training.seed, views, mirror=mirror, keep=keep, group=group
        )
        check_batches(batches, training, recipe, out)
        monitor = Monitor(
            *(recipe, objective, dataset, batches, samples, out, device, training.epochs)
        )
        out.path.mkdir(parents=True, exist_ok=True)
        goes_on = out.state.is_file()  # then weights to start from need not be had again
        state = _initial_state(
            training, samples.skeleton.num_joints, batches.steps, device, init_from, goes_on
        )
        state.restore(out, identity, group)
        loader = make_loader(dataset, batches, recipe.loader, device)
        run = Run(
            *(recipe, training, objective, state, loader, batches),
            *(validation, out, identity, device, monitor, group),
        )
        run.train()
        if group.is_first:
            _write_record(out, run)
        group.wait()
    return out.record()


def check_labels(samples: SampleSet, training: Training, recipe: Recipe, out: ModelDir) -> None:
    """Refuse people without a single label, but for a student that takes the teacher's word alone.

    Raises:
        ValueError: naming what to set, or where to have a teacher from.
    """
    if not np.isnan(samples.joints_NK2).any(-1).all():
        return
    nobody = f"{samples.name}: none of {len(samples)} training people has a labelled joint: "
    if not isinstance(training, Student) or training.alpha == 0:
        raise ValueError(
            f"{nobody}a network without a teacher learns from labels alone. Train a teacher on "
            f"labelled people, copy its folder to {out.path.parent / 'teacher'}, and run "
            f"`fpd cache-heatmaps -w {out.path.parent}`"
        )
    if training.alpha < 1:
        raise ValueError(
            f"{nobody}expected alpha = 1, so that the teacher alone teaches, got {training.alpha}: "
            f"--set {recipe.section(out.name)}.alpha=1"
        )


def check_validation(validation: SampleSet, training: Training) -> None:
    """Refuse, before the first epoch rather than after it, what cannot be scored.

    Raises:
        ValueError: no label can be scored, or patience is asked for and there is nobody to score.
    """
    if len(validation):
        score_labels(validation)
    elif training.patience is None:
        log.info("no validation people: no PCK, and the weights of the last epoch are kept")
    else:
        raise ValueError(
            "patience counts epochs without a better validation PCK, and there are no validation "
            "people: expected data.validation above 0"
        )


def score_labels(people: SampleSet) -> None:
    """Score a set's labels against themselves.

    Raises:
        ValueError: none of them can be scored.
    """
    pck(people.joints_NK2, people.joints_NK2, people.normaliser_N, people.skeleton)


def check_batches(batches: EpochBatches, training: Training, recipe: Recipe, out: ModelDir) -> None:
    """Refuse batches that the network cannot take statistics of.

    Raises:
        ValueError: naming the setting to raise.
    """
    needed = training.model.smallest_batch(recipe.geometry.crop_px)
    processes, parts = batches.group.size, training.accumulate
    # Synchronised statistics are of a part of every process's share, taken together.
    apart = parts if training.sync_batch_norm else parts * processes
    least = max(needed * apart, processes * parts)
    if batches.smallest < least:
        reason = "the network ends in a single pixel" if needed > 1 else "one for each part"
        split = counted(parts, "part")
        shared = f", shared by {processes} processes in {split} each" * (least > needed)
        raise ValueError(
            f"expected at least {counted(least, 'view')} in every training step of {out.name}"
            f"{shared} ({reason}), found {batches.smallest}: another "
            f"--set {recipe.section(out.name)}.batch, or a larger geometry.crop_px"
        )


def make_identity(recipe: Recipe, training: Training, inputs: dict[str, Any]) -> Identity:
    """Everything that the trained weights depend on."""
    return {
        "settings": {
            # Weights to start from are among the inputs, by their digest.
            "training": training.model_dump(mode="json", exclude={"init_from"}),
            "geometry": recipe.geometry.model_dump(mode="json"),
            "augmentation": recipe.augmentation.model_dump(mode="json"),
            "targets": recipe.targets.model_dump(mode="json"),
        },
        "inputs": inputs,
    }


def load_model(folder: ModelDir, num_joints: int, device: torch.device) -> nn.Module:
    """A finished model, ready to predict.

    Raises:
        ValueError: its weights are missing or damaged, or its network cannot be built here.
    """
    settings = folder.record()["identity"]["settings"]
    try:
        training = parse_training(settings["training"])
    except ValidationError as error:
        raise ValueError(f"{folder.record_path}: {describe(error)}") from None
    network = training.model.build(num_joints)
    load_weights(network, folder.weights)
    geometry = Geometry.model_validate(settings["geometry"])
    targets = Targets.model_validate(settings["targets"])
    return _place(levelled(network, training, geometry, targets), device).eval()


def _initial_state(
    training: Training,
    num_joints: int,
    steps: int,
    device: torch.device,
    init_from: Path | None,
    goes_on: bool,
) -> TrainingState:
    with _seeded:  # PyTorch has one generator, and a cluster's worker may have two threads
        torch.manual_seed(training.seed)
        make = training.model.build if goes_on else training.model.start
        network: nn.Module = make(num_joints)
    if init_from is not None:
        load_weights(network, init_from)
    network = _place(network, device)
    if training.compile:
        network.compile()  # in place: its weights keep their names
    averaged = None
    if training.ema_decay is not None:
        averaging = get_ema_multi_avg_fn(training.ema_decay)  # type: ignore[no-untyped-call]
        averaged = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    optimiser = make_optimiser(training, network)
    schedule = make_schedule(training, optimiser, training.epochs * steps)
    return TrainingState(network, optimiser, schedule, averaged)


def _place(network: nn.Module, device: torch.device) -> nn.Module:
    # Channels last: a third faster on CPU, and what tensor cores want.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _write_record(out: ModelDir, run: Run) -> None:
    progress = run.state.progress
    record = {
        "identity": run.identity,
        "result": {
            "weights_sha256": sha256(out.weights),
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "validation_pck": None if progress.best_pck < 0 else progress.best_pck,
            "seconds": sum(row["seconds"] for row in progress.history),
            # For users of the weights, who need no data set: what each heatmap is of.
            "skeleton": asdict(run.validation.skeleton),
        },
        "device": str(run.device),
        "processes": run.group.size,
        "versions": versions(),
    }
    write_json(out.record_path, record)
