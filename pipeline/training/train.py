"""From settings and data to a trained network in its folder: shared by both training stages."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ...data.skeletons import SKELETONS
from ..config.recipe import Recipe
from ..config.sections import Training
from ..models.checkpoint import parse_weights, read_weights_file, to_device
from ..models.model_dir import ModelDir
from ..models.offset import label_log_mass
from ..runtime.distributed import ProcessGroup, join_process_group
from ..runtime.files import sha256, versions, write_sealed_json
from ..runtime.loader import make_loader
from .batch_size import TRIAL_STEPS, Trial, choose, settled
from .checkpoint import Identity, TrainingState, check_identity
from .checks import check_batch_size, check_labels, check_validation, describe_data
from .dataset import TrainingData
from .loop import Run
from .monitor import Monitor
from .moving_average import MovingAverage
from .objective import Objective
from .optimizers import make_lr_scheduler, make_optimizer

_seed_lock = threading.Lock()

WITHOUT_EFFECT = {"init_from", "cuda_graphs", "base_batch_size"}
"""Settings that are not part of a run's identity. The weights to start from are in its inputs, by
their digest; CUDA graphs change no weight; batch size and learning rate are those chosen."""


class InitialWeights(NamedTuple):
    """The weights file that training starts from, read once."""

    path: Path
    content: bytes

    @classmethod
    def read(cls, path: Path) -> InitialWeights:
        """Read a file; one beside the record of a finished model must be the recorded one.

        Raises:
            ValueError: it cannot be read, or the record describes another file.
        """
        return cls(path, read_weights_file(path))


def train_model(
    out: ModelDir,
    recipe: Recipe,
    training: Training,
    objective: Objective,
    data: TrainingData,
    device: torch.device,
    init_from: Path | None = None,
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the network in `out`, or resume its training; a finished one is left as it is.

    All processes that torchrun started call this together; the first one writes files.

    Args:
        out: the model's folder.
        recipe: geometry, augmentation, targets, loader and monitor.
        training: the network's settings, which may differ from those in `recipe`.
        objective: the loss.
        init_from: weights to start from, a safetensors file; None: the model's initial weights.
        callbacks: names as given to `--callback` (`callbacks.make_callback`).

    Returns:
        The content of `record.json`.

    Raises:
        ValueError: `out` holds another run, or a finished one without its weights, the data or the
            batch size cannot be used, the weights to start from do not fit or are not those that
            their record describes, or the loss diverges.
        Interrupted: after a signal, with everything saved.
    """
    initial = None if init_from is None else InitialWeights.read(init_from)
    inputs = _identity_inputs(data, initial)
    if out.finished:
        identity = make_identity(recipe, settled(training, out), inputs)
        check_identity(out, expected=identity, found=out.record()["identity"])
        out.check_weights()
        return out.record()
    describe_data(data.samples, data.validation, out)
    check_labels(data.samples, training, recipe, out)
    check_validation(data.validation, training)
    with join_process_group(device) as group:
        base = {"base_batch_size": training.base_batch_size}
        group.check_same(make_identity(recipe, training, inputs) | base)
        chosen = choose(training, out, group, _trial(training, objective, data, device))
        run = _prepare(
            out=out,
            recipe=recipe,
            training=chosen,
            stated_learning_rate=training.learning_rate,
            objective=objective,
            data=data,
            identity=make_identity(recipe, chosen, inputs),
            device=device,
            initial=initial,
            group=group,
            callbacks=callbacks,
        )
        with run.monitor.ended():
            run.train()
            if group.is_first:
                _write_record(run)
            group.barrier()
    return out.record()


def _identity_inputs(data: TrainingData, initial: InitialWeights | None) -> dict[str, Any]:
    """Digests of data and initial weights, and a skeleton that the data set defines itself."""
    inputs, skeleton = dict(data.inputs), data.samples.skeleton
    if skeleton not in SKELETONS.values():
        inputs["skeleton"] = {
            "joints": list(skeleton.joints),
            "flip_indices": list(skeleton.flip_indices),
        }
    if initial is not None:
        inputs["init_from"] = hashlib.sha256(initial.content).hexdigest()
    return inputs


def make_identity(recipe: Recipe, training: Training, inputs: dict[str, Any]) -> Identity:
    """Everything that the trained weights depend on.

    Args:
        inputs: digests of files and data, by name.
    """
    return {
        "settings": {
            "training": training.model_dump(mode="json", exclude=WITHOUT_EFFECT),
            "geometry": recipe.geometry.model_dump(mode="json"),
            "augmentation": recipe.augmentation.model_dump(mode="json"),
            "targets": recipe.targets.model_dump(mode="json"),
        },
        "inputs": inputs,
    }


