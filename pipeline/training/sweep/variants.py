"""The students of a sweep: their settings, folders, training and scores.

work/lsp/sweeps/alpha/
  alpha=0.5/seed-0/     weights.safetensors  ...  score.json, or failed.json
  sweep.json  table.md  sweep.png
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...config.overrides import merge
from ...config.recipe import Recipe
from ...config.sections import Sweep
from ...evaluation.inference import predict
from ...evaluation.pck import pck_or_nan
from ...evaluation.report.scores import pck_fields
from ...evaluation.report.tables import is_number
from ...models.checkpoint import load_model
from ...models.complexity import count
from ...models.model_dir import ModelDir
from ...runtime.files import read_sealed_json, write_json, write_sealed_json
from ...runtime.interrupt import Interrupted, stop_requested
from ...runtime.lock import BeingWritten, writer_lock
from ...runtime.text import last_message
from ...store.dataset import load_samples
from ...store.manifest import TeacherEntry
from ...workdir import WorkDir
from ..distill import train_student

log = logging.getLogger("fpd")


STOPPED = "the sweep stopped while it scored a student, which is kept; the same command continues"


@dataclass(frozen=True)
class Variant:
    """One student of a sweep.

    Attributes:
        point: the name of its settings, shared by all seeds and folds.
        settings: JSON; the settings, by dotted key, in which it differs from the recipe.
        seed: its `student.seed`.
        fold: in cross-validation, the part of the training samples that it is scored on.
    """

    point: str
    settings: str
    seed: int
    fold: int | None = None

    @property
    def run(self) -> str:
        """The name of this run among those of its point; also the name of its folder."""
        return f"seed-{self.seed}" if self.fold is None else f"fold-{self.fold}-seed-{self.seed}"

    def folder(self, work: WorkDir, sweep: str) -> ModelDir:
        """Its folder below that of the sweep."""
        path = work.sweep(sweep) / _slug(self.point) / self.run
        return ModelDir(path, label=f"{self.point}, {self.run}")

    def recipe(self, base: Recipe, folds: int | None) -> Recipe:
        """The recipe to train it with.

        Args:
            base: the recipe that its settings change.
            folds: number of folds in cross-validation.

        Raises:
            ValueError: a setting does not exist or is out of range.
        """
        tree: dict[str, Any] = base.model_dump(mode="json")
        changes = json.loads(self.settings) | {"student.seed": self.seed}
        if folds is not None:
            changes["student.fold"] = [self.fold, folds]
        for key, value in changes.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            tree = merge(tree, value)
        return Recipe.parse(tree)


def variants(sweep: Sweep) -> list[Variant]:
    """All students of a sweep: each named point with each combination of the grid, in every run.

    Raises:
        ValueError: two points have the same name, or names that give the same folder.
    """
    combinations = [
        dict(zip(sweep.grid, values, strict=True))
        for values in itertools.product(*sweep.grid.values())
    ]
    points = {
        _point_name(name, combination): json.dumps(combination | changes)
        for combination in combinations
        for name, changes in (sweep.points or {"": {}}).items()
    }
    slugs = {_slug(name) for name in points}
    expected = len(combinations) * max(1, len(sweep.points))
    if len(points) != expected or len(slugs) != expected:
        raise ValueError(
            f"expected {expected} different points in a sweep, found {len(slugs)} different folder "
            f"names: {', '.join(sorted(slugs))}"
        )
    folds = [None] if sweep.folds is None else range(sweep.folds)
    return [
        Variant(point, settings, seed, fold)
        for point, settings in points.items()
        for seed in range(sweep.seeds)
        for fold in folds
    ]


def _point_name(name: str, combination: dict[str, Any]) -> str:
    """The name of a point: the named point's own name, followed by the grid's values."""
    values = [f"{key.split('.')[-1]}={_as_text(value)}" for key, value in combination.items()]
    return " ".join([name, *values]).strip() or "as the recipe"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slug(point: str) -> str:
    """A point's name as a folder's name."""
    return re.sub(r"[^A-Za-z0-9=._-]+", "_", point).strip("._") or "point"


def train_and_score(
    work: WorkDir,
    base: Recipe,
    name: str,
    sweep: Sweep,
    variant: Variant,
    device: torch.device,
    teacher: TeacherEntry | None,
    callbacks: Sequence[str] = (),
) -> dict[str, Any]:
    """Train the student of a variant and score it; what is already there is not repeated.

    Args:
        base: the recipe that the sweep changes.
        name: of the sweep.
        teacher: what the store's manifest must state about the teacher; see `train_student`.
        callbacks: as given to `--callback` (`training.callbacks`); some run the user's code.

    Returns:
        Its row of the sweep's "runs". If the student failed with a ValueError, the message is in
        "error".

    Raises:
        Interrupted: after a signal.
    """
    out = variant.folder(work, name)
    failure = out.path / "failed.json"
    try:
        with writer_lock(out.path):
            try:
                recipe = variant.recipe(base, sweep.folds)
                record = train_student(
                    work=work,
                    recipe=recipe,
                    student=recipe.student,
                    out=out,
                    device=device,
                    teacher=teacher,
                    callbacks=callbacks,
                )
                row = _load_or_score(work, recipe, out, record, device)
            except ValueError as error:
                row = {"error": last_message(error)}
                out.path.mkdir(parents=True, exist_ok=True)
                write_json(failure, row)
            else:
                failure.unlink(missing_ok=True)
    except BeingWritten as error:  # by another process, whose folder this is
        row = {"error": str(error)}
    return {"point": variant.point, "seed": variant.seed, "fold": variant.fold} | row


def _load_or_score(
    work: WorkDir, recipe: Recipe, out: ModelDir, record: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """A trained student's scores, from `score.json` in its folder if that is up to date."""
    result, path = record["result"], out.path / "score.json"
    identity = {
        "weights_sha256": result["weights_sha256"],
        "evaluation": recipe.evaluation.model_dump(mode="json"),
    }
    row = _read_scores(path)
    if any(row.get(key) != value for key, value in identity.items()) or not _has_numbers(row):
        row = identity | _score(work, recipe, out, result, device)
        write_sealed_json(path, row)
    return row


