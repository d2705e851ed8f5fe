"""Who teaches in a run: the work directory's own teacher, or those that its recipe names.

The one place that knows both. A store's manifest has, under "teacher":

    own     {"sha256": of its weights, "model": settings}
    others  {"sha256": of all that follows, "teachers": [{"kind", "sha256", "spec"}, …], "covered_joints":
             names of the joints that somebody teaches}
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn

from ...data.skeletons import Skeleton
from ..config.recipe import Recipe
from ..models.checkpoint import ModelDir, load_model
from ..models.predictor import HeatmapPredictor, make_predictor
from ..runtime.files import sha256
from ..workdir import WorkDir
from .ensemble import covered_joints, ensemble_predictor
from .registry import TeacherRef, load, parse, quick_digest
from .resampling import letterbox_placement
from .spec import Teacher, TeacherSpec

Entry = dict[str, Any]

SIGMA_RATIO = 1.25
"""From which on it is worth saying that teacher and labels draw Gaussians of different widths."""


class HeatmapSource(Protocol):
    """Who is asked.

    Attributes:
        entry: what a manifest has of it.
    """

    @property
    def entry(self) -> Entry: ...

    def predictor(self, device: torch.device) -> HeatmapPredictor:
        """How it is asked, its networks brought to a device."""
        ...


@dataclass(frozen=True)
class TrainedTeacher:
    """The one that stage 1 trained."""

    folder: ModelDir
    recipe: Recipe
    skeleton: Skeleton

    @cached_property
    def entry(self) -> Entry:
        return {
            "sha256": sha256(self.folder.weights),
            "model": self.recipe.teacher.model.model_dump(),
        }

    def predictor(self, device: torch.device) -> HeatmapPredictor:
        network = load_model(self.folder, device).network
        return make_predictor(
            network, device, self.skeleton.flip_indices if self.recipe.flip_averaged else None
        )


@dataclass(frozen=True)
class ExternalTeachers:
    """Those that the recipe names, loaded at once.

    Attributes:
        averaged: whether their answers are averaged with their mirrored twins.
    """

    sources: tuple[TeacherRef, ...]
    teachers: tuple[Teacher, ...]
    recipe: Recipe
    skeleton: Skeleton
    averaged: bool

    @property
    def covered_joints(self) -> tuple[str, ...]:
        """The skeleton's joints that at least one of them knows."""
        specs = [teacher.spec for teacher in self.teachers]
        return covered_joints(specs, self.skeleton, averaged=self.averaged)

    @property
    def parameters(self) -> int | None:
        """Of all their networks; None where one of them shows none."""
        networks = [getattr(teacher, "network", teacher) for teacher in self.teachers]
        modules = [network for network in networks if isinstance(network, nn.Module)]
        if len(modules) < len(networks):
            return None
        return sum(weight.numel() for module in modules for weight in module.parameters())

    def one_pass(self, device: torch.device) -> Callable[[], object]:
        """Each asked once, about a black crop of its own size, on the device where it is."""
        crops = [torch.zeros(1, 3, *t.spec.input, device=device) for t in self.teachers]
        asked = list(zip(self.teachers, crops, strict=True))
        return lambda: [teacher(crop) for teacher, crop in asked]

    @cached_property
    def entry(self) -> Entry:
        parts = [
            {
                "kind": source.kind,
                "sha256": teacher.digest,
                "spec": teacher.spec.model_dump(mode="json"),
            }
            for source, teacher in zip(self.sources, self.teachers, strict=True)
        ]
        whole = {"teachers": parts, "covered_joints": list(self.covered_joints)}
        text = json.dumps(whole, sort_keys=True).encode()
        return {"sha256": hashlib.sha256(text).hexdigest(), **whole}

    def predictor(self, device: torch.device) -> HeatmapPredictor:
        for teacher in self.teachers:
            move = getattr(teacher, "to", None)  # a plain function has none, and needs none
            if move is not None:
                move(device)
        return ensemble_predictor(
            self.teachers,
            self.skeleton,
            self.recipe.geometry,
            device,
            averaged=self.averaged,
        )


def load_teacher(own: ModelDir, recipe: Recipe, skeleton: Skeleton) -> HeatmapSource:
    """Who teaches in a run.

    Args:
        own: the folder of the work directory's own teacher, who is meant where the recipe names
            nobody.

    Raises:
        ValueError: a teacher cannot be loaded, or teaches none of the skeleton's joints.
    """
    if not recipe.store.teachers:
        return TrainedTeacher(own, recipe, skeleton)
    return load_external_teachers(recipe, skeleton, averaged=recipe.flip_averaged)


