"""The recipe: every setting of a run, typed, in one tree.

A recipe is a TOML file (shipped ones in `recipes/`, or the user's own); `--set key.sub=value`
overrides single settings. Its sections are in `sections.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from ...data.augmentation import Augmentation
from ...data.datasets import Data
from ...data.io.files import read_bytes
from ...data.samples import SampleSet
from ...data.settings import Settings
from ...data.views import Geometry, Views
from ..models.hourglass import HourglassSettings
from ..models.networks import DEFAULT_MODEL, MODELS
from ..runtime.dask_cluster import Cluster
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
        """A recipe from a tree of settings.

        Raises:
            ValueError: a setting does not exist or is out of range; the message names its key.
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise ValueError(describe(error)) from None

    @field_validator("students", "sweeps")
    @classmethod
    def _names_are_folders(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            check_name(name)
        return value

    @model_validator(mode="after")
    def _everything_fits(self) -> Recipe:
        for training in (self.teacher, *(self.student_named(name) for name in self.student_names)):
            training.model.check_crop(self.geometry.crop_px, self.geometry.stride_px)
        return self

    @property
    def flip_averaged(self) -> bool:
        """Whether the teacher answers flip-averaged, and students mirror the stored views.

        A teacher that never saw a mirrored person has nothing to say of one.
        """
        return self.store.flip_averaged and self.augmentation.flip

    @property
    def stored_augmentation(self) -> Augmentation:
        """What stored views are drawn from: mirroring is left out where the student draws it."""
        if self.flip_averaged:
            # Built anew: a copy would take along a digest that was worked out before.
            return Augmentation(**self.augmentation.model_dump() | {"flip": False})
        return self.augmentation

    def with_geometry(self, geometry: Geometry) -> Recipe:
        """The recipe with another model's geometry, for running that model."""
        return self.model_copy(update={"geometry": geometry})

    @property
    def student_names(self) -> list[str]:
        return [DEFAULT_STUDENT, *self.students]

    def section(self, name: str) -> str:
        """The part of the recipe that the model called `name` has its settings from."""
        if name == "teacher":
            return name
        return f"students.{name}" if name in self.students else DEFAULT_STUDENT

    def student_named(self, name: str) -> Student:
        """The settings of the student called `name`: `student`, with its own overrides if any."""
        changes = self.students.get(name, {})
        try:
            return Student.model_validate(merge(self.student.model_dump(), changes))
        except ValidationError as error:
            raise ValueError(describe(error, f"students.{name}.")) from None


DEFAULT_STUDENT = "student"
RESERVED_NAMES = frozenset(
    {"teacher", "evaluation", "heatmaps.zarr", "predictions", "recipe.json", "sweeps"}
)


def check_name(name: str) -> str:
    """A student's name, which is also its folder's.

    Raises:
        ValueError: it is taken, or not letters, digits, dots, dashes and underscores.
    """
    plain = name and name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    if not plain or name.startswith(".") or name in RESERVED_NAMES:
        raise ValueError(
            f"expected a student's name of letters, digits, '-', '_' and '.', and none of "
            f"{', '.join(sorted(RESERVED_NAMES))}; got {name!r}"
        )
    return name


def shipped_recipes() -> list[str]:
    """Names of the recipes in the package."""
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
    return apply_overrides(_read_tree(name_or_path), overrides)


def _read_tree(name_or_path: str) -> dict[str, Any]:
    """A recipe's tree, laid over the one that it `extends`, if any."""
    tree = parse_toml(_recipe_text(name_or_path), name_or_path)
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if base not in shipped_recipes() or base == name_or_path:
        raise ValueError(
            f"{name_or_path}: expected extends to name another shipped recipe "
            f"({', '.join(shipped_recipes())}), got {base!r}"
        )
    return merge(_read_tree(base), tree)


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """Build a recipe from a tree of settings, with overrides as given to `--set`."""
    merged = dict(tree)
    for override in overrides:
        merged = merge(merged, _parse_override(override))
    return Recipe.parse(merged)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, table by table; another kind of network replaces one."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _differ(below, value):
            value = merge(below, value)
        merged[key] = value
    return merged


def _differ(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether two tables are settings of two kinds of networks."""
    before = below.get("name", DEFAULT_MODEL)
    return before in MODELS and value.get("name", before) != before


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """Parse TOML, or say in one sentence where it is not."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name} is not a TOML file: {error}") from None


def _recipe_text(name_or_path: str) -> str:
    if name_or_path in shipped_recipes():
        folder = resources.files(__package__) / "recipes"
        return (folder / f"{name_or_path}.toml").read_text("utf-8")
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(
            f"no recipe {name_or_path!r}: expected a TOML file or one of "
            f"{', '.join(shipped_recipes())}"
        )
    return read_bytes(path, MAX_RECIPE_BYTES, "a recipe").decode("utf-8", errors="replace")


def parse_sweep(
    base: Sweep | None, grid: Sequence[str], seeds: int | None, folds: int | None
) -> Sweep:
    """A sweep from the recipe's, if any, and `--grid key=value,value` and the like.

    Raises:
        ValueError: one of them is not so written, or cannot be varied.
    """
    tree = {} if base is None else base.model_dump()
    varied = {key.strip(): values for key, values in map(_parse_values, grid)}
    chosen = {"grid": varied, "seeds": seeds, "folds": folds}
    given = {key: value for key, value in chosen.items() if value not in (None, {})}
    try:
        return Sweep.model_validate(merge(tree, given))
    except ValidationError as error:
        raise ValueError(describe(error)) from None


def _parse_values(text: str) -> tuple[str, list[Any]]:
    """`key=value,value`, each value as TOML has it, or else a bare word."""
    key, equals, values = text.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ValueError(f"expected --grid key.sub=value,value, got {text!r}")
    try:
        return key, list(tomllib.loads(f"values = [{values}]")["values"])
    except tomllib.TOMLDecodeError:
        return key, [_parse_value(value.strip()) for value in values.split(",")]


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string: --set data.reader=lsp


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise ValueError(f"expected --set key.sub=value, got {override!r}")
    value = _parse_value(text)
    for part in reversed(key.split(".")):
        value = {part.strip(): value}
    return dict(value)


def _plain_key(parts: tuple[int | str, ...]) -> Iterator[str]:
    """A setting's key, without the kind of network that pydantic puts after `model`."""
    before: int | str = ""
    for part in parts:
        if not (before == "model" and part in MODELS):
            yield str(part)
        before = part


def describe(error: ValidationError, prefix: str = "") -> str:
    """Pydantic's findings as one sentence each, by the key as `--set` would name it."""
    findings = []
    for item in error.errors():
        key = prefix + ".".join(_plain_key(item["loc"]))
        if item["type"] == "extra_forbidden":
            findings.append(f"{key}: there is no such setting")
        elif item["type"] == "value_error":  # of our own checks, which say what they found
            said = item["msg"].removeprefix("Value error, ")
            findings.append(f"{key}: {said}" if key else said)
        else:
            message = item["msg"]
            findings.append(f"{key}: {message[0].lower()}{message[1:]} (got {item['input']!r:.80})")
    return "; ".join(findings)


# Store seeds fill the lower half of the generator's seeds, fresh training views the upper: the
# teacher is not asked for heatmaps of the very views it was trained on.
FRESH_VIEWS = 1 << 63


def fresh_views(recipe: Recipe, samples: SampleSet, seed: int) -> Views:
    """New augmentation every epoch: for teachers, and for students without a store."""
    return Views(samples, recipe.geometry, recipe.augmentation, FRESH_VIEWS + seed)


def stored_views(recipe: Recipe, samples: SampleSet) -> Views:
    """The views that the store's seed decides."""
    return Views(samples, recipe.geometry, recipe.stored_augmentation, recipe.store.seed)


def absolute_settings(recipe: Recipe) -> dict[str, Any]:
    """A recipe's tree, its paths absolute: workers have working directories of their own."""
    settings = recipe.model_dump(mode="json")
    settings["data"] = recipe.data.absolute().model_dump(mode="json")
    location = recipe.store.location
    if location is not None and "://" not in location:
        settings["store"]["location"] = str(Path(location).absolute())
    return settings