def _trial(
    training: Training, objective: Objective, data: TrainingData, device: torch.device
) -> Trial:
    """What `batch_size = auto` tries: steps of the network, from its initial weights."""
    make_state = partial(
        _initial_state,
        training,
        num_joints=data.samples.skeleton.num_joints,
        total_steps=TRIAL_STEPS,
        device=device,
        initial=None,
        resuming=True,
    )
    return Trial(training, objective, data, device, make_state)


def _prepare(
    out: ModelDir,
    recipe: Recipe,
    training: Training,
    stated_learning_rate: float,
    objective: Objective,
    data: TrainingData,
    identity: Identity,
    device: torch.device,
    initial: InitialWeights | None,
    group: ProcessGroup,
    callbacks: Sequence[str],
) -> Run:
    """A run, restored from its checkpoint if there is one."""
    assert training.batch_size != "auto"  # chosen before
    sampler = data.sampler(training.batch_size, training.seed, group)
    check_batch_size(sampler, training, recipe, out)
    monitor = Monitor(
        recipe=recipe,
        objective=objective,
        data=data,
        sampler=sampler,
        out=out,
        device=device,
        training=training,
        callbacks=callbacks,
    )
    out.path.mkdir(parents=True, exist_ok=True)
    state = _initial_state(
        training,
        num_joints=data.samples.skeleton.num_joints,
        total_steps=training.epochs * sampler.steps,
        device=device,
        initial=initial,
        resuming=out.state.is_file(),
    )
    state.restore(out, identity, group)
    return Run(
        recipe=recipe,
        training=training,
        stated_learning_rate=stated_learning_rate,
        objective=objective,
        state=state,
        make_loader=partial(
            make_loader,
            data.dataset,
            sampler,
            device,
            prefetch=recipe.loader.prefetch,
            reuse_memory=True,
        ),
        sampler=sampler,
        validation=data.validation,
        out=out,
        identity=identity,
        log_mass=_log_mass(recipe, training),
        device=device,
        monitor=monitor,
        group=group,
    )


def _initial_state(
    training: Training,
    *,
    num_joints: int,
    total_steps: int,
    device: torch.device,
    initial: InitialWeights | None,
    resuming: bool,
) -> TrainingState:
    """The state before the first step.

    Args:
        resuming: a checkpoint will replace the weights, so pretrained ones are not loaded.
    """
    # PyTorch has one global generator, and a Dask worker may run two of these in threads.
    with _seed_lock:
        torch.manual_seed(training.seed)
        build = training.model.build if resuming else training.model.start
        network: nn.Module = build(num_joints)
    if initial is not None:
        parse_weights(network, initial.content, initial.path)
    network = to_device(network, device)
    if training.compile:
        network.compile()  # in place, so that the parameters keep their names
    averaged = None
    if training.ema_decay is not None:
        averaged = MovingAverage(network, training.ema_decay)
    optimizer = make_optimizer(training, network)
    return TrainingState(
        network=network,
        optimizer=optimizer,
        lr_scheduler=make_lr_scheduler(training, optimizer, total_steps),
        averaged=averaged,
    )


def _log_mass(recipe: Recipe, training: Training) -> float | None:
    """The log mass to shift heatmaps to; None: training determines their offset."""
    if not training.offset_is_free:
        return None
    return label_log_mass(
        recipe.geometry.heatmap_px,
        recipe.targets.sigma_px,
        area_normalized=recipe.targets.area_normalized,
    )


def _write_record(run: Run) -> None:
    """Write `record.json`, which marks the run as finished.

    Raises:
        ValueError: the weights file is not the one that this run saved.
    """
    progress, out = run.state.progress, run.out
    if not out.weights.is_file() or sha256(out.weights) != progress.weights_sha256:
        raise ValueError(
            f"{out.weights} is not the file that this run saved after epoch {progress.best_epoch}: "
            f"it was damaged, replaced or removed: restore it, or remove {out.path} to start over"
        )
    record = {
        "model": run.training.model.model_dump(mode="json"),
        "geometry": run.recipe.geometry.model_dump(mode="json"),
        "skeleton": asdict(run.validation.skeleton),
        "log_mass": run.log_mass,
        "identity": run.identity,
        "result": {
            "weights_sha256": progress.weights_sha256,
            "metrics_sha256": run.state.write_metrics(out),
            "epochs": progress.epoch,
            "best_epoch": progress.best_epoch,
            "validation_pck": None if progress.best_pck < 0 else progress.best_pck,
            "seconds": sum(row["seconds"] for row in progress.history),
        },
        "device": str(run.device),
        "processes": run.group.size,
        "versions": versions(),
    }
    write_sealed_json(out.record_path, record)