def load_external_teachers(
    recipe: Recipe, skeleton: Skeleton, *, averaged: bool
) -> ExternalTeachers:
    """The teachers that a recipe names.

    Raises:
        ValueError: one of them cannot be loaded.
    """
    sources = tuple(parse(name) for name in recipe.store.teachers)
    teachers = tuple(load(source) for source in sources)
    return ExternalTeachers(sources, teachers, recipe, skeleton, averaged)


def find_teacher(own: ModelDir, recipe: Recipe, skeleton: Skeleton) -> HeatmapSource | None:
    """The same, or None where some of it is not there: a store can be used without its teacher."""
    if recipe.store.teachers:
        there = external_teachers_exist(recipe)
    else:
        there = own.finished and own.weights.is_file()
    return load_teacher(own, recipe, skeleton) if there else None


def external_teachers_exist(recipe: Recipe) -> bool:
    """Whether the recipe names teachers, and all of them can be looked for where it says."""
    names = recipe.store.teachers
    return bool(names) and all(parse(name).is_there for name in names)


def expected_entry(
    own: ModelDir, recipe: Recipe, manifest: Mapping[str, Any], *, trusting: bool = False
) -> Entry | str:
    """What a store's manifest should have of its teacher, as far as files tell it; no network is
    built, no code of the user's run. Where a teacher is not there, the store's word is taken.

    Args:
        trusting: take the store's word anyway; only the number of teachers must be the recipe's.

    Returns:
        For `make_manifest`.
    """
    found = manifest.get("teacher")
    stored = found if isinstance(found, dict) else {}
    parts = stored.get("teachers")
    names = recipe.store.teachers
    if not names and own.weights.is_file() and not trusting:
        return sha256(own.weights)
    if not names:
        # A store that came from elsewhere, alone: its teachers' places mean nothing here.
        return stored if isinstance(parts, list) else str(stored.get("sha256", "none"))
    expected = copy.deepcopy(stored)
    if not isinstance(parts, list) or len(parts) != len(names):
        return expected | {"teachers": list(names)}
    for part, name in zip(expected["teachers"], names, strict=True):
        digest = None if trusting else quick_digest(parse(name))
        if digest is not None and isinstance(part, dict):
            part["sha256"] = digest
    return expected


def compatibility_warnings(entry: Entry, recipe: Recipe, skeleton: Skeleton) -> list[str]:
    """What a user should know of teachers from elsewhere before students learn from them."""
    said = []
    covered_joints = entry.get("covered_joints", skeleton.joints)
    nobody = [joint for joint in skeleton.joints if joint not in covered_joints]
    if nobody:
        said.append(
            f"covered: {len(covered_joints)} of {skeleton.num_joints} joints; students learn "
            f"{', '.join(nobody)} from labels alone"
        )
    for part in entry.get("teachers", ()):
        sigma = _sigma_on_store(TeacherSpec.model_validate(part["spec"]), recipe)
        wanted = recipe.targets.sigma_px
        if sigma is not None and not 1 / SIGMA_RATIO < sigma / wanted < SIGMA_RATIO:
            said.append(
                f"the {part['kind']} teacher's Gaussians have a sigma of {sigma:.2g} pixels on the "
                f"store's maps, the labels' {wanted:g}: --set targets.sigma_px={sigma:.2g} has "
                "both teach the same"
            )
    return said


def _sigma_on_store(spec: TeacherSpec, recipe: Recipe) -> float | None:
    """Of a teacher's Gaussians, pixels of the store's maps."""
    if spec.sigma_px is None:
        return None
    shown_px = (
        letterbox_placement(spec).side / spec.stride_px
    )  # the crop, in the teacher's heatmap pixels
    return spec.sigma_px * recipe.geometry.heatmap_px / shown_px


def check_teacher(work: WorkDir, recipe: Recipe) -> None:
    """Refuse to go on without a teacher, before anything that takes long.

    Raises:
        ValueError: there is none.
    """
    if not recipe.store.teachers:
        work.check_teacher()
    for name in recipe.store.teachers:
        if not parse(name).is_there:
            raise ValueError(f"--teacher {name}: expected a file or folder, found none")
