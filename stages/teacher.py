"""Stage 1: train the teacher on labels.

    fpd run teacher -w work/demo

Reads the data set. Writes `teacher/`: weights.safetensors, metrics.jsonl, and record.json, which
is written last and marks the teacher as finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..data.datasets import load_training
from ..pipeline.config.recipe import Recipe, fresh_views
from ..pipeline.runtime.lock import writer_lock
from ..pipeline.training.callbacks import check_callbacks
from ..pipeline.training.dataset import TrainingData
from ..pipeline.training.objective import Objective
from ..pipeline.training.train import train_model
from ..pipeline.workdir import WorkDir


def run(
    work: WorkDir, recipe: Recipe, device: torch.device, *, callbacks: Sequence[str] = ()
) -> dict[str, Any]:
    """Train the teacher, or resume its training.

    Args:
        callbacks: as given to `--callback` (`training.callbacks`); some run the user's code.

    Returns:
        The content of its `record.json`.

    Raises:
        ValueError: the data set cannot be used, the folder holds a run of other settings, or
            another process is training it.
        Interrupted: after SIGINT or SIGTERM; the same command resumes.
    """
    check_callbacks(callbacks)
    with writer_lock(work.teacher.path):
        return _train(work, recipe, device, callbacks)


def _train(
    work: WorkDir, recipe: Recipe, device: torch.device, callbacks: Sequence[str]
) -> dict[str, Any]:
    samples_by_split = load_training(recipe.data, with_unlabeled=False)
    training_samples = samples_by_split["train"]
    settings = recipe.teacher
    return train_model(
        out=work.teacher,
        recipe=recipe,
        training=settings,
        objective=Objective(recipe.targets, recipe.geometry.heatmap_px, loss=settings.loss),
        data=TrainingData(
            samples=training_samples,
            validation=samples_by_split["validation"],
            dataset=fresh_views(recipe, training_samples, settings.seed),
            views=None,  # a new augmentation of each sample in every epoch
            inputs={"dataset": training_samples.fingerprint()},
        ),
        device=device,
        callbacks=callbacks,
    )
