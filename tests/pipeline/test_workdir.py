"""Work directories: the kept recipe, finished models, and messages for damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpd.pipeline.config.recipe import Recipe, load_recipe
from fpd.pipeline.models.checkpoint import ModelDir
from fpd.pipeline.runtime.files import write_json
from fpd.pipeline.workdir import WorkDir


def command(work: WorkDir, name: str | None, overrides: tuple[str, ...]) -> Recipe:
    """Take and keep a recipe as the commands of all stages do."""
    recipe = work.recipe(name, overrides)
    work.keep(recipe)
    return recipe


def start_stage(work: WorkDir) -> None:
    """Create the folder that a stage creates when it starts."""
    work.teacher.path.mkdir(parents=True)


def test_the_recipe_of_the_first_stage_is_kept(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "a" / "b")
    first = command(work, "demo", ("student.alpha=0.25", "augmentation.scale=[0.9, 1.1]"))
    assert (first.student.alpha, first.augmentation.scale) == (0.25, (0.9, 1.1))
    assert command(work, None, ()) == first
    start_stage(work)
    assert command(work, None, ()) == first


def test_a_kept_sweep_keeps_the_order_of_its_points(tmp_path: Path) -> None:
    work, mine = WorkDir(tmp_path / "work"), tmp_path / "mine.toml"
    points = ["second", "alone", "first"]
    lines = [f'{name} = {{ "student.alpha" = 0.5 }}' for name in points]
    mine.write_text("\n".join(['extends = "demo"', "[sweeps.some.points]", *lines]))
    command(work, str(mine), ())
    start_stage(work)
    assert list(command(work, None, ()).sweeps["some"].points) == points
    work.keep_setting(command(work, None, ("store.views=3",)), "store", "views")
    kept = command(work, None, ())
    assert (kept.store.views, list(kept.sweeps["some"].points)) == (3, points)


def test_overrides_of_later_commands_are_not_kept(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    first = command(work, None, ("student.alpha=0.25",))
    start_stage(work)
    later = command(work, None, ("student.epochs=3",))
    assert (later.student.alpha, later.student.epochs) == (0.25, 3)
    assert command(work, None, ()) == first


def test_a_recipe_that_a_later_command_names_is_not_kept(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    first = command(work, None, ("student.alpha=0.25",))
    start_stage(work)
    assert command(work, "demo", ()) == load_recipe("demo")
    assert command(work, None, ()) == first


def test_the_recipe_can_be_replaced_until_a_stage_has_started(tmp_path: Path) -> None:
    """A mistyped data.root of the first command does not affect the next one."""
    work = WorkDir(tmp_path)
    command(work, "lsp", ("data.root=typo",))
    corrected = command(work, "lsp", ("data.root=right",))
    assert str(corrected.data.root) == "right"
    start_stage(work)
    assert command(work, None, ()) == corrected


def test_the_demo_is_the_default_recipe(tmp_path: Path) -> None:
    assert command(WorkDir(tmp_path / "x"), None, ()) == load_recipe("demo")


def test_a_refused_recipe_is_not_kept(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "x")
    with pytest.raises(ValueError, match=r"student\.alpha"):
        command(work, "demo", ("student.alpha=2",))
    assert not work.root.exists()


def test_paths(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    assert work.store == tmp_path / "heatmaps.zarr"
    assert work.evaluation == tmp_path / "evaluation"
    assert work.teacher.weights == tmp_path / "teacher" / "weights.safetensors"
    small = work.student("small")
    assert (small.name, small.state) == ("small", tmp_path / "small" / "state.pt")
    assert small.metrics == tmp_path / "small" / "metrics.jsonl"
    assert small.record_path == tmp_path / "small" / "record.json"


@pytest.mark.parametrize("name", ["teacher", "../small"])
def test_a_student_cannot_have_a_reserved_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="expected a student's name"):
        WorkDir(tmp_path).student(name)


def test_models_are_the_finished_ones_with_the_teacher_first(tmp_path: Path) -> None:
    for name in ("zebra", "teacher", "alpha", "student", "unfinished", "evaluation"):
        (tmp_path / name).mkdir()
    for name in ("zebra", "teacher", "alpha", "student"):
        write_json(tmp_path / name / "record.json", {"name": name})
    (tmp_path / "unfinished" / "state.pt").touch()
    (tmp_path / "recipe.json").touch()
    assert WorkDir(tmp_path / "nowhere").models() == {}
    models = WorkDir(tmp_path).models()
    assert list(models) == ["teacher", "alpha", "student", "zebra"]
    assert [folder.record()["name"] for folder in models.values()] == list(models)
    assert models["zebra"].finished
    assert not ModelDir(tmp_path / "unfinished").finished


def test_unknown_models_are_named_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    write_json(tmp_path / "teacher" / "record.json", {})
    with pytest.raises(ValueError, match=r"'mine' \(finished: teacher\).*--name mine -w"):
        WorkDir(tmp_path).model("mine")
    with pytest.raises(ValueError, match=r"'teacher' \(finished: none\).*`fpd run teacher -w"):
        WorkDir(tmp_path / "nowhere").model("teacher")


def test_a_damaged_recipe_is_named(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    command(work, None, ())
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json is damaged"):
        command(work, None, ())


def test_a_directory_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("here first")
    work = WorkDir(file / "work")
    with pytest.raises(ValueError, match=r"file/work cannot be written to \(.+\): .*-w"):
        command(work, "demo", ())
    with pytest.raises(ValueError, match=r"cannot be written to"):
        WorkDir(file).create()
    assert file.read_text() == "here first"


def test_creating_a_directory_leaves_no_probe_file(tmp_path: Path) -> None:
    WorkDir(tmp_path / "a" / "b").create()
    assert list((tmp_path / "a" / "b").iterdir()) == []
