"""The teacher of a run: the one trained in its work directory, or those that its recipe names.

A store's manifest describes it under "teacher":

    trained here  {"sha256": of the weights, "model": settings}
    external      {"sha256": of the rest of this entry as JSON,
                   "teachers": [{"kind", "sha256", "spec"}, …],
                   "covered_joints": names of the joints that have a heatmap,
                   and of crops that are not the students':
                   "crop_px": side, pixels,
                   "crop_box": side of what they show, relative to the view's box, unless 1,
                   "alignment": {"method", "version"}, if they are turned}
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

from ...data.joint_names import canonical, joint_order
from ...data.skeletons import SKELETONS, Skeleton, check_pairs
from ...data.views import TeacherCrop
from ..config.recipe import Recipe
from ..config.sections import TeacherAlignment
from ..models.checkpoint import load_model
from ..models.model_dir import ModelDir
from ..models.predictor import HeatmapPredictor, make_predictor
from ..runtime.files import sha256
from ..workdir import WorkDir
from .alignment import ALIGNMENT_VERSION
from .ensemble import covered_joints, ensemble_predictor
from .heads import sigmas_on_store
from .passes import aligning_joints, crop_for, shown_factor
from .published import NO_JOINT
from .registry import (
    TeacherRef,
    check_allowed,
    load,
    model_digest,
    parse,
    quick_digest,
    require,
)
from .spec import Teacher, TeacherSpec

Entry = dict[str, Any]

SIGMA_RATIO = 1.25
"""Warn if the widths of the teacher's and the labels' Gaussians differ by this factor or more."""


class HeatmapSource(Protocol):
    """Where the heatmaps of a store come from.

    Attributes:
        entry: its description in the store's manifest.
    """

    @property
    def entry(self) -> Entry: ...

    def predictor(self, device: torch.device) -> HeatmapPredictor:
        """A predictor of its heatmaps; its networks are moved to the device."""
        ...


@dataclass(frozen=True)
class TrainedTeacher:
    """The teacher that the first stage trained."""

    folder: ModelDir
    recipe: Recipe
    skeleton: Skeleton

    @cached_property
    def entry(self) -> Entry:
        return {
            "sha256": self.folder.check_weights(),
            "model": self.recipe.teacher.model.model_dump(),
        }

    def predictor(self, device: torch.device) -> HeatmapPredictor:
        model = load_model(self.folder, device)
        owners = f"the teacher {model.name}", f"the data set {self.skeleton.name}"
        to_model = joint_order(model.skeleton.joints, self.skeleton.joints, *owners)
        check_pairs(model.skeleton, self.skeleton.reordered(to_model), *owners)
        predictor = make_predictor(
            model.network,
            device,
            model.skeleton.flip_indices if self.recipe.flip_averaged else None,
        )
        if to_model == tuple(range(len(to_model))):
            return predictor
        order = [to_model.index(joint) for joint in range(len(to_model))]
        return lambda crops: predictor(crops)[:, order]


@dataclass(frozen=True)
class ExternalTeachers:
    """The teachers that the recipe names, loaded.

    Attributes:
        averaged: whether their heatmaps are averaged with those of the flipped crop.
    """

    refs: tuple[TeacherRef, ...]
    teachers: tuple[Teacher, ...]
    recipe: Recipe
    skeleton: Skeleton
    averaged: bool

    @property
    def covered_joints(self) -> tuple[str, ...]:
        """The skeleton's joints for which at least one teacher has a heatmap."""
        specs = [teacher.spec for teacher in self.teachers]
        return covered_joints(specs, self.skeleton, averaged=self.averaged)

    @property
    def crop(self) -> TeacherCrop | None:
        """The crops that they are run on; None: the students'."""
        if self.recipe.store.teacher_crops == "student":
            return None
        crop = crop_for([teacher.spec for teacher in self.teachers], self.alignment)
        return None if crop == TeacherCrop(self.recipe.geometry.crop_px) else crop

    @property
    def alignment(self) -> TeacherAlignment:
        """How their crops are turned upright."""
        return self.recipe.store.teacher_alignment

    @property
    def parameters(self) -> int | None:
        """Number of parameters of all networks; None if a teacher is not an `nn.Module`."""
        networks = [getattr(teacher, "network", teacher) for teacher in self.teachers]
        modules = [network for network in networks if isinstance(network, nn.Module)]
        if len(modules) < len(networks):
            return None
        return sum(weight.numel() for module in modules for weight in module.parameters())

    def one_pass(self, device: torch.device) -> Callable[[], object]:
        """A function that runs every teacher on one crop of zeros, to measure its cost.

        Passes that only turn the crop are left out.

        Args:
            device: where `predictor` has moved the teachers.
        """
        inputs = [
            (teacher, torch.zeros(1, 3, *teacher.spec.input, device=device))
            for teacher in self.teachers
        ]
        return lambda: [teacher(crop) for teacher, crop in inputs]

    @cached_property
    def entry(self) -> Entry:
        by_body = self.alignment == "body"
        parts = [
            {
                "kind": ref.kind,
                "sha256": teacher.digest,
                "spec": teacher.spec.manifest_entry(with_body_points=by_body),
            }
            for ref, teacher in zip(self.refs, self.teachers, strict=True)
        ]
        content: Entry = {"teachers": parts, "covered_joints": list(self.covered_joints)}
        if self.crop is not None:
            content["crop_px"] = self.crop.side_px
            if self.crop.box_factor != 1:
                content["crop_box"] = self.crop.box_factor
        content |= _alignment_entry(self.alignment)
        text = json.dumps(content, sort_keys=True).encode()
        return {"sha256": hashlib.sha256(text).hexdigest(), **content}

    def predictor(self, device: torch.device) -> HeatmapPredictor:
        for teacher in self.teachers:
            move = getattr(teacher, "to", None)  # `Teacher` does not require it
            if move is not None:
                move(device)
        return ensemble_predictor(
            self.teachers,
            self.skeleton,
            self.recipe.geometry,
            device,
            averaged=self.averaged,
            crop=self.crop,
            alignment=self.alignment,
        )


