"""A work directory: the paths of each stage's files.

    work/demo/
      recipe.json   the settings of the first stage, from which later ones start
      teacher/      weights.safetensors  state.pt  metrics.jsonl  record.json
      heatmaps.zarr/
      student/      the same as teacher/; further students under their names
      sweeps/       grids of students, one folder each (`training/sweep/`)
      evaluation/   report.html  report.json  pck_curve.png  predictions/

A stage is finished once its `record.json` exists, which is written last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .config.recipe import Recipe, apply_overrides, check_name, load_recipe
from .models.checkpoint import ModelDir
from .runtime.files import make_writable, read_json, write_json

DEFAULT_RECIPE = "demo"


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
        """What follows `-w` in commands of messages: this directory, and the `--store` if any."""
        elsewhere = recipe.store.location
        return str(self.root) if elsewhere is None else f"{self.root} --store {elsewhere}"

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
            command = "fpd run teacher" if name == "teacher" else f"fpd run student --name {name}"
            raise ValueError(
                f"{self.root} has no finished model {name!r} (finished: {finished}): choose one of "
                f"them with --name, or run `{command} -w {self.root}`"
            )
        return models[name]

    @property
    def kept_recipe(self) -> Path:
        return self.root / "recipe.json"

    def recipe(self, name_or_path: str | None, overrides: tuple[str, ...]) -> Recipe:
        """The recipe of a command: the one that it names, else the directory's own, else the demo.

        Args:
            name_or_path: of the recipe that the command names with `-r`.
            overrides: as given to `--set`.
        """
        if name_or_path is not None or not self.kept_recipe.is_file():
            return load_recipe(name_or_path or DEFAULT_RECIPE, overrides)
        return apply_overrides(read_json(self.kept_recipe), overrides)

    def keep(self, recipe: Recipe) -> None:
        """Make a command's recipe the directory's own, unless a stage has already started.

        Raises:
            ValueError: the directory cannot be written to.
        """
        self.create()
        stage_started = any(entry.is_dir() for entry in self.root.iterdir())
        if not stage_started or not self.kept_recipe.is_file():
            write_json(self.kept_recipe, recipe.model_dump(mode="json"), sort_keys=False)

    def keep_setting(self, recipe: Recipe, section: str, key: str) -> None:
        """Copy one setting of a command's recipe into the directory's own, if it has one."""
        if not self.kept_recipe.is_file():
            return
        kept, chosen = read_json(self.kept_recipe), recipe.model_dump(mode="json")
        value = chosen[section].get(key)
        kept_section = kept.get(section, {})
        if kept_section.get(key) != value:
            others = {k: v for k, v in kept_section.items() if k != key}
            kept[section] = others if value is None else others | {key: value}
            write_json(self.kept_recipe, kept, sort_keys=False)

    def create(self) -> None:
        """Create the directory.

        Raises:
            ValueError: it cannot be created or written to.
        """
        make_writable(self.root, "work directory", "name another with -w")