def _has_numbers(row: dict[str, Any]) -> bool:
    """Whether a row has the numbers that are compared, each of the right type."""
    cost = (row.get(key) for key in ("parameters", "gmacs", "seconds", "epochs"))
    scores = [row[key] for key in ("mean", "auc", "validation_pck") if row.get(key) is not None]
    return "mean" in row and all(map(is_number, (*cost, *scores)))


def _read_scores(path: Path) -> dict[str, Any]:
    """The content of a `score.json`; empty if it is missing or damaged, to score again."""
    if not path.is_file():
        return {}
    try:
        return read_sealed_json(path, "remove it")
    except ValueError as error:
        log.warning("%s; the student is scored again", error)
        return {}


def _score(
    work: WorkDir, recipe: Recipe, out: ModelDir, result: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """Cost and scores of a trained student.

    Scores are on the test samples; in cross-validation, the validation PCK on the student's fold.
    """
    test_samples = load_samples(work, recipe, "test")
    skeleton = test_samples.skeleton
    parameters, gmacs = count(recipe.student.model, skeleton.num_joints, recipe.geometry.crop_px)
    row = {
        "parameters": parameters,
        "gmacs": gmacs,
        "seconds": result["seconds"],
        "epochs": result["epochs"],
        "validation_pck": result["validation_pck"],
    }
    if recipe.student.fold is not None:
        return row | {"mean": result["validation_pck"]}
    network = load_model(out, device).network
    try:
        with stop_requested() as stop:
            predictions = predict(
                network, recipe, test_samples, device, stop=stop, tta=recipe.evaluation
            )
    except Interrupted as interrupted:
        raise Interrupted(STOPPED, interrupted.signal) from None
    test_score = pck_or_nan(
        predictions.joints_NK2, test_samples.joints_NK2, test_samples.normalizer_N, skeleton
    )
    return row | pck_fields(test_score, skeleton)
