"""Recipes: shipped ones load, mistakes are named, overrides do what `--set` says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import fpd.pipeline.config.recipe as recipe_module
from fpd.pipeline.config.recipe import (
    Recipe,
    apply_overrides,
    check_name,
    load_recipe,
    merge,
    shipped_recipes,
)
from fpd.pipeline.training.sweep.variants import variants
from fpd.pipeline.workdir import WorkDir

FOLDER = Path(recipe_module.__file__).parent / "recipes"
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.toml"))


def leaves(tree: Any, key: str = "") -> dict[str, Any]:
    """The tree's values by dotted key."""
    if not isinstance(tree, dict):
        return {key: tree}
    return {k: v for name, below in tree.items() for k, v in leaves(below, f"{key}.{name}").items()}


def test_recipes_in_the_folder_are_the_shipped_ones() -> None:
    assert shipped_recipes() == SHIPPED
    assert {"demo", "lsp", "mpii", "table5", "table6", "table7", "table8"} == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_with_the_values_of_its_file(name: str) -> None:
    loaded = leaves(load_recipe(name, ["data.root=X"]).model_dump(mode="json"))
    tree = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    assert tree.pop("extends", "mpii") == "mpii"
    written = leaves(tree)
    assert {key: loaded.get(key, loaded) for key in written} == written
    assert loaded[".data.root"] == "X"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name.startswith("table")])
def test_every_student_of_the_papers_tables_can_be_built(name: str) -> None:
    recipe = load_recipe(name, ["data.root=X"])
    base = load_recipe("mpii", ["data.root=X"])
    assert list(recipe.sweeps) == [name]
    found = variants(recipe.sweeps[name])
    assert len(found) == len({variant.folder(WorkDir(Path()), name).path for variant in found})
    for variant in found:
        of_one = variant.recipe(recipe, None)
        # One teacher and one store serve them all, and those of the other tables.
        assert (of_one.teacher, of_one.store, of_one.data) == (base.teacher, base.store, base.data)


def test_lsp_asks_for_its_folder() -> None:
    with pytest.raises(ValueError, match=r"data\.root.*--set data\.root=FOLDER"):
        load_recipe("lsp")


def test_no_settings_at_all_are_the_defaults() -> None:
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


@pytest.mark.parametrize(
    "key",
    [
        "student.alhpa",
        "nonsense",
        "data.synthetic.tarin",
        "teacher.model.width",
        "teacher.alpha",  # only students have one
        "store.views.more",
    ],
)
def test_an_unknown_key_is_named(key: str) -> None:
    with pytest.raises(ValueError, match=key.rpartition(".more")[0] or key):
        load_recipe("demo", [f"{key}=1"])


def test_an_unknown_key_is_said_not_to_exist() -> None:
    with pytest.raises(ValueError, match=r"^student\.alhpa: there is no such setting$"):
        load_recipe("demo", ["student.alhpa=0.9"])


@pytest.mark.parametrize(
    "override",
    [
        "student.alpha=much",
        "teacher.epochs=1.5",
        "teacher.epochs=[1]",
        "store.views=many",
        "teacher.optimizer=sgd",
        "teacher.lr_schedule=3",
        "data.reader=cocoa",
        "targets.area_normalized=perhaps",
        "augmentation.scale=1.25",
        "augmentation.scale=[1]",
        "teacher=3",
        "data.synthetic=[]",
    ],
)
def test_a_wrong_type_is_named(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        load_recipe("demo", [override])


@pytest.mark.parametrize(
    "override",
    [
        "student.alpha=1.01",
        "student.alpha=-0.01",
        "student.alpha=nan",
        "student.peak_floor=0",
        "student.peak_floor=1.5",
        "teacher.epochs=0",
        "teacher.batch_size=0",
        "teacher.learning_rate=0",
        "teacher.learning_rate=nan",
        "teacher.learning_rate=inf",
        "teacher.weight_decay=-1",
        "teacher.weight_decay=inf",
        "teacher.seed=4294967296",
        "teacher.model.stages=0",
        "teacher.model.channels=30",
        "store.views=0",
        "store.seed=-1",
        "store.seed=9223372036854775808",
        "store.max_error=0.001",
        "store.max_error=0.3",
        "store.shard_samples=0",
        "geometry.crop_px=8",
        "geometry.crop_px=66",
        "data.validation=1",
        "data.synthetic.train=1",
        "data.label_corruption.missing=1",
        "targets.sigma_px=0",
        "augmentation.scale=[1.25, 0.75]",
        "augmentation.rotation_deg=181",
        "loader.workers=-1",
    ],
)
def test_a_value_out_of_range_is_named(override: str) -> None:
    # Some are refused by the group they are in: crop_px by geometry.
    group, _, leaf = override.partition("=")[0].rpartition(".")
    with pytest.raises(ValueError, match=rf"{group}.*{leaf}"):
        load_recipe("demo", [override])


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"teacher\.epochs.*; .*student\.alpha"):
        load_recipe("demo", ["student.alpha=2", "teacher.epochs=0"])


def test_a_message_is_one_line_and_not_pydantics() -> None:
    with pytest.raises(ValueError, match="teacher") as caught:
        load_recipe("demo", ["teacher.epochs=0"])
    assert not isinstance(caught.value, ValidationError)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    "text", [b"[data\nreader = 1", b"epochs: 3", b"\xff\xfe\x00", b"a = 1\na = 2"]
)
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"mine\.toml is not a TOML file"):
        load_recipe(str(path))


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[student]\nalpha = 0.25\n", "utf-8")
    assert load_recipe(str(path)).student.alpha == 0.25


