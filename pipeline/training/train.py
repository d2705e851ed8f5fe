"""From settings to a trained network in its folder: what both training stages share."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...data.samples import SampleSet
from ..config.recipe import Recipe
from ..config.sections import Training
from ..models.checkpoint import ModelDir, load_weights, to_device
from ..models.offset import label_log_mass
from ..runtime.distributed import joined
from ..runtime.files import sha256, versions, write_json
from ..runtime.loader import make_loader
from .checkpoint import Identity, TrainingState, check_identity
from .checks import check_batches, check_labels, check_validation
from .loop import Run
from .monitor import Monitor
from .objective import Objective
from .optimizers import make_optimizer, make_schedule
from .sampler import EpochSampler

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
    flip: bool = False,
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
        flip: flip half of the views, by a third part of the data set's keys.
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
        batches = EpochSampler(
            samples,
            training.batch_size,
            training.seed,
            views,
            flip=flip,
            keep=keep,
            group=group,
        )
        check_batches(batches, training, recipe, out)
        monitor = Monitor(
            recipe=recipe,
            objective=objective,
            dataset=dataset,
            batches=batches,
            samples=samples,
            out=out,
            device=device,
            epochs=training.epochs,
        )
        out.path.mkdir(parents=True, exist_ok=True)
        goes_on = out.state.is_file()  # then weights to start from need not be had again
        state = _initial_state(
            training, samples.skeleton.num_joints, batches.steps, device, init_from, goes_on
        )
        state.restore(out, identity, group)
        loader = make_loader(
            dataset,
            batches,
            device,
            workers=recipe.loader.workers,
            prefetch=recipe.loader.prefetch,
        )
        run = Run(
            recipe=recipe,
            training=training,
            objective=objective,
            state=state,
            loader=loader,
            batches=batches,
            validation=validation,
            out=out,
            identity=identity,
            log_mass=_log_mass(recipe, training),
            device=device,
            monitor=monitor,
            group=group,
        )
        run.train()
        if group.is_first:
            _write_record(out, run)
        group.wait()
    return out.record()


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


def _log_mass(recipe: Recipe, training: Training) -> float | None:
    """What the trained network's heatmaps are shifted to; None: training fixes their offset."""
    if not training.offset_is_free:
        return None
    return label_log_mass(
        recipe.geometry.heatmap_px,
        recipe.targets.sigma_px,
        area_normalized=recipe.targets.area_normalized,
    )


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
    network = to_device(network, device)
    if training.compile:
        network.compile()  # in to_device: its weights keep their names
    averaged = None
    if training.ema_decay is not None:
        averaging = get_ema_multi_avg_fn(training.ema_decay)  # type: ignore[no-untyped-call]
        averaged = AveragedModel(network, multi_avg_fn=averaging, use_buffers=True)
    optimizer = make_optimizer(training, network)
    schedule = make_schedule(training, optimizer, training.epochs * steps)
    return TrainingState(network, optimizer, schedule, averaged)


def _write_record(out: ModelDir, run: Run) -> None:
    progress = run.state.progress
    record = {
        "model": run.training.model.model_dump(mode="json"),
        "geometry": run.recipe.geometry.model_dump(mode="json"),
        "skeleton": asdict(run.validation.skeleton),
        "log_mass": run.log_mass,
        "identity": run.identity,
        "result": {
            "weights_sha256": sha256(out.weights),
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "validation_pck": None if progress.best_pck < 0 else progress.best_pck,
            "seconds": sum(row["seconds"] for row in progress.history),
        },
        "device": str(run.device),
        "processes": run.group.size,
        "versions": versions(),
    }
    write_json(out.record_path, record)
