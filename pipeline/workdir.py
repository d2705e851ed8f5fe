"""A work directory: where each stage's files lie, and how they are written.

    work/demo/
      recipe.json   the settings of the first stage, from which later ones start
      teacher/      weights.safetensors  state.pt  metrics.jsonl  record.json
      heatmaps.zarr/
      student/      the same as teacher/; further students under their names
      sweeps/       grids of students, a folder each (`sweeping.py`)
      evaluation/   report.html  report.json  pck_curve.png  predictions/

A stage is finished when its `record.json` is there: it is written last.
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

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    def check_teacher(self) -> None:
        """Refuse to go on without a teacher.

        Raises:
            ValueError: naming the command that trains one.
        """
        if not self.teacher.finished:
            raise ValueError(
                f"{self.teacher.path} has no finished teacher: run `fpd run teacher -w {self.root}`"
            )

    def named(self, recipe: Recipe) -> str:
        """What messages put after `-w`: this directory, and its store where it lies elsewhere."""
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
            ValueError: there is none of this name; the message lists the finished ones.
        """
        models = self.models()
        if name not in models:
            listed = ", ".join(models) or "none"
            train = "fpd run teacher" if name == "teacher" else f"fpd run student --name {name}"
            raise ValueError(
                f"{self.root} has no finished model {name!r} (finished: {listed}): choose one of "
                f"them with --name, or run `{train} -w {self.root}`"
            )
        return models[name]

    @property
    def kept_recipe(self) -> Path:
        return self.root / "recipe.json"

    def recipe(self, name_or_path: str | None, overrides: tuple[str, ...]) -> Recipe:
        """The recipe of a command.

        One that the command names is taken as it is; otherwise the directory's own is, and the
        shipped demo where there is none.
        """
        if name_or_path is not None or not self.kept_recipe.is_file():
            return load_recipe(name_or_path or DEFAULT_RECIPE, overrides)
        return apply_overrides(read_json(self.kept_recipe), overrides)

    def keep(self, recipe: Recipe) -> None:
        """Make a command's recipe the directory's own, unless a stage has left something there.

        Raises:
            ValueError: the directory cannot be written to.
        """
        self.create()
        begun = any(entry.is_dir() for entry in self.root.iterdir())
        if not begun or not self.kept_recipe.is_file():
            write_json(self.kept_recipe, recipe.model_dump(mode="json"), sort_keys=False)

    def keep_setting(self, recipe: Recipe, section: str, key: str) -> None:
        """Give the directory's own recipe, where there is one, a setting of a command's."""
        if not self.kept_recipe.is_file():
            return
        kept, chosen = read_json(self.kept_recipe), recipe.model_dump(mode="json")
        value = chosen[section].get(key)  # what is the default may be left out
        if kept.get(section, {}).get(key) != value:
            rest = {k: v for k, v in kept.get(section, {}).items() if k != key}
            kept[section] = rest if value is None else rest | {key: value}
            write_json(self.kept_recipe, kept, sort_keys=False)

    def create(self) -> None:
        """Make the folder.

        Raises:
            ValueError: it cannot be made or written to.
        """
        make_writable(self.root, "work directory", "name another with -w")
