"""A work directory: the paths of each stage's files.

    work/demo/
      recipe.json   the settings of the first stage, from which later ones start
      teacher/      weights.safetensors  state.pt  metrics.jsonl  record.json
      heatmaps.zarr/
      student/      the same as teacher/; further students under their names
      boxes.csv     people that a detector found on photographs (`fpd distill`)
      sweeps/       grids of students, one folder each (`training/sweep/`)
      evaluation/   report.html  report.json  pck_curve.png  predictions/

A stage is finished once its `record.json` exists, which is written last.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config.overrides import list_overrides
from .config.recipe import (
    Recipe,
    absolute_settings,
    apply_overrides,
    check_name,
    load_recipe,
    shipped_recipes,
)
from .models.model_dir import ModelDir
from .runtime.diff import differences
from .runtime.files import make_writable, read_sealed_json, write_sealed_json
from .runtime.text import pluralize

MAX_LISTED_FOLDERS = 5
MAX_LISTED_CHANGES = 8
STAGE_FOLDERS = frozenset({"teacher", "heatmaps.zarr", "student", "sweeps", "evaluation"})
STORE_SECTIONS = ("data", "geometry", "augmentation", "store")
"""Sections of the recipe that decide what a store holds."""
MODEL_FILES = ("record.json", "weights.safetensors", "state.pt", "metrics.jsonl")


@dataclass(frozen=True)
class WorkDir:
    """Paths below one folder."""

    root: Path

    @property
    def teacher(self) -> ModelDir:
        return ModelDir(self.root / "teacher")

    @property
    def store(self) -> Path:
        return self.root / "heatmaps.zarr"

    def store_location(self, recipe: Recipe) -> str | Path:
        """Path or URL of the recipe's store: its `store.location`, by default `store`."""
        return recipe.store.location or self.store

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def detected_boxes(self) -> Path:
        """The boxes that a detector found on photographs."""
        return self.root / "boxes.csv"

    def check_teacher(self) -> None:
        """Check that there is a finished teacher.

        Raises:
            ValueError: there is none; the message gives the command that trains one.
        """
        if not self.teacher.finished:
            raise ValueError(
                f"{self.teacher.path} has no finished teacher: run `fpd run teacher -w {self.root}`"
            )

    def command_options(self, recipe: Recipe) -> str:
        """What follows `-w` in commands of messages.

        That is this directory, the `--store` if any, and the settings of the store that the
        directory's own recipe does not have: without them, the command would make another store.
        """
        elsewhere = recipe.store.location
        store = [] if elsewhere is None else [f"--store {elsewhere}"]
        overrides = [f"--set {shlex.quote(text)}" for text in self._store_overrides(recipe)]
        return " ".join([str(self.root), *store, *overrides])

    def _store_overrides(self, recipe: Recipe) -> list[str]:
        """Options `--set` that give the directory's own recipe the store of a command's recipe."""
        try:
            kept = Recipe.parse(self.read_kept()) if self.kept_recipe.is_file() else recipe
        except ValueError:  # damaged, or of another version
            return []
        wanted, found = (absolute_settings(settings, self.root) for settings in (recipe, kept))
        found["store"]["location"] = wanted["store"]["location"]  # has an option of its own
        sections = [(section, wanted[section], found[section]) for section in STORE_SECTIONS]
        return [text for section in sections for text in list_overrides(*section)]

    def student(self, name: str) -> ModelDir:
        return ModelDir(self.root / check_name(name))

    def sweep(self, name: str) -> Path:
        return self.root / "sweeps" / check_name(name)

    def models(self) -> dict[str, ModelDir]:
        """Finished models by name, the teacher first."""
        folders = [self.root / "teacher", *sorted(self.root.glob("*"))]
        return {f.name: ModelDir(f) for f in folders if (f / "record.json").is_file()}

    def model(self, name: str) -> ModelDir:
        """The folder of a finished model.

        Raises:
            ValueError: no finished model has this name; the message lists those that there are.
        """
        models = self.models()
        if name not in models:
            finished = ", ".join(models) or "none"
            choose = "choose one of them with --name, or " if models else ""
            command = "fpd run teacher" if name == "teacher" else f"fpd run student --name {name}"
            raise ValueError(
                f"{self.root} has no finished model {name!r} (finished: {finished}): {choose}run "
                f"`{command} -w {self.root}`"
            )
        return models[name]

    @property
    def kept_recipe(self) -> Path:
        return self.root / "recipe.json"

    def recipe(
        self,
        name_or_path: str | None,
        overrides: tuple[str, ...],
        *,
        default: str | None = None,
        stored: Mapping[str, Any] | None = None,
        location: str | None = None,
        required: bool = True,
    ) -> Recipe:
        """The recipe of a command: the one that it names, else the directory's own.

        Relative paths in it become absolute: the directory's own recipe means the same files
        wherever the next command runs.

        Args:
            name_or_path: of the recipe that the command names with `-r`.
            overrides: as given to `--set`.
            default: the recipe if the command names none: `fpd demo` has one.
            stored: settings in the store that the command names, if that is portable: they are the
                recipe of a new directory.
            location: of that store, for messages; None: the command names none.
            required: False: the command needs none, and takes the settings' defaults if there is
                none.

        Raises:
            ValueError: the command names none, and the directory has none; or a setting is wrong.
        """
        is_kept = self.kept_recipe.is_file()
        if name_or_path is None and not is_kept and (default is not None or required):
            has_recipe = default is not None or stored is not None
            self._check_new(has_recipe=has_recipe, location=location)
        name_or_path = name_or_path or default
        if name_or_path is not None:
            recipe = load_recipe(name_or_path, overrides)
        else:
            recipe = apply_overrides(self.read_kept() if is_kept else stored or {}, overrides)
        tree = absolute_settings(recipe, self.root)
        return recipe if tree == recipe.model_dump(mode="json") else Recipe.parse(tree)

    def _check_new(self, *, has_recipe: bool, location: str | None) -> None:
        """Check that a directory without a recipe is new, and that a recipe is there for it.

        Raises:
            ValueError: one of the two is not so.
        """
        folders = sorted(f.name for f in self.root.glob("*") if _is_of_a_stage(f))
        if folders:
            raise ValueError(
                f"{self.root} has {', '.join(folders[:MAX_LISTED_FOLDERS])}, but no recipe.json: "
                "restore the file, or name the recipe and the settings that they were made with, "
                "with -r and --set"
            )
        if not has_recipe:
            no_store = f", and there is no portable store at {location} that has one"
            raise ValueError(
                f"{self.root} has no recipe yet{no_store if location else ''}: name one with -r, "
                f"a TOML file or one of {', '.join(shipped_recipes())}, such as `fpd run all "
                f"-r lsp -w {self.root} --set data.root=FOLDER`"
            )

    def changes(self, recipe: Recipe, overrides: tuple[str, ...], name: str) -> list[str]:
        """What a command changes by naming a recipe again: settings that differ from the kept ones.

        Commands keep what was chosen in the directory (`--budget` its number of views), and a
        recipe that is named again does not have it.

        Args:
            recipe: the command's.
            overrides: as given to `--set`; these are changes that were asked for.
            name: of the recipe that the command names.

        Returns:
            Lines for people; none where nothing changes or nothing is kept.
        """
        if not (self.kept_recipe.is_file() and self._stage_started):
            return []
        try:
            kept = apply_overrides(self.read_kept(), overrides)
        except ValueError:  # damaged, or of another version: -r is the way around it
            return []
        changed = differences(
            absolute_settings(kept, self.root),
            absolute_settings(recipe, self.root),
            ("kept", f"in {name}"),
        )
        if not changed:
            return []
        more = len(changed) - MAX_LISTED_CHANGES
        return [
            f"recipe {name} differs from {self.kept_recipe}, which commands without -r take:",
            *(f"  {line}" for line in changed[:MAX_LISTED_CHANGES]),
            *([f"  and {pluralize(more, 'more setting')}"] if more > 0 else []),
        ]

    @property
    def _stage_started(self) -> bool:
        return any(entry.is_dir() for entry in self.root.iterdir())

    def keep(self, recipe: Recipe) -> bool:
        """Make a command's recipe the directory's own, unless a stage has already started.

        Returns:
            Whether the directory had none before.

        Raises:
            ValueError: the directory cannot be written to.
        """
        self.create()
        is_new = not self.kept_recipe.is_file()
        if is_new or not self._stage_started:
            self.write_kept(recipe.model_dump(mode="json"))
        return is_new

    def keep_setting(self, recipe: Recipe, section: str, key: str) -> None:
        """Copy one setting of a command's recipe into the directory's own, if it has one."""
        if not self.kept_recipe.is_file():
            return
        kept, chosen = self.read_kept(), recipe.model_dump(mode="json")
        value = chosen[section].get(key)
        kept_section = kept.get(section, {})
        if kept_section.get(key) != value:
            others = {k: v for k, v in kept_section.items() if k != key}
            kept[section] = others if value is None else others | {key: value}
            self.write_kept(kept)

    def read_kept(self) -> dict[str, Any]:
        """The tree of settings in `recipe.json`.

        Raises:
            ValueError: it is damaged, or was changed since it was written.
        """
        return read_sealed_json(
            self.kept_recipe,
            "choose another work directory with -w, and give its settings with -r and --set",
        )

    def write_kept(self, tree: dict[str, Any]) -> None:
        """Write a tree of settings to `recipe.json`."""
        # In the given order: that of a sweep's points is significant.
        write_sealed_json(self.kept_recipe, tree, sort_keys=False)

    def create(self) -> None:
        """Create the directory.

        Raises:
            ValueError: it cannot be created or written to.
        """
        make_writable(self.root, "work directory", "name another with -w")


def _is_of_a_stage(folder: Path) -> bool:
    """Whether a stage or a training run made a folder."""
    if folder.name in STAGE_FOLDERS:
        return folder.is_dir()
    return any((folder / name).is_file() for name in MODEL_FILES)
