"""A grid of students on one store: which there are, where they lie, what became of each.

work/lsp/sweeps/alpha/
alpha=0.5/seed-0/     weights.safetensors  ...  score.json, or failed.json
sweep.json  table.md  sweep.png
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ....data.datasets import load
from ...config.recipe import Recipe, merge
from ...config.sections import Sweep
from ...evaluation.inference import predict
from ...evaluation.pck import pck_where_labeled
from ...evaluation.report.scores import shares
from ...models.checkpoint import ModelDir, load_model
from ...models.complexity import count
from ...runtime.files import read_json, write_json
from ...store.manifest import TeacherEntry
from ...workdir import WorkDir
from ..distill import train_student


@dataclass(frozen=True)
class Variant:
    """One student of a sweep.

    Attributes:
        point: what sets it apart from the sweep's others, seeds aside, as people read it.
        settings: JSON of the settings by dotted key that it differs in.
        fold: which part of the training people it is scored on, in cross-validation.
    """

    point: str
    settings: str
    seed: int
    fold: int | None = None

    @property
    def run(self) -> str:
        """Which of its point's runs it is; its folder's name, too."""
        return f"seed-{self.seed}" if self.fold is None else f"fold-{self.fold}-seed-{self.seed}"

    def folder(self, work: WorkDir, sweep: str) -> ModelDir:
        return ModelDir(work.sweep(sweep) / _slug(self.point) / self.run)

    def recipe(self, base: Recipe, folds: int | None) -> Recipe:
        """The recipe that its student is trained by.

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
    """All students of a sweep: every named point at every place of the grid, in every run.

    Raises:
        ValueError: two of them would lie in one folder.
    """
    places = [dict(zip(sweep.grid, values, strict=True)) for values in _product(sweep)]
    points = {
        _name(name, place): json.dumps(place | changes)
        for place in places
        for name, changes in (sweep.points or {"": {}}).items()
    }
    slugs = {_slug(name) for name in points}
    expected = len(places) * max(1, len(sweep.points))
    if len(points) != expected or len(slugs) != expected:
        raise ValueError("expected different points in a sweep, found some of one name")
    folds = [None] if sweep.folds is None else range(sweep.folds)
    return [
        Variant(point, settings, seed, fold)
        for point, settings in points.items()
        for seed in range(sweep.seeds)
        for fold in folds
    ]


def _product(sweep: Sweep) -> Iterator[tuple[Any, ...]]:
    return itertools.product(*sweep.grid.values())


def _name(name: str, place: dict[str, Any]) -> str:
    """A point's name: the named point's own, and what the grid says."""
    said = [f"{key.split('.')[-1]}={_shown(value)}" for key, value in place.items()]
    return " ".join([name, *said]).strip() or "as the recipe"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _slug(point: str) -> str:
    return re.sub(r"[^A-Za-z0-9=._-]+", "_", point).strip("._") or "point"


def train_and_score(
    work: WorkDir,
    base: Recipe,
    name: str,
    sweep: Sweep,
    variant: Variant,
    device: torch.device,
    teacher: TeacherEntry | None,
) -> dict[str, Any]:
    """Train a variant's student and score it, or take up what is there of both.

    Args:
        teacher: what the store's manifest must state of its teacher; see `train_student`.

    Returns:
        Its row; one that failed for a reason of its own has that as "error".

    Raises:
        Interrupted: after a signal.
    """
    out = variant.folder(work, name)
    failed = out.path / "failed.json"
    try:
        recipe = variant.recipe(base, sweep.folds)
        record = train_student(work, recipe, recipe.student, out, device, teacher)
        row = _scored(work, recipe, out, record, device)
    except ValueError as error:
        row = {"error": str(error)}
        out.path.mkdir(parents=True, exist_ok=True)
        write_json(failed, row)
    else:
        failed.unlink(missing_ok=True)
    return {"point": variant.point, "seed": variant.seed, "fold": variant.fold} | row


def _scored(
    work: WorkDir, recipe: Recipe, out: ModelDir, record: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """A trained student's scores, kept in `score.json` beside it.

    They are of the test people; in cross-validation of the fold, as training found them.
    """
    result, path = record["result"], out.path / "score.json"
    asked = {
        "weights_sha256": result["weights_sha256"],
        "evaluation": recipe.evaluation.model_dump(mode="json"),
    }
    row = read_json(path) if path.is_file() else {}
    if any(row.get(key) != value for key, value in asked.items()):
        row = asked | _measured(recipe, out, result, device)
        write_json(path, row)
    return row


def _measured(
    recipe: Recipe, out: ModelDir, result: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    people = load(recipe.data, "test")
    joints = people.skeleton.num_joints
    parameters, gmacs = count(recipe.student.model, joints, recipe.geometry.crop_px)
    spent = {"parameters": parameters, "gmacs": gmacs, "seconds": result["seconds"]}
    found = {"epochs": result["epochs"], "validation_pck": result["validation_pck"]}
    if recipe.student.fold is not None:
        return spent | found | {"mean": result["validation_pck"]}
    network = load_model(out, device).network
    said = predict(network, recipe, people, device, tta=recipe.evaluation).joints_NK2
    score = pck_where_labeled(said, people.joints_NK2, people.normalizer_N, people.skeleton)
    return spent | found | shares(score, people.skeleton)