@pytest.mark.parametrize("name", ["nosuch", "nosuch.toml", "."])
def test_no_such_recipe(name: str) -> None:
    with pytest.raises(ValueError, match=f"no recipe '{name}'.*demo, lsp"):
        load_recipe(name)


def test_a_huge_file_is_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "huge.toml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ValueError, match=r"huge\.toml cannot be read as a recipe: .* 1 MiB"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("student.alpha=0.25", 0.25),
        ("student.alpha=1", 1.0),
        ("teacher.learning_rate=2.5e-4", 2.5e-4),
        ("teacher.epochs=1_000", 1000),
        ("targets.area_normalized=true", True),
        ("student.teacher_scale=raw", "raw"),
        ('student.teacher_scale="raw"', "raw"),
        ("teacher.optimizer = 'rmsprop'", "rmsprop"),
        ("augmentation.scale=[0.9, 1.1]", (0.9, 1.1)),
        ("teacher.model.stages=3", 3),
        ("data.synthetic.seed=7", 7),
        ("data.root=/a=b/c d", Path("/a=b/c d")),
        ("data.root=~/x", Path("~/x")),
    ],
)
def test_set_parses_as_toml_and_bare_words_as_strings(override: str, value: object) -> None:
    at: Any = load_recipe("demo", [override])
    for part in override.partition("=")[0].split("."):
        at = getattr(at, part.strip())
    assert at == value
    assert type(at) is type(value) or isinstance(at, Path)


def test_set_leaves_everything_else() -> None:
    plain = leaves(load_recipe("demo").model_dump())
    changed = leaves(load_recipe("demo", ["teacher.model.stages=3"]).model_dump())
    assert {key for key in plain if plain[key] != changed[key]} == {".teacher.model.stages"}


def test_set_merges_a_table_and_the_last_word_counts() -> None:
    recipe = load_recipe(
        "demo", ["teacher.model={stages=3}", "teacher.epochs=5", "teacher.epochs=6"]
    )
    assert (recipe.teacher.model.stages, recipe.teacher.model.channels) == (3, 64)
    assert recipe.teacher.epochs == 6


@pytest.mark.parametrize(
    "override", ["student.alpha", "=3", ".alpha=1", "student.=1", "a..b=1", ""]
)
def test_a_malformed_override_is_shown(override: str) -> None:
    with pytest.raises(ValueError, match=r"expected --set key\.sub=value, got ") as caught:
        load_recipe("demo", [override])
    assert repr(override) in str(caught.value)


def test_merge_lays_one_tree_over_another() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 2}
    assert merge(base, {"a": {"c": [3]}, "e": {"f": 4}}) == {
        "a": {"b": 1, "c": [3]},
        "d": 2,
        "e": {"f": 4},
    }
    assert merge(base, {"a": 5, "d": {"x": 1}}) == {"a": 5, "d": {"x": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 2}


STUDENTS = {
    "student": {"epochs": 7, "model": {"stages": 2, "channels": 32}},
    "students": {
        "small": {"model": {"stages": 1}},
        "labels-only": {"alpha": 0},
    },
}


def test_students_are_the_student_with_what_differs() -> None:
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


@pytest.mark.parametrize("override", ["students.small.alpha=2", "students.small.alhpa=0.2"])
def test_a_mistake_in_a_student_is_named_by_its_key(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=key.replace(".", r"\.")) as caught:
        apply_overrides(STUDENTS, [override])
    assert "\n" not in str(caught.value)


BAD_NAMES = [
    "teacher",
    "evaluation",
    "heatmaps.zarr",
    "recipe.json",  # the work directory's own file
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/x",
    "a b",
    ".hidden",
    "a\n",
    "a\\b",
    "-",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_no_folder_of_a_student_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a student's name") as caught:
        check_name(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["teacher", "../x", ""])
def test_a_recipe_with_such_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"students.*expected a student's name"):
        apply_overrides({"students": {name: {}}}, [])


@pytest.mark.parametrize("name", ["student", "labels-only", "raw_peaks", "alpha0.5", "2"])
def test_plain_names_are_taken(name: str) -> None:
    assert check_name(name) == name


def test_a_crop_that_does_not_fit_a_network_is_refused() -> None:
    # Stride 4, halved 4 times: multiples of 64.
    assert load_recipe("demo", ["geometry.crop_px=128"]).geometry.heatmap_px == 32
    with pytest.raises(ValueError, match=r"geometry\.crop_px a multiple of 64.*80"):
        load_recipe("demo", ["geometry.crop_px=80"])
    with pytest.raises(ValueError, match=r"multiple of 128.*depth 5"):
        load_recipe("demo", ["teacher.model.depth=5"])
    with pytest.raises(ValueError, match=r"multiple of 256.*depth 6"):
        load_recipe("demo", ["students.deep.model={depth=6}"])
    with pytest.raises(ValueError, match=r"geometry\.stride_px = 4"):
        load_recipe("demo", ["geometry.stride_px=8"])


def test_settings_cannot_be_changed_once_made() -> None:
    recipe = load_recipe("demo")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.student.alpha = 0.9


def test_what_stored_views_are_drawn_from_hangs_on_settings_alone() -> None:
    """Not on whether the recipe's own augmentation has been used before."""
    fresh, used = Recipe(), Recipe()
    assert used.augmentation.digest != fresh.stored_augmentation.digest
    assert used.stored_augmentation.digest == fresh.stored_augmentation.digest
    assert not fresh.stored_augmentation.flip