def _alignment_entry(method: TeacherAlignment) -> Entry:
    if method == "none":
        return {}
    return {"alignment": {"method": method, "version": ALIGNMENT_VERSION}}


def load_teacher(
    own: ModelDir, recipe: Recipe, skeleton: Skeleton, *, allow_code: bool
) -> HeatmapSource:
    """The teacher, or teachers, of a run.

    Args:
        own: the folder of the work directory's own teacher, which is used if the recipe names none.
        allow_code: whether to run teachers that are Python code; see `registry.load`.

    Raises:
        ValueError: a teacher cannot be loaded, or covers none of the skeleton's joints.
    """
    if not recipe.store.teachers:
        return TrainedTeacher(own, recipe, skeleton)
    return load_external_teachers(
        recipe, skeleton, averaged=recipe.flip_averaged, allow_code=allow_code
    )


def load_external_teachers(
    recipe: Recipe, skeleton: Skeleton, *, averaged: bool, allow_code: bool
) -> ExternalTeachers:
    """The teachers that a recipe names.

    Args:
        allow_code: whether to run teachers that are Python code; see `registry.load`.

    Raises:
        ValueError: one of them cannot be loaded, or lacks the joints by which crops are turned.
    """
    refs = tuple(parse(name) for name in recipe.store.teachers)
    check_code(recipe, allow_code=allow_code)  # before the others are loaded
    teachers = tuple(load(ref, allow_code=allow_code) for ref in refs)
    for teacher in teachers:
        aligning_joints(teacher.spec, recipe.store.teacher_alignment)
    return ExternalTeachers(refs, teachers, recipe, skeleton, averaged)


def taught_joints(recipe: Recipe, *, allow_code: bool) -> tuple[str, ...]:
    """The joints that students can learn from the teachers that a recipe names, in their order.

    They are those of a built-in skeleton, if the teachers' are the same in other words or order.

    Args:
        allow_code: whether to run teachers that are Python code; see `registry.load`.

    Raises:
        ValueError: a teacher cannot be loaded.
    """
    check_code(recipe, allow_code=allow_code)
    joints: dict[str, str] = {}
    for name in recipe.store.teachers:
        for joint in load(parse(name), allow_code=allow_code).spec.joints:
            if not NO_JOINT.fullmatch(joint):
                joints.setdefault(canonical(joint), joint)
    for skeleton in SKELETONS.values():
        if {canonical(joint) for joint in skeleton.joints} == joints.keys():
            return skeleton.joints
    return tuple(joints.values())


def find_teacher(
    own: ModelDir, recipe: Recipe, skeleton: Skeleton, *, allow_code: bool
) -> HeatmapSource | None:
    """As `load_teacher`, or None if a file is missing: stores are usable without their teacher."""
    if recipe.store.teachers:
        exists = external_teachers_exist(recipe)
    else:
        exists = own.finished and own.weights.is_file()
    return load_teacher(own, recipe, skeleton, allow_code=allow_code) if exists else None


def external_teachers_exist(recipe: Recipe) -> bool:
    """Whether the recipe names teachers, and their files or folders exist."""
    names = recipe.store.teachers
    return bool(names) and all(parse(name).exists for name in names)


