"""A portable store is all that a student needs: elsewhere, alone, with the same weights."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fpd.cli import main
from fpd.data.datasets import load_training
from fpd.data.io.jpeg import decode_jpeg, encode_jpeg
from fpd.data.readers.synthetic.people import synthetic_samples
from fpd.data.samples import ImageSource, SampleSet, hashed_id
from fpd.data.sections import Augmentation
from fpd.data.views import CENTER_CROP, View, Views, crop_image
from fpd.pipeline.config.recipe import Recipe, apply_overrides, stored_views
from fpd.pipeline.store import StoreReader, open_storage, read_manifest
from fpd.pipeline.store.dataset import load_samples
from fpd.pipeline.training import distill
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student, teacher

CPU = torch.device("cpu")
TRAIN, TEST = 24, 8
READ_FROM_STORE = "data.reader=store"


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def from_store(recipe: Recipe) -> Recipe:
    """The recipe of a run that has the store instead of the data set."""
    return Recipe.parse(recipe.model_dump(mode="json") | {"data": {"reader": "store"}})


def fpd(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def weights_of(record: dict[str, Any]) -> str:
    digest: str = record["result"]["weights_sha256"]
    return digest


# In another process, without data set and teacher


def write_lsp(root: Path) -> None:
    """Drawn people as LSP's files: the first `TRAIN` are training images."""
    people = [synthetic_samples("train", TRAIN), synthetic_samples("test", TEST)]
    (root / "lsp" / "images").mkdir(parents=True)
    images = [samples.images.read(i, 1.0)[0] for samples in people for i in range(len(samples))]
    for number, image in enumerate(images, 1):
        path = root / "lsp" / "images" / f"im{number:04d}.jpg"
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    joints_NK2 = np.concatenate([samples.joints_NK2 for samples in people]) + 1
    visible_NK1 = np.zeros((*joints_NK2.shape[:2], 1))
    joints = np.concatenate([joints_NK2, visible_NK1], axis=-1).transpose(2, 1, 0)
    scipy.io.savemat(root / "lsp" / "joints.mat", {"joints": joints})


