"""Recipes: shipped ones and the user's own, students, names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

import fpd.pipeline.config.recipe as recipe_module
from fpd.pipeline.config.recipe import (
    Recipe,
    apply_overrides,
    check_name,
    load_recipe,
    shipped_recipes,
)
from fpd.pipeline.training.sweep.variants import variants
from fpd.pipeline.workdir import WorkDir

FOLDER = Path(recipe_module.__file__).parent / "recipes"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.toml"))


def leaves(tree: Any, key: str = "") -> dict[str, Any]:
    """The values of a tree by dotted key."""
    if not isinstance(tree, dict):
        return {key: tree}
    return {k: v for name, below in tree.items() for k, v in leaves(below, f"{key}.{name}").items()}


def test_all_recipes_in_the_folder_are_shipped() -> None:
    assert shipped_recipes() == SHIPPED
    tables = {"table5", "table6", "table7", "table8"}
    assert {"demo", "lsp", "lsp-gpu", "mpii", "photos"} | tables == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_with_the_values_of_its_file(name: str) -> None:
    loaded = leaves(load_recipe(name, ["data.root=X"]).model_dump(mode="json"))
    tree = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    assert tree.pop("extends", "mpii") == ("lsp" if name == "lsp-gpu" else "mpii")
    written = leaves(tree)
    assert {key: loaded.get(key, loaded) for key in written} == written
    assert loaded[".data.root"] == "X"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("table")])
def test_every_student_of_the_papers_tables_has_valid_settings(name: str) -> None:
    recipe = load_recipe(name, ["data.root=X"])
    base = load_recipe("mpii", ["data.root=X"])
    assert list(recipe.sweeps) == [name]
    students = variants(recipe.sweeps[name])
    folders = {student.folder(WorkDir(Path()), name).path for student in students}
    assert len(folders) == len(students)
    for student in students:
        changed = student.recipe(recipe, None)
        # All tables share one teacher and one store.
        assert (changed.teacher, changed.store, changed.data) == (
            base.teacher,
            base.store,
            base.data,
        )


def test_lsp_needs_its_folder() -> None:
    with pytest.raises(ValueError, match=r"data\.root.*--set data\.root=FOLDER"):
        load_recipe("lsp")


def test_an_empty_recipe_has_the_papers_sizes() -> None:
    recipe = apply_overrides({}, [])
    assert recipe == Recipe()
    # The paper, section 4 and Table 1.
    assert (recipe.teacher.model.stages, recipe.teacher.model.channels) == (8, 256)
    assert (recipe.student.model.stages, recipe.student.model.channels) == (4, 128)
    assert recipe.student.alpha == 0.5
    assert recipe.geometry.crop_px == 256
    assert recipe.geometry.heatmap_px == 64
    assert recipe.augmentation.scale == (0.75, 1.25)
    assert recipe.augmentation.rotation_deg == 30


def test_a_binary_file_is_not_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mine\.toml is not a TOML file"):
        load_recipe(str(path))


def test_a_recipe_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[student]\nalpha = 0.25\n", "utf-8")
    assert load_recipe(str(path)).student.alpha == 0.25


@pytest.mark.parametrize("name", ["nosuch.toml", "."])
def test_an_unknown_recipe_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"no recipe '{name}'.*demo, lsp"):
        load_recipe(name)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ValueError, match=r"huge\.toml cannot be read as a recipe: .* 1 MiB"):
        load_recipe(str(path))


def test_an_override_changes_nothing_else() -> None:
    plain = leaves(load_recipe("demo").model_dump())
    changed = leaves(load_recipe("demo", ["teacher.model.stages=3"]).model_dump())
    assert {key for key in plain if plain[key] != changed[key]} == {".teacher.model.stages"}


STUDENTS = {
    "student": {"epochs": 7, "model": {"stages": 2, "channels": 32}},
    "students": {
        "small": {"model": {"stages": 1}},
        "labels-only": {"alpha": 0},
    },
}


def test_named_students_differ_from_the_student_by_their_own_settings() -> None:
    recipe = apply_overrides(STUDENTS, [])
    assert recipe.student_names == ["student", "small", "labels-only"]
    small, labels = recipe.student_named("small"), recipe.student_named("labels-only")
    assert (small.model.stages, small.model.channels, small.epochs) == (1, 32, 7)
    assert small.alpha == recipe.student.alpha == 0.5
    assert labels.alpha == 0
    assert labels.model == recipe.student.model
    assert recipe.student_named("student") == recipe.student_named("unheard-of") == recipe.student


def test_students_follow_overrides_of_the_student() -> None:
    recipe = apply_overrides(STUDENTS, ["student.alpha=0.9", "students.small.epochs=3"])
    assert recipe.student_named("small").alpha == 0.9
    assert recipe.student_named("small").epochs == 3
    assert recipe.student_named("labels-only").alpha == 0


BAD_NAMES = [
    "teacher",
    "evaluation",
    "heatmaps.zarr",
    "recipe.json",  # the work directory's own file
    "",
    ".",
    "../x",
    "a b",
    ".hidden",
    "a\n",
    "a\\b",
    "-",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_cannot_be_a_students_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a student's name") as caught:
        check_name(name)
    assert repr(name) in str(caught.value)


def test_a_recipe_with_such_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"students.*expected a student's name"):
        apply_overrides({"students": {"../x": {}}}, [])


def test_plain_names_are_accepted() -> None:
    for name in ("student", "labels-only", "raw_peaks", "alpha0.5", "2"):
        assert check_name(name) == name


def test_a_crop_that_does_not_fit_a_network_is_refused() -> None:
    # Stride 4, halved 4 times: multiples of 64.
    assert load_recipe("demo", ["geometry.crop_px=128"]).geometry.heatmap_px == 32
    with pytest.raises(ValueError, match=r"geometry\.crop_px a multiple of 32.*80"):
        load_recipe("demo", ["geometry.crop_px=80"])
    with pytest.raises(ValueError, match=r"multiple of 128.*depth 5"):
        load_recipe("demo", ["teacher.model.depth=5"])
    with pytest.raises(ValueError, match=r"multiple of 256.*depth 6"):
        load_recipe("demo", ["students.deep.model={depth=6}"])
    with pytest.raises(ValueError, match=r"geometry\.stride_px = 4"):
        load_recipe("demo", ["geometry.stride_px=8"])


def test_the_stored_augmentation_depends_on_settings_alone() -> None:
    """Not on whether the digest of the recipe's own augmentation has been computed before."""
    fresh, used = Recipe(), Recipe()
    assert used.augmentation.digest != fresh.stored_augmentation.digest
    assert used.stored_augmentation.digest == fresh.stored_augmentation.digest
    assert not fresh.stored_augmentation.flip
