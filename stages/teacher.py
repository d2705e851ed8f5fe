"""Stage 1: train the teacher on labels.

    fpd run teacher -w work/demo

In: the data set. Out: `teacher/` (weights.safetensors, metrics.jsonl, record.json).
"""

from __future__ import annotations

from typing import Any

import torch

from ..data.datasets import load_training
from ..pipeline.config.recipe import Recipe, fresh_views
from ..pipeline.training.objective import Objective
from ..pipeline.training.train import train_model
from ..pipeline.workdir import WorkDir


def run(work: WorkDir, recipe: Recipe, device: torch.device) -> dict[str, Any]:
    """Train the teacher, or go on with it.

    Returns:
        Its `record.json`.

    Raises:
        ValueError: the data set cannot be used, or the folder holds another run.
    """
    people = load_training(recipe.data, with_unlabeled=False)
    return train_model(
        out=work.teacher,
        recipe=recipe,
        training=recipe.teacher,
        objective=Objective(recipe.targets, recipe.geometry.heatmap_px, loss=recipe.teacher.loss),
        dataset=fresh_views(recipe, people["train"], recipe.teacher.seed),
        people=people,
        views=None,
        inputs={"dataset": people["train"].fingerprint()},
        device=device,
    )
