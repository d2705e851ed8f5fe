"""From settings to a trained network in its folder: what both training stages share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...data.samples import SampleSet
from ..metrics import pck
from ..models import Model
from ..recipe import Recipe, Training
from ..workdir import ModelDir, sha256, versions, write_json
from .checkpoint import Identity, TrainingState, check_identity, load_weights
from .feed import EpochBatches, make_loader
from .loop import Run
from .objective import Objective
from .optimisers import make_optimiser, make_schedule


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
) -> dict[str, Any]:
    """Train, or go on training, the network in `out`; nothing is done where it is finished.

    Args:
        dataset: map-style, by (sample index, view number).
        people: the "train" and "validation" sets.
        views: how many views the samples come in; None: a fresh one every epoch.
        inputs: digests of what the run depends on besides its settings.
        init_from: weights to start from.
        mirror: mirror half of the views, by a third part of the data set's keys.

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
    if len(validation):
        score_labels(validation)  # better refused now than after the first epoch
    batches = EpochBatches(samples, training.batch, training.seed, views, mirror=mirror)
    check_batches(batches, training, recipe, out)
    out.path.mkdir(parents=True, exist_ok=True)
    state = _initial_state(training, samples.skeleton.num_joints, batches.steps, device, init_from)
    state.restore(out, identity)
    loader = make_loader(dataset, batches, recipe.loader, device)
    run = Run(
        recipe,
        training,
        objective,
        state,
        loader,
        batches,
        validation,
        out,
        identity,
        device,
    )
    run.train()
    return _write_record(out, state, identity, device)


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
    if batches.smallest < needed:
        raise ValueError(
            f"expected at least {needed} views in every training step of {out.name} (the network "
            f"ends in a single pixel), found {batches.smallest}: another "
            f"--set {recipe.section(out.name)}.batch, or a larger geometry.crop_px"
        )


def make_identity(recipe: Recipe, training: Training, inputs: dict[str, Any]) -> Identity:
    """Everything that the trained weights depend on."""
    return {
        "settings": {
            "training": training.model_dump(mode="json"),
            "geometry": recipe.geometry.model_dump(mode="json"),
            "augmentation": recipe.augmentation.model_dump(mode="json"),
            "targets": recipe.targets.model_dump(mode="json"),
        },
        "inputs": inputs,
    }


def load_model(folder: ModelDir, num_joints: int, device: torch.device) -> nn.Module:
    """A finished model, ready to predict.

    Raises:
        ValueError: its weights are missing or damaged.
    """
    settings = folder.record()["identity"]["settings"]["training"]["model"]
    network = Model.model_validate(settings).build(num_joints)
    load_weights(network, folder.weights)
    return _place(network, device).eval()


def _initial_state(
    training: Training,
    num_joints: int,
    steps: int,
    device: torch.device,
    init_from: Path | None,
) -> TrainingState:
    torch.manual_seed(training.seed)
    network: nn.Module = training.model.build(num_joints)
    if init_from is not None:
        load_weights(network, init_from)
    network = _place(network, device)
    optimiser = make_optimiser(training, network)
    schedule = make_schedule(training, optimiser, training.epochs * steps)
    return TrainingState(network, optimiser, schedule)


def _place(network: nn.Module, device: torch.device) -> nn.Module:
    # Channels last: a third faster on CPU, and what tensor cores want.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _write_record(
    out: ModelDir, state: TrainingState, identity: Identity, device: torch.device
) -> dict[str, Any]:
    progress = state.progress
    record = {
        "identity": identity,
        "result": {
            "weights_sha256": sha256(out.weights),
            "best_epoch": progress.best_epoch,
            "validation_pck": None if progress.best_pck < 0 else progress.best_pck,
            "seconds": sum(row["seconds"] for row in progress.history),
        },
        "device": str(device),
        "versions": versions(),
    }
    write_json(out.record_path, record)
    return record
