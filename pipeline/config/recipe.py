"""The recipe: all settings of a run, as one typed tree.

A recipe is a TOML file, either one of the shipped ones in `recipes/` or the user's own. The option
`--set key.sub=value` overrides single settings. The sections are in `sections.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, field_validator, model_validator

from ...data.geometry import Geometry
from ...data.io.files import read_bytes
from ...data.sections import STORE_READER, Augmentation, Data
from ...data.settings import Settings
from ..models.settings import HourglassSettings
from ..runtime.dask_cluster import Cluster
from .errors import describe, did_you_mean
from .overrides import merge, parse_grid, parse_override, parse_toml
from .sections import (
    Loader,
    Monitor,
    Store,
    Student,
    Sweep,
    Targets,
    TestTimeAugmentation,
    Training,
)

if TYPE_CHECKING:
    from ...data.samples import SampleSet
    from ...data.views import TeacherCrop, Views

MAX_RECIPE_BYTES = 1 << 20


class Recipe(Settings):
    """Everything that a run depends on."""

    data: Data = Data()
    geometry: Geometry = Geometry()
    augmentation: Augmentation = Augmentation()
    targets: Targets = Targets()
    teacher: Training = Training(model=HourglassSettings(stages=8, channels=256))
    store: Store = Store()
    student: Student = Student()
    students: dict[str, dict[str, Any]] = Field(
        {}, description="further students by name: what differs from `student`"
    )
    loader: Loader = Loader()
    evaluation: TestTimeAugmentation = TestTimeAugmentation()
    cluster: Cluster = Cluster()
    monitor: Monitor = Monitor()
    sweeps: dict[str, Sweep] = Field({}, description="grids of students by name")

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Recipe:
        """Parse a tree of settings.

        Raises:
            ValueError: a setting does not exist or is out of range; the message names its key.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ValueError(describe(error, cls)) from None

    @field_validator("students", "sweeps")
    @classmethod
    def _names_are_folders(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            check_name(name)
        return value

    @model_validator(mode="after")
    def _crops_fit_networks(self) -> Recipe:
        for training in (self.teacher, *(self.student_named(name) for name in self.student_names)):
            training.model.check_crop(self.geometry.crop_px, self.geometry.stride_px)
        return self

    @property
    def flip_averaged(self) -> bool:
        """Whether the teacher's output is flip-averaged, and students flip the stored views.

        Only if augmentation flips: without, the teacher was not trained on flipped crops.
        """
        return self.store.flip_averaged and self.augmentation.flip

    @property
    def stored_augmentation(self) -> Augmentation:
        """The augmentation of stored views; without flips if students flip the views themselves."""
        if self.flip_averaged:
            # Not `model_copy`, which would also copy the digest that this one may have cached.
            return Augmentation(**self.augmentation.model_dump() | {"flip": False})
        return self.augmentation

    def with_geometry(self, geometry: Geometry) -> Recipe:
        """Return the recipe with the geometry of the model to run."""
        return self.model_copy(update={"geometry": geometry})

    def portable_settings(self) -> dict[str, Any]:
        """The settings for whoever has the portable store alone: without paths, data and cluster.

        Of the data set, the store has the samples; its teachers are described by its manifest.
        """
        tree = self.model_dump(mode="json")
        tree["data"] = {"reader": STORE_READER}
        for name in ("cluster", "loader"):
            del tree[name]
        tree["sweeps"] = {
            name: sweep
            for name, sweep in tree["sweeps"].items()
            if SWEPT_INIT_FROM not in (*sweep["grid"], *chain(*sweep["points"].values()))
        }
        for name in ("location", "teachers", "license"):
            del tree["store"][name]
        for student in (tree["student"], *tree["students"].values()):
            student.pop(INIT_FROM, None)
        return tree

    @property
    def student_names(self) -> list[str]:
        return [DEFAULT_STUDENT, *self.students]

    def section(self, name: str) -> str:
        """The key of the section with the settings of the model called `name`."""
        if name == "teacher":
            return name
        return f"students.{name}" if name in self.students else DEFAULT_STUDENT

    def student_named(self, name: str) -> Student:
        """The settings of the student called `name`: `student`, updated with its own if any."""
        changes = self.students.get(name, {})
        try:
            return Student.model_validate(merge(self.student.model_dump(), changes))
        except ValidationError as error:
            raise ValueError(describe(error, Student, f"students.{name}.")) from None


DEFAULT_STUDENT = "student"
RESERVED_NAMES = frozenset(
    {"teacher", "evaluation", "heatmaps.zarr", "predictions", "recipe.json", "sweeps"}
)


def check_name(name: str) -> str:
    """Check a student's name, which is also the name of its folder, and return it.

    Raises:
        ValueError: the name is reserved, or has characters other than letters, digits, dots,
            dashes and underscores.
    """
    plain = name and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if not plain or name.startswith(".") or name in RESERVED_NAMES:
        raise ValueError(
            f"expected a student's name of letters, digits, '-', '_' and '.', other than "
            f"{', '.join(sorted(RESERVED_NAMES))}; got {name!r}"
        )
    return name


def shipped_recipes() -> list[str]:
    """Names of the recipes that the package ships."""
    folder = resources.files(__package__) / "recipes"
    return sorted(
        f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")
    )


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a shipped recipe by name, or a TOML file by path, and apply `key.sub=value` overrides.

    Raises:
        ValueError: no such recipe, not TOML, an unknown key or a value out of range; the message
            names the key.
    """
    tree: dict[str, Any] = {}
    for _, layer in recipe_layers(name_or_path):
        tree = merge(tree, layer)
    return apply_overrides(tree, overrides)


def recipe_layers(name_or_path: str) -> list[tuple[str, dict[str, Any]]]:
    """A recipe's name and tree, after those of the recipe that it `extends`, whose settings it has.

    Raises:
        ValueError: there is no such recipe, it is not TOML, or extends anything but a shipped one.
    """
    tree = parse_toml(recipe_text(name_or_path), name_or_path)
    base = tree.pop("extends", None)
    layer = (name_or_path, tree)
    if base is None:
        return [layer]
    if base not in shipped_recipes() or base == name_or_path:
        raise ValueError(
            f"{name_or_path}: expected extends to name another shipped recipe "
            f"({', '.join(shipped_recipes())}), got {base!r}"
        )
    return [*recipe_layers(base), layer]


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """Parse a tree of settings with overrides as given to `--set`."""
    merged = dict(tree)
    for override in overrides:
        merged = merge(merged, parse_override(override))
    return Recipe.parse(merged)


def recipe_text(name_or_path: str) -> str:
    """The TOML text of a shipped recipe, or of a file.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    if name_or_path in shipped_recipes():
        folder = resources.files(__package__) / "recipes"
        return (folder / f"{name_or_path}.toml").read_text("utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"no recipe {name_or_path!r}: expected a TOML file or one of "
            f"{', '.join(shipped_recipes())}{did_you_mean(name_or_path, shipped_recipes())}"
        )
    return read_bytes(path, MAX_RECIPE_BYTES, "a recipe").decode("utf-8", errors="replace")


def parse_sweep(
    base: Sweep | None, grid: Sequence[str], seeds: int | None, folds: int | None
) -> Sweep:
    """Update a recipe's sweep, if any, with the options of `fpd sweep`.

    Args:
        grid: as given to `--grid`: `key.sub=value,value`.
        seeds, folds: as given to `--seeds` and `--folds`; None: not given.

    Raises:
        ValueError: an option has another form, or its setting cannot be varied.
    """
    tree = {} if base is None else base.model_dump()
    options = {"grid": dict(map(parse_grid, grid)), "seeds": seeds, "folds": folds}
    given = {key: value for key, value in options.items() if value not in (None, {})}
    try:
        return Sweep.model_validate(merge(tree, given))
    except ValidationError as error:
        raise ValueError(describe(error, Sweep)) from None


FRESH_VIEWS_SEED = 1 << 63
"""Stores have seeds in the lower half of the generator's range, fresh training views in the upper:
the stored views are never the very views that the teacher was trained on."""


def fresh_views(recipe: Recipe, samples: SampleSet, seed: int) -> Views:
    """Views that are new in every epoch: for teachers, and for students without a store."""
    from ...data.views import Views  # imported here: it imports OpenCV

    return Views(samples, recipe.geometry, recipe.augmentation, FRESH_VIEWS_SEED + seed)


def stored_views(
    recipe: Recipe, samples: SampleSet, teacher_crop: TeacherCrop | None = None
) -> Views:
    """The views of the store, which its seed determines.

    Args:
        teacher_crop: what the teacher is run on (`models.predictor.input_crop`); None: the
            students' crops.
    """
    from ...data.views import Views  # imported here: it imports OpenCV

    return Views(
        samples,
        recipe.geometry,
        recipe.stored_augmentation,
        recipe.store.seed,
        crop_quality=recipe.store.crop_quality if recipe.store.portable else None,
        teacher_crop=teacher_crop,
    )


INIT_FROM = "init_from"
SWEPT_INIT_FROM = f"{DEFAULT_STUDENT}.{INIT_FROM}"
FACTORY_NAME = re.compile(r"[\w.]+:\w+")
"""A Python factory of teachers, `package.module:function` (`teachers.registry`): not a path."""


def absolute_settings(recipe: Recipe, work: Path | None = None) -> dict[str, Any]:
    """A recipe's tree with absolute paths, which mean the same files in every working directory.

    Args:
        work: the work directory, below which `student.init_from` names folders first.
    """
    settings = recipe.model_dump(mode="json")
    settings["data"] = recipe.data.absolute().model_dump(mode="json")
    location = recipe.store.location
    if location is not None and "://" not in location:
        settings["store"]["location"] = str(Path(location).absolute())
    if recipe.loader.cache_dir is not None:
        settings["loader"]["cache_dir"] = str(Path(recipe.loader.cache_dir).absolute())
    settings["store"]["teachers"] = [_absolute_teacher(name) for name in recipe.store.teachers]
    for student in (settings["student"], *settings["students"].values()):
        if isinstance(student.get(INIT_FROM), str):
            student[INIT_FROM] = _absolute_if_exists(student[INIT_FROM], work)
    for sweep in settings["sweeps"].values():
        for point in sweep["points"].values():
            if isinstance(point.get(SWEPT_INIT_FROM), str):
                point[SWEPT_INIT_FROM] = _absolute_if_exists(point[SWEPT_INIT_FROM], work)
        if SWEPT_INIT_FROM in sweep["grid"]:
            sweep["grid"][SWEPT_INIT_FROM] = [
                _absolute_if_exists(value, work) if isinstance(value, str) else value
                for value in sweep["grid"][SWEPT_INIT_FROM]
            ]
    return settings


def _absolute_teacher(name: str) -> str:
    """The name of an external teacher with an absolute path, if it has one (`LAYOUT:FILE` may)."""
    if FACTORY_NAME.fullmatch(name):
        return name
    prefix, colon, path = ("", "", name) if Path(name).exists() else name.partition(":")
    return prefix + colon + _absolute_if_exists(path, None) if path else name


def _absolute_if_exists(path: str, work: Path | None) -> str:
    """An absolute path, unless it names a folder of the work directory, or nothing yet."""
    if work is not None and (work / path).is_dir():
        return path
    return str(Path(path).absolute()) if Path(path).exists() else path