def expected_entry(
    own: ModelDir, recipe: Recipe, manifest: Mapping[str, Any], *, trusting: bool = False
) -> Entry | str:
    """The teacher's entry that a store's manifest should have, as far as files determine it.

    No network is built, and no code of the user's is run. What cannot be determined, such as the
    digest of a teacher whose file is missing, is taken from the store's own manifest.

    Args:
        manifest: the store's.
        trusting: take every digest from the store's manifest; only the number of teachers must
            match the recipe.

    Returns:
        An entry, or the digest of the trained teacher's weights, for `make_manifest`.

    Raises:
        ValueError: a teacher's weights are not those that its record describes.
    """
    entry = manifest.get("teacher")
    stored = entry if isinstance(entry, dict) else {}
    parts = stored.get("teachers")
    names = recipe.store.teachers
    own_digest = None if names or trusting else _own_digest(own)
    if own_digest is not None:
        return own_digest
    if not names:
        # A store that was copied here without its teachers: their paths are unknown.
        return stored if isinstance(parts, list) else str(stored.get("sha256", "none"))
    expected = copy.deepcopy(stored)
    if not isinstance(parts, list) or len(parts) != len(names):
        return expected | {"teachers": list(names)}
    if not trusting:
        expected.pop("alignment", None)
        expected |= _alignment_entry(recipe.store.teacher_alignment)
    for part, name in zip(expected["teachers"], names, strict=True):
        digest = None if trusting else quick_digest(parse(name))
        if digest is not None and isinstance(part, dict):
            part["sha256"] = digest
    return expected


def _own_digest(own: ModelDir) -> str | None:
    """SHA-256 of the trained teacher's weights, as far as there are any."""
    if not own.finished and own.weights.is_file():
        return sha256(own.weights)  # it is still being trained, or lost its record
    return model_digest(own)


def compatibility_warnings(entry: Entry, recipe: Recipe, skeleton: Skeleton) -> list[str]:
    """Warnings about external teachers that differ from what students are trained on.

    Args:
        entry: the teacher's entry in the store's manifest.
    """
    warnings = []
    covered = entry.get("covered_joints", skeleton.joints)
    uncovered = [joint for joint in skeleton.joints if joint not in covered]
    if uncovered:
        warnings.append(
            f"covered: {len(covered)} of {skeleton.num_joints} joints; students learn "
            f"{', '.join(uncovered)} from labels alone"
        )
    for part in entry.get("teachers", ()):
        sigma = _sigma_on_store(TeacherSpec.model_validate(part["spec"]), recipe)
        label_sigma = recipe.targets.sigma_px
        if sigma is not None and not 1 / SIGMA_RATIO < sigma / label_sigma < SIGMA_RATIO:
            warnings.append(
                f"the {part['kind']} teacher's Gaussians have a sigma of {sigma:.2g} heatmap "
                f"pixels in the store, the labels' {label_sigma:g}: "
                f"--set targets.sigma_px={sigma:.2g} makes them equal"
            )
    return warnings


def _sigma_on_store(spec: TeacherSpec, recipe: Recipe) -> float | None:
    """Sigma of a teacher's Gaussians, in pixels of the store's heatmaps."""
    by_itself = recipe.store.teacher_crops == "own"
    shown = shown_factor(spec, recipe.store.teacher_alignment) if by_itself else 1.0
    sigma_yx = sigmas_on_store(spec, recipe.geometry, shown_factor=shown)
    return None if sigma_yx is None else sum(sigma_yx) / 2


def check_code(recipe: Recipe, *, allow_code: bool) -> None:
    """Refuse a recipe that names Python code as a teacher, unless code is allowed.

    Raises:
        CodeNotAllowed: the message names the code, and the option that allows it.
    """
    for name in recipe.store.teachers:
        if parse(name).kind == "python":
            check_allowed(name, allow_code=allow_code)


def check_teacher(work: WorkDir, recipe: Recipe, *, allow_code: bool) -> None:
    """Refuse a run whose teacher does not exist, before anything slow is done.

    Args:
        allow_code: whether to run teachers that are Python code; see `registry.load`.

    Raises:
        ValueError: a file or folder is missing, the work directory has no finished teacher or one
            for crops of another size, or the recipe names code that is not allowed.
    """
    check_code(recipe, allow_code=allow_code)
    if not recipe.store.teachers:
        if recipe.store.teacher_alignment != "none":
            raise ValueError(
                f"store.teacher_alignment = {recipe.store.teacher_alignment} turns the crops of "
                "external teachers, and the recipe names none: give one with --teacher, or "
                "--set store.teacher_alignment=none (the teacher trained here has seen no turned "
                "crops)"
            )
        work.check_teacher()
        _check_geometry(work.teacher, recipe)
    for ref in map(parse, recipe.store.teachers):
        if ref.kind != "python":
            require(ref)


def _check_geometry(own: ModelDir, recipe: Recipe) -> None:
    """Refuse to run the trained teacher on crops of another size than those it was trained on.

    It is run on the students' crops. On larger or smaller ones it is a worse teacher
    (docs/experiments.md, "A teacher at its own resolution"), and nothing else would show that.
    """
    trained, wanted = own.facts().geometry, recipe.geometry
    if trained != wanted:
        raise ValueError(
            f"{own.path} was trained with geometry.crop_px = {trained.crop_px} and "
            f"geometry.stride_px = {trained.stride_px}, found {wanted.crop_px} and "
            f"{wanted.stride_px} in this run: `--teacher {own.path}` runs it on crops of its own "
            f"size; --set geometry.crop_px={trained.crop_px} --set "
            f"geometry.stride_px={trained.stride_px} makes heatmaps for students of that size"
        )
