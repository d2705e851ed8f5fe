"""Work directories: the kept recipe, finished models, and messages for damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from fpd.pipeline.config.recipe import Recipe, load_recipe
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.runtime.files import write_sealed_json
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
    first = command(work, "demo", ("student.alpha=0.25",))
    start_stage(work)
    later = command(work, None, ("student.epochs=3",))
    assert (later.student.alpha, later.student.epochs) == (0.25, 3)
    assert command(work, None, ()) == first


def test_a_recipe_that_a_later_command_names_is_not_kept(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    first = command(work, "demo", ("student.alpha=0.25",))
    start_stage(work)
    assert command(work, "demo", ()) == load_recipe("demo")
    assert command(work, None, ()) == first


def test_the_recipe_can_be_replaced_until_a_stage_has_started(tmp_path: Path) -> None:
    """A mistyped data.root of the first command does not affect the next one."""
    work = WorkDir(tmp_path)
    command(work, "lsp", ("data.root=typo",))
    corrected = command(work, "lsp", ("data.root=right",))
    assert corrected.data.root == Path("right").absolute()
    start_stage(work)
    assert command(work, None, ()) == corrected


def test_a_new_directory_needs_a_recipe(tmp_path: Path) -> None:
    """The demo's would train on synthetic people with noisy labels, whatever the data set is."""
    work = WorkDir(tmp_path / "x")
    with pytest.raises(
        ValueError, match=r"x has no recipe yet: .* -r, .*demo, lsp, lsp-gpu, mpii.*`fpd run"
    ):
        command(work, None, ("data.reader=coco", "data.root=datasets"))
    assert not work.root.exists()
    (work.root / "notes").mkdir(parents=True)  # of the user, not of a stage
    with pytest.raises(ValueError, match=r"has no recipe yet"):
        command(work, None, ())
    assert work.recipe(None, (), default="demo") == load_recipe("demo")
    assert work.recipe(None, (), required=False) == Recipe()


@pytest.mark.parametrize(
    "made", ["teacher", "heatmaps.zarr", "evaluation", "sweeps", "small/record.json", "b/state.pt"]
)
def test_a_lost_recipe_is_not_that_of_the_demo(tmp_path: Path, made: str) -> None:
    work = WorkDir(tmp_path)
    path = tmp_path / made
    (path.parent if path.suffix in (".json", ".pt") else path).mkdir(parents=True)
    if path.suffix in (".json", ".pt"):
        path.touch()
    folder = made.partition("/")[0]
    for default in (None, "demo"):
        with pytest.raises(ValueError, match=rf"has {folder}, but no recipe\.json: restore .* -r"):
            work.recipe(None, (), default=default)
    assert work.recipe("lsp", ("data.root=x",)).data.reader == "lsp+lspet"
    assert work.recipe(None, (), required=False) == Recipe()


def test_keeping_a_recipe_says_whether_it_is_the_first(tmp_path: Path) -> None:
    work = WorkDir(tmp_path / "x")
    recipe = work.recipe("demo", ())
    assert [work.keep(recipe), work.keep(recipe)] == [True, False]


PATHS = (
    "data.reader=lsp",
    "data.root=data",
    "data.unlabeled_root=more",
    "store.location=stores/a.zarr",
    'store.teachers=["t.pt2", "hourglass:t.pth", "my.module:make", "none.pt2"]',
    "student.init_from=small",
    "students.a.init_from=weights.safetensors",
    'sweeps.s.points={b = {"student.init_from" = "weights.safetensors"}}',
    'sweeps.s.grid={"student.init_from" = ["small", "weights.safetensors"]}',
)


def test_paths_are_kept_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They mean the folders they were given for, wherever the next command runs."""
    given, other = tmp_path / "given", tmp_path / "other"
    (given / "w" / "small").mkdir(parents=True)
    (given / "small").mkdir()  # the work directory's own comes first
    other.mkdir()
    for name in ("t.pt2", "t.pth", "weights.safetensors"):
        (given / name).touch()
    monkeypatch.chdir(given)
    first = command(WorkDir(Path("w")), "demo", PATHS)
    monkeypatch.chdir(other)
    recipe = command(WorkDir(given / "w"), None, ())
    assert recipe == first
    assert (recipe.data.root, recipe.data.unlabeled_root) == (given / "data", given / "more")
    assert recipe.store.location == str(given / "stores/a.zarr")
    assert recipe.store.teachers == (
        str(given / "t.pt2"),
        f"hourglass:{given / 't.pth'}",
        "my.module:make",
        "none.pt2",
    )
    weights = str(given / "weights.safetensors")
    assert recipe.student.init_from == "small"
    assert recipe.students["a"]["init_from"] == weights
    assert recipe.sweeps["s"].points["b"]["student.init_from"] == weights
    assert recipe.sweeps["s"].grid["student.init_from"] == ["small", weights]
    moved = command(WorkDir(given / "w"), None, ("data.root=here", "store.location=s3://b/a.zarr"))
    assert moved.data.root == other / "here" and moved.store.location == "s3://b/a.zarr"


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
        write_sealed_json(tmp_path / name / "record.json", {"name": name})
    (tmp_path / "unfinished" / "state.pt").touch()
    (tmp_path / "recipe.json").touch()
    assert WorkDir(tmp_path / "nowhere").models() == {}
    models = WorkDir(tmp_path).models()
    assert list(models) == ["teacher", "alpha", "student", "zebra"]
    assert [folder.path for folder in models.values()] == [tmp_path / name for name in models]
    assert models["zebra"].finished
    assert not ModelDir(tmp_path / "unfinished").finished


def test_unknown_models_are_named_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    write_sealed_json(tmp_path / "teacher" / "record.json", {})
    with pytest.raises(ValueError, match=r"'mine' \(finished: teacher\).*--name mine -w"):
        WorkDir(tmp_path).model("mine")
    with pytest.raises(ValueError, match=r"'teacher' \(finished: none\).*`fpd run teacher -w"):
        WorkDir(tmp_path / "nowhere").model("teacher")


def test_a_damaged_recipe_is_named(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    command(work, "demo", ())
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


def test_commands_in_messages_have_the_settings_that_the_kept_recipe_lacks(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    changes = ("geometry.crop_px=128", "store.teachers=['hf:a b/c']", "student.epochs=3")
    recipe = load_recipe("demo", changes)
    assert work.command_options(recipe) == str(tmp_path)  # nothing is kept yet
    work.keep(load_recipe("demo"))
    options = work.command_options(recipe)
    assert options == (
        f"{tmp_path} --set geometry.crop_px=128 --set 'store.teachers=[\"hf:a b/c\"]'"
    )
    assert work.command_options(load_recipe("demo", ("store.location=s3://b/x",))) == (
        f"{tmp_path} --store s3://b/x"
    )