@pytest.fixture(scope="module")
def elsewhere(
    toy_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder with nothing but a copy of a store, and what was trained where it was made.

    Data set and teacher have other names by then: no path leads to them.
    """
    root = tmp_path_factory.mktemp("made")
    work = WorkDir(root / "work")
    write_lsp(root / "datasets")
    recipe = changed(
        toy_recipe, "data.reader=lsp", f'data.root="{root}/datasets"', "store.portable=true"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fpd.data.readers.lsp.TRAIN_IMAGES", TRAIN)
        teacher.run(work, recipe, CPU)
        heatmaps.run(work, recipe, CPU)
        distilled = student.run(work, recipe, CPU)
        flipped_labels = changed(from_store(recipe), "student.alpha=0")
        labels = student.run(work, flipped_labels, CPU, name="labels")
        scores = evaluate.run(work, from_store(recipe), CPU)["models"]
    empty = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(work.store, empty / "heatmaps.zarr")
    root.rename(root.with_name("renamed"))
    yield (
        empty,
        {
            "student": weights_of(distilled),
            "labels": weights_of(labels),
            "scores": {name: scores[name]["mean"] for name in ("student", "labels")},
        },
    )
    shutil.rmtree(root.with_name("renamed"))


def in_process(folder: Path, *arguments: str) -> str:
    """Run `fpd` in an interpreter of its own, in a folder; what it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FPD_")}
    command = [sys.executable, "-m", "fpd", *arguments]
    process = subprocess.run(
        command,
        cwd=folder,
        env=environment | {"HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.mark.slow
def test_a_store_alone_trains_and_evaluates_the_same_students_elsewhere(
    elsewhere: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, made = elsewhere
    assert [path.name for path in folder.iterdir()] == ["heatmaps.zarr"]
    store = Path(shutil.copytree(folder, tmp_path / "here")) / "heatmaps.zarr"
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    here = store.parent
    in_process(here, "run", "student", "-w", "new", "--store", "heatmaps.zarr")
    in_process(here, "run", "student", "-w", "new", "--name", "labels", "--set", "student.alpha=0")
    work = WorkDir(here / "new")
    for name in ("student", "labels"):
        assert weights_of(work.student(name).record()) == made[name], name
    in_process(here, "evaluate", "-w", "new")
    report = json.loads((work.evaluation / "report.json").read_text())
    assert {name: row["mean"] for name, row in report["models"].items()} == made["scores"]
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_nothing_in_the_store_tells_where_it_was_made(
    elsewhere: tuple[Path, dict[str, Any]],
) -> None:
    """Neither paths nor names of the data set's files."""
    content = b"".join(path.read_bytes() for path in elsewhere[0].rglob("*") if path.is_file())
    for text in (b"im0001", b"/datasets", str(elsewhere[0].parent).encode(), b"renamed"):
        assert text not in content, text


# Here, where any access to a data set fails


class Unavailable(Exception):
    pass


@pytest.fixture
def no_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise Unavailable

    monkeypatch.setattr("fpd.data.datasets.synthetic_samples", read)


@pytest.fixture
def store(portable_toy_work: Path, tmp_path: Path) -> Path:
    """A copy of the portable toy store, without anything beside it."""
    return Path(shutil.copytree(portable_toy_work / "heatmaps.zarr", tmp_path / "given.zarr"))


@pytest.fixture
def new(tmp_path: Path) -> WorkDir:
    """A work directory that does not exist yet."""
    return WorkDir(tmp_path / "new")


QUICK = ("--set", "student.epochs=1", "--set", "loader.workers=0")


@pytest.mark.usefixtures("no_data_set")
def test_a_new_work_directory_gets_its_recipe_from_the_store(store: Path, new: WorkDir) -> None:
    result = fpd("run", "student", "-w", new.root, "--store", store, *QUICK)
    assert result.exit_code == 0, result.output
    assert f"is new: it gets the recipe in {store}" in result.output
    recipe = new.recipe(None, ())
    assert recipe.data.reader == "store"
    assert recipe.store.location == str(store)
    assert recipe.store.portable
    second = fpd("run", "student", "-w", new.root, "--name", "second", *QUICK)
    assert second.exit_code == 0, second.output
    weights = [new.student(name).record()["result"]["weights_sha256"] for name in new.models()]
    assert len(weights) == 2 and len(set(weights)) == 1


@pytest.mark.usefixtures("no_data_set")
def test_a_student_without_a_teachers_heatmaps_trains_from_the_store(
    store: Path, new: WorkDir
) -> None:
    labels = ("--set", "student.alpha=0")
    result = fpd("run", "student", "-w", new.root, "--store", store, *QUICK, *labels)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.usefixtures("no_data_set")
def test_a_sweep_scores_on_the_stored_test_samples(store: Path, new: WorkDir) -> None:
    grid = ("--grid", "student.alpha=0,1", "--seeds", "1")
    result = fpd("sweep", "s", "-w", new.root, "--store", store, *QUICK, *grid)
    assert result.exit_code == 0, result.output
    rows = json.loads((new.sweep("s") / "sweep.json").read_text())["runs"]
    assert [row["point"] for row in rows] == ["alpha=0", "alpha=1"]
    assert all(0 <= row["mean"] <= 1 for row in rows)


FOLDS = ("--grid", "student.alpha=0.5", "--seeds", "1", "--folds", "2")


@pytest.mark.usefixtures("no_data_set")
def test_folds_without_crops_of_the_training_samples_are_refused(store: Path, new: WorkDir) -> None:
    result = fpd("sweep", "s", "-w", new.root, "--store", store, *QUICK, *FOLDS)
    assert result.exit_code == 1
    assert "make the store with the train samples in store.splits" in result.output
    assert not list(new.sweep("s").rglob("weights.safetensors"))


@pytest.mark.slow
def test_folds_are_scored_on_crops_of_the_training_samples(
    portable_work: WorkDir, portable_recipe: Recipe, new: WorkDir, request: pytest.FixtureRequest
) -> None:
    splits = changed(portable_recipe, 'store.splits=["train", "validation", "test"]')
    heatmaps.run(portable_work, splits, CPU, overwrite=True)
    request.getfixturevalue("no_data_set")
    result = fpd("sweep", "s", "-w", new.root, "--store", portable_work.store, *QUICK, *FOLDS)
    assert result.exit_code == 0, result.output
    rows = json.loads((new.sweep("s") / "sweep.json").read_text())["runs"]
    assert [row["fold"] for row in rows] == [0, 1]


@pytest.mark.parametrize(
    ("missing", "command", "message"),
    [
        ("validation", ["run", "student"], None),
        ("test", ["run", "student"], None),
        pytest.param(
            "test",
            ["sweep", "s", "--grid", "student.alpha=1"],
            "the store has no test samples",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_store_without_a_split(
    portable_work: WorkDir,
    portable_recipe: Recipe,
    new: WorkDir,
    request: pytest.FixtureRequest,
    missing: str,
    command: list[str],
    message: str | None,
) -> None:
    kept = {"validation": "test", "test": "validation"}[missing]
    recipe = changed(portable_recipe, f'store.splits=["{kept}"]')
    heatmaps.run(portable_work, recipe, CPU, overwrite=True)
    request.getfixturevalue("no_data_set")
    assert not (portable_work.store / missing).exists()
    result = fpd(*command, *QUICK, "-w", new.root, "--store", portable_work.store)
    assert result.exit_code == (message is not None), result.output
    if message is not None:
        assert message in result.output


@pytest.mark.usefixtures("no_data_set")
def test_a_store_is_inspected_and_drawn_without_a_recipe(store: Path, new: WorkDir) -> None:
    described = fpd("inspect-cache", "-w", new.root, "--store", store)
    assert described.exit_code == 0, described.output
    assert "crops" in described.output
    sample = _first_id(store)
    drawing = new.root.with_name("view.png")
    for name in (sample,):
        result = fpd(
            "inspect-cache", "-w", new.root, "--store", store, "--view", name, "1", "-o", drawing
        )
        assert result.exit_code == 0, result.output
        assert cv2.imread(str(drawing)) is not None
    assert not new.root.exists()


def _first_id(store: Path) -> str:
    import zarr

    ids = zarr.open_group(store, mode="r")["train/ids"]
    return bytes(np.asarray(ids[0, 0])).rstrip(b"\0").decode()  # type: ignore[index]


@pytest.mark.usefixtures("no_data_set")
@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_the_live_teacher_is_run_on_the_stored_crops(
    store: Path, new: WorkDir, toy_work: Path, deep: list[str]
) -> None:
    alone = fpd("verify-cache", "-w", new.root, "--store", store, *deep)
    assert alone.exit_code == 0, alone.output
    assert "no view was compared" in alone.output
    shutil.copytree(toy_work / "teacher", new.teacher.path)
    recipe = ("--set", READ_FROM_STORE, "--store", store)
    refused = fpd("verify-cache", "-w", new.root, *recipe, *deep)
    assert refused.exit_code == 1  # a teacher without a recipe
    new.write_kept(from_store(WorkDir(toy_work).recipe(None, ())).model_dump(mode="json"))
    portable = ("--set", "store.portable=true", "--store", store)
    compared = fpd("verify-cache", "-w", new.root, *portable, *deep)
    assert compared.exit_code == 0, compared.output
    assert "no view was compared" not in compared.output


@pytest.mark.usefixtures("no_data_set")
@pytest.mark.slow
@pytest.mark.parametrize("how", [[], ["--quantize", "static"]])
def test_a_student_is_exported_without_a_data_set(
    store: Path, new: WorkDir, how: list[str]
) -> None:
    pytest.importorskip("onnxruntime")
    trained = fpd("run", "student", "-w", new.root, "--store", store, *QUICK)
    assert trained.exit_code == 0, trained.output
    result = fpd("export", "-w", new.root, "--set", "loader.workers=0", *how)
    assert result.exit_code == 0, result.output
    assert list(new.student("student").path.glob("*.onnx"))


@pytest.mark.usefixtures("no_data_set")
@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--flip-test", "--scales", "0.8,1,1.2"]])
def test_a_student_is_evaluated_without_a_data_set(
    store: Path, new: WorkDir, options: list[str]
) -> None:
    """Crops of other scales are cut from the stored ones."""
    fpd("run", "student", "-w", new.root, "--store", store, *QUICK)
    result = fpd("evaluate", "-w", new.root, "--set", "loader.workers=0", *options)
    assert result.exit_code == 0, result.output
    assert (new.evaluation / "report.html").is_file()


@pytest.mark.usefixtures("no_data_set")
@pytest.mark.parametrize(
    "command",
    [["cache-heatmaps"], ["run", "teacher"], ["cache-heatmaps", "--plan"]],
)
def test_what_needs_photographs_says_so(store: Path, new: WorkDir, command: list[str]) -> None:
    result = fpd(*command, "-w", new.root, "--store", store)
    assert result.exit_code == 1
    assert result.output.count("Error: ") == 1
    assert "Traceback" not in result.output


def test_a_plain_store_is_not_taken_for_a_portable_one(toy_work: Path, new: WorkDir) -> None:
    result = fpd("run", "student", "-w", new.root, "--store", WorkDir(toy_work).store)
    assert result.exit_code == 1
    assert "has no recipe yet" in result.output
    named = ("-r", "demo", "--set", READ_FROM_STORE)
    result = fpd("run", "student", "-w", new.root, "--store", WorkDir(toy_work).store, *named)
    assert result.exit_code == 1
    assert "holds heatmaps only, expected a portable store" in result.output


# The same weights as from photographs


class RoundTrip:
    """Photographs whose crops are encoded as JPEG and decoded again."""

    def __init__(self, samples: SampleSet, quality: int) -> None:
        self.samples, self.quality = samples, quality

    def crop(self, index: int, affine: NDArray[np.float64], crop_px: int) -> NDArray[np.uint8]:
        (number,) = np.flatnonzero(self.samples.image_N == index).tolist()
        crop = crop_image(self.samples.images, self.samples[number], affine, crop_px)
        return decode_jpeg(encode_jpeg(crop, self.quality), crop_px)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.samples.images, name)


def through_jpeg(samples: SampleSet, quality: int) -> SampleSet:
    images: ImageSource = RoundTrip(samples, quality)
    return replace(samples, images=images)


@pytest.mark.parametrize(
    "flip_averaged", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "averaged"]
)
def test_photographs_through_jpeg_give_the_same_weights(
    portable_work: WorkDir,
    portable_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    flip_averaged: bool,
) -> None:
    recipe = portable_recipe
    if flip_averaged:
        recipe = changed(portable_recipe, "store.flip_averaged=true")
        heatmaps.run(portable_work, recipe, CPU, overwrite=True)
    of_store = student.run(portable_work, from_store(recipe), CPU, name="of-store")

    def photographs(*_: object) -> dict[str, SampleSet]:
        loaded = load_training(recipe.data, with_unlabeled=True)
        validation = through_jpeg(loaded["validation"], recipe.store.crop_quality)
        return {"train": loaded["train"], "validation": validation}

    class CutViews(Views):
        def __getitem__(self, key: tuple[int, int]) -> View:
            view = super().__getitem__(key)
            del view["jpeg"]  # `flipped` has none, and a batch mixes both
            return view

    def cut(recipe: Recipe, samples: SampleSet, reader: StoreReader) -> Views:
        of_store = stored_views(recipe, samples)
        augmentation, seed = of_store.augmentation, of_store.seed
        return CutViews(samples, recipe.geometry, augmentation, seed, crop_quality=90)

    monkeypatch.setattr(distill, "views_of", cut)
    monkeypatch.setattr(distill, "load_stored_training", photographs)
    of_photographs = student.run(portable_work, recipe, CPU, name="of-photographs")
    assert weights_of(of_photographs) == weights_of(of_store)
    assert (
        portable_work.student("of-photographs").weights.read_bytes()
        == portable_work.student("of-store").weights.read_bytes()
    )
    histories = [
        [
            (row["loss"], row["validation_pck"])
            for row in map(json.loads, portable_work.student(name).metrics.read_text().splitlines())
        ]
        for name in ("of-store", "of-photographs")
    ]
    assert histories[0] == histories[1]


def test_a_student_beside_the_data_set_has_the_weights_of_one_elsewhere(
    portable_work: WorkDir, portable_recipe: Recipe
) -> None:
    here = student.run(portable_work, portable_recipe, CPU, name="here")
    elsewhere = student.run(portable_work, from_store(portable_recipe), CPU, name="elsewhere")
    assert weights_of(here) == weights_of(elsewhere)


# Growing, and what the store remembers


@pytest.mark.slow
def test_views_are_added_and_the_recipe_counts_them(
    portable_work: WorkDir, portable_recipe: Recipe, tmp_path: Path
) -> None:
    more = changed(portable_recipe, "store.views=3")
    assert heatmaps.run(portable_work, more, CPU)["written"] == 3
    at_once = WorkDir(tmp_path / "at-once")
    shutil.copytree(portable_work.teacher.path, at_once.teacher.path)
    heatmaps.run(at_once, more, CPU)
    assert content(portable_work.store) == content(at_once.store)
    manifest = read_manifest(open_storage(portable_work.store))
    assert manifest["recipe"]["store"]["views"] == 3


def content(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_a_grown_data_set_extends_all_splits(
    portable_work: WorkDir, portable_recipe: Recipe, new: WorkDir
) -> None:
    """Training samples are added in shards of their own; the other splits are made again."""
    before = content(portable_work.store)
    more = changed(portable_recipe, "data.synthetic.train=40", "data.synthetic.test=11")
    heatmaps.run(portable_work, more, CPU)
    after = content(portable_work.store)
    manifest = read_manifest(open_storage(portable_work.store))
    counts = {split: entry["samples"] for split, entry in manifest["splits"].items()}
    loaded = load_training(more.data, with_unlabeled=True)
    assert counts == {"validation": len(loaded["validation"]), "test": 11}
    kept = [name for name in before if not name.startswith(("validation", "test"))]
    shards = [name for name in kept if not name.endswith(("zarr.json", "README.md"))]
    assert {name: after[name] for name in shards} == {name: before[name] for name in shards}
    verified = fpd("verify-cache", "-w", new.root, "--store", portable_work.store, "--deep")
    assert verified.exit_code == 0, verified.output
    result = fpd("run", "student", "-w", new.root, "--store", portable_work.store, *QUICK)
    assert result.exit_code == 0, result.output
    stored = load_samples(new, new.recipe(None, ()), "train")
    assert [hashed_id(name) for name in loaded["train"].ids] == list(stored.ids)
    np.testing.assert_array_equal(stored.joints_NK2, loaded["train"].joints_NK2)


@pytest.mark.slow
def test_other_test_samples_replace_the_stored_ones(
    portable_work: WorkDir, portable_recipe: Recipe
) -> None:
    """Also fewer of them: no shard of the former ones stays."""
    undisturbed = content(portable_work.store)
    fewer = changed(portable_recipe, "data.synthetic.test=3")
    heatmaps.run(portable_work, fewer, CPU)
    assert read_manifest(open_storage(portable_work.store))["splits"]["test"]["samples"] == 3
    heatmaps.run(portable_work, portable_recipe, CPU)
    assert content(portable_work.store) == undisturbed


@pytest.mark.parametrize(
    "change",
    ["store.crop_quality=80", 'store.splits=["test"]', "store.source_names=true"],
)
def test_a_store_of_other_crops_is_refused(
    portable_work: WorkDir, portable_recipe: Recipe, change: str
) -> None:
    with pytest.raises(ValueError, match=r"does not fit this run: crops\."):
        heatmaps.run(portable_work, changed(portable_recipe, change), CPU)


def test_a_store_without_crops_does_not_become_portable(
    work: WorkDir, portable_recipe: Recipe
) -> None:
    before = content(work.store)
    with pytest.raises(ValueError, match=r"does not fit this run: .*--overwrite"):
        heatmaps.run(work, portable_recipe, CPU)
    assert content(work.store) == before


@pytest.mark.slow
def test_names_are_stored_if_asked_for(
    portable_work: WorkDir, portable_recipe: Recipe, new: WorkDir
) -> None:
    recipe = changed(portable_recipe, "store.source_names=true")
    with_hashes = student.run(portable_work, from_store(portable_recipe), CPU, name="hashes")
    heatmaps.run(portable_work, recipe, CPU, overwrite=True)
    assert _first_id(portable_work.store) == "figures/train/000000"
    with_names = student.run(portable_work, from_store(recipe), CPU, name="names")
    assert weights_of(with_names) == weights_of(with_hashes)


# The teacher's pixels


def test_teacher_and_students_see_what_the_jpeg_decodes_to(
    portable_work: WorkDir, portable_recipe: Recipe, toy_samples: SampleSet
) -> None:
    from fpd.pipeline.store.manifest import stored_layout
    from fpd.pipeline.store.match import views_of

    storage = open_storage(portable_work.store)
    reader = StoreReader(storage, stored_layout(storage))
    read, cut = (
        views_of(portable_recipe, toy_samples, reader),
        stored_views(portable_recipe, toy_samples),
    )
    for key in [(0, 0), (17, 1)]:
        for name in ("crop", "joints", "affine", "parameters"):
            np.testing.assert_array_equal(read[key][name], cut[key][name])
    plain = Views(toy_samples, portable_recipe.geometry, Augmentation(), 0)
    assert (plain[0, CENTER_CROP]["crop"] != read[0, 0]["crop"]).any()


def test_a_store_that_is_not_there_is_named(new: WorkDir) -> None:
    result = fpd("run", "student", "-w", new.root, "--store", "nothing.zarr")
    assert result.exit_code == 1
    assert "no portable store at nothing.zarr" in result.output
