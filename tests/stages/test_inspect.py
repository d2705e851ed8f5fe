"""`fpd inspect-cache`: numbers agree with the files, complete or not; a figure shows one view."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.commands.summaries.inspect import describe
from fpd.data.samples import SampleSet
from fpd.pipeline.caching.figure import CachedFigure
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.files import sha256, write_sealed_json
from fpd.pipeline.store import Coverage, Layout, coverage, open_storage, read_heatmaps
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, inspect

CPU = torch.device("cpu")
ARRAYS = ("heatmaps", "steps", "peaks", "parameters")


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    for part in ("Error: ", *parts):
        assert part in result.output


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


# Numbers


def test_numbers_are_those_of_the_files(toy_work: Path, toy_recipe: Recipe) -> None:
    work = WorkDir(toy_work)
    report = inspect.run(work, toy_recipe)
    on_disk = {
        name: sum(f.stat().st_size for f in (work.store / name / "c").rglob("*") if f.is_file())
        for name in ARRAYS
    }
    total, float16_per_view = sum(on_disk.values()), 2 * 14 * 16 * 16
    assert report["bytes"] == {
        "arrays": on_disk,
        "total": total,
        "per_view": total / (2 * 18),
        "float16_per_view": float16_per_view,
        "compression_ratio": pytest.approx(float16_per_view * 36 / total),
    }
    assert report["coverage"] == {
        "shards": 6,
        "present": 6,
        "complete_views": "0-1",
        "empty_views": "",
        "partial_views": {},
    }
    assert report["layout"] == {"views": 2, "samples": 18, "shards": 3, "shard_samples": 8}
    assert report["encoding_error"] == report["manifest"]["encoding_error"]
    assert report["canaries"] == 6 * 2


def test_the_text_has_the_numbers(toy_work: Path, toy_recipe: Recipe, tmp_path: Path) -> None:
    result = fpd("inspect-cache", "-w", toy_work)
    assert result.exit_code == 0, result.output
    report = inspect.run(WorkDir(toy_work), toy_recipe)
    for part in (
        str(WorkDir(toy_work).store),
        f"sha256 {report['manifest']['teacher']['sha256'][:12]}…",
        "name synthetic/train, samples 18",
        "torch 2",
        "6 of 6 shards are present: 2 views of 18 samples, 3 shards a view",
        "complete views: 0-1",
        f"{report['bytes']['per_view']:.1f}",
        f"{report['bytes']['compression_ratio']:.1f} x smaller than raw float16",
        "(bound 10 %)",
        "canaries: 12",
    ):
        assert part in result.output, part
    assert "empty views" not in result.output
    out = tmp_path / "store.json"
    assert fpd("inspect-cache", "-w", toy_work, "--json", out).exit_code == 0
    assert json.loads(out.read_text()) == report


def test_a_portable_store_lists_its_splits(portable_work: WorkDir) -> None:
    (portable_work.store / "test/ids/receipts/0/0.json").unlink()
    result = fpd("inspect-cache", "-w", portable_work.root)
    assert result.exit_code == 0, result.output
    for line in (
        r"portable: students need nothing",
        r"  train: 18 samples, labels, no unaugmented crops, 0\.0\d MB, complete",
        r"  validation: 6 samples, labels and unaugmented crops, 0\.0\d MB, complete",
        r"  test: 8 samples, labels and unaugmented crops, 0\.00 MB, 8 missing",
        r"crops +\d+\.\d +0\.\d\d",
    ):
        assert re.search(line, result.output), line
    assert "recipe" not in result.output  # the settings would fill a screen
    assert "curve_steps" not in result.output
    out = portable_work.root / "store.json"
    assert fpd("inspect-cache", "-w", portable_work.root, "--json", out).exit_code == 0
    report = json.loads(out.read_text())
    group = portable_work.store / "validation"
    files = [path for path in group.glob("*/c/**/*") if path.is_file()]
    assert report["splits"]["validation"] == {
        "samples": 6,
        "present": 6,
        "crops": True,
        "bytes": sum(path.stat().st_size for path in files),
    }
    assert report["manifest"]["recipe"]["store"]["views"] == 2


def test_missing_shards_are_listed(work: WorkDir, toy_recipe: Recipe) -> None:
    heatmaps.run(work, changed(toy_recipe, "store.views=4"), CPU, only_views=[3])
    (work.store / "heatmaps/receipts/1/1.json").unlink()
    with (work.store / "peaks/c/1/2/0").open("ab") as file:
        file.write(b"!")
    assert inspect.run(work, toy_recipe)["coverage"] == {
        "shards": 12,
        "present": 7,
        "complete_views": "0,3",
        "empty_views": "2",
        "partial_views": {"1": {"present": 1, "missing": "1-2"}},
    }
    text = fpd("inspect-cache", "-w", work.root).output
    assert "view 1: 1 of 3 shards, missing 1-2" in text
    assert "empty views: 2" in text


def test_a_store_with_no_shard_yet(work: WorkDir, toy_recipe: Recipe) -> None:
    shutil.rmtree(work.store / "heatmaps" / "receipts")
    result = fpd("inspect-cache", "-w", work.root)
    assert result.exit_code == 0, result.output
    assert "0 of 6 shards are present" in result.output
    assert "no shard is written yet" in result.output
    assert inspect.run(work, toy_recipe)["bytes"]["compression_ratio"] is None


def test_neither_data_set_nor_recipe_is_needed(work: WorkDir, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(work.store, tmp_path / "elsewhere" / "toy.zarr")
    shutil.rmtree(work.root)
    result = fpd("inspect-cache", "-w", tmp_path / "none", "--store", elsewhere)
    assert result.exit_code == 0, result.output
    assert "6 of 6 shards are present" in result.output
    assert not (tmp_path / "none").exists()


def test_without_a_store_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    result = fpd("inspect-cache", "-w", tmp_path / "none")
    assert_refused(result, "there is no heatmap store at", f"fpd cache-heatmaps -w {tmp_path}/none")


def test_a_damaged_manifest_is_one_message(work: WorkDir) -> None:
    (work.store / "zarr.json").write_text("{}")
    assert_refused(fpd("inspect-cache", "-w", work.root), str(work.store))


def test_thousands_of_shards_take_a_few_lines(
    toy_work: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """View 0 is complete, 1 is empty, 2 has every other shard; and so on to view 99."""
    layout = Layout(views=100, segments=(400,), joints=3, heatmap_px=8, shard_samples=1)
    missing = [(v, s) for v, s in layout.tasks() if v % 3 == 1 or (v % 3 == 2 and s % 2)]
    receipt = coverage(open_storage(WorkDir(toy_work).store), Layout(2, (18,), 14, 16, 8)).receipts[
        0
    ]
    partial = Coverage(layout, missing, [receipt] * (layout.views * layout.shards - len(missing)))
    monkeypatch.setattr(inspect, "coverage", lambda *_: partial)
    text = describe(inspect.run(WorkDir(toy_work), toy_recipe))
    lines = text.splitlines()
    assert f"  complete views: {','.join(map(str, range(0, 60, 3)))} and 14 more" in lines
    assert "  and 25 more partial views" in lines
    assert any(line.startswith("  view 2: 200 of 400 shards, missing 1,3,5,") for line in lines)
    assert len(lines) < 50
    assert max(map(len, lines)) < 200


# The figure


def figure_of(work: WorkDir, recipe: Recipe, sample: str, view: int) -> CachedFigure:
    """The figure that would be drawn."""
    figures: list[CachedFigure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "draw_figure", lambda figure, _: figures.append(figure))
        inspect.draw(work, recipe, CPU, sample, view, Path("view.png"))
    return figures[0]


def read_pixels(path: Path) -> np.ndarray[Any, Any]:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_a_view_is_drawn_beside_the_live_teacher(toy_work: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.png"
    result = fpd("inspect-cache", "-w", toy_work, "--view", "3", "1", "-o", out)
    assert result.exit_code == 0, result.output
    assert "(bound 10 %)" in result.output
    assert min(read_pixels(out).shape[:2]) > 1000
    assert read_pixels(out).std() > 20  # not a blank page


def test_the_figure_has_what_the_store_holds(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    drawn = figure_of(WorkDir(toy_work), toy_recipe, toy_samples.ids[11], 1)
    np.testing.assert_array_equal(
        drawn.cached_KHW, read_heatmaps(WorkDir(toy_work).store, 1, [11])[0]
    )
    assert drawn.title.startswith(f"{toy_samples.ids[11]} (sample 11), view 1: scale ")
    assert drawn.skeleton == toy_samples.skeleton
    assert drawn.crop_SS3.shape == (64, 64, 3)
    assert drawn.live_KHW is not None
    assert drawn.errors_KHW is not None
    # Zero would be the store compared with itself.
    assert 0.01 < np.abs(drawn.errors_KHW).max() <= 0.1
    unit = np.maximum(drawn.peaks_K.astype(np.float32), 0.1)[:, None, None]
    expected = (drawn.cached_KHW - np.maximum(drawn.live_KHW, 0)) / unit
    np.testing.assert_allclose(drawn.errors_KHW, expected, atol=1e-6)


def test_labels_are_drawn_where_the_person_is(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    from fpd.data.augmentation import affine_23, transform
    from fpd.pipeline.config.recipe import stored_views

    sample = toy_samples[4]
    parameters = stored_views(toy_recipe, toy_samples).parameters(4, 0)
    expected = transform(
        affine_23(sample.center_2, sample.side_px, parameters, 64), sample.joints_K2
    )
    if parameters[2]:
        expected = expected[list(toy_samples.skeleton.flip_indices)]
    drawn = figure_of(WorkDir(toy_work), toy_recipe, "4", 0)
    np.testing.assert_allclose(drawn.labels_K2, expected, atol=1e-3)


def test_a_flip_averaged_store_is_drawn(work: WorkDir, toy_recipe: Recipe) -> None:
    shutil.rmtree(work.store)
    recipe = changed(toy_recipe, "store.flip_averaged=true", "store.views=1")
    heatmaps.run(work, recipe, CPU)
    drawn = figure_of(work, recipe, "0", 0)
    assert "flip-averaged" in drawn.title
    assert drawn.errors_KHW is not None
    assert np.abs(drawn.errors_KHW).max() <= 0.1


def test_without_the_teacher_the_store_is_drawn(work: WorkDir, tmp_path: Path) -> None:
    shutil.rmtree(work.teacher.path)
    out = tmp_path / "view.png"
    result = fpd("inspect-cache", "-w", work.root, "--view", "0", "0", "-o", out)
    assert result.exit_code == 0, result.output
    assert f"(no teacher in {work.teacher.path} to compare with)" in result.output
    assert read_pixels(out).std() > 20


def test_another_teacher_is_not_compared(work: WorkDir, toy_recipe: Recipe) -> None:
    weights = bytearray(work.teacher.weights.read_bytes())
    weights[-1] ^= 1
    work.teacher.weights.write_bytes(weights)
    record = work.teacher.record()
    record["result"]["weights_sha256"] = sha256(work.teacher.weights)
    write_sealed_json(work.teacher.record_path, record)
    drawn = figure_of(work, toy_recipe, "0", 0)
    assert drawn.live_KHW is None
    assert "not the store's" in drawn.title


@pytest.mark.parametrize(
    ("sample", "view", "part"),
    [
        ("18", "0", "an index in 0..17, got '18'"),
        ("nobody", "0", "such as figures/train/"),
        ("0", "2", "expected a view in 0..1"),
    ],
)
def test_views_that_do_not_exist_are_refused(
    toy_work: Path, tmp_path: Path, sample: str, view: str, part: str
) -> None:
    out = tmp_path / "view.png"
    assert_refused(fpd("inspect-cache", "-w", toy_work, "-o", out, "--view", sample, view), part)
    assert not out.exists()


def test_a_view_not_yet_written_is_refused(work: WorkDir, tmp_path: Path) -> None:
    (work.store / "heatmaps/receipts/1/2.json").unlink()
    result = fpd("inspect-cache", "-w", work.root, "--view", "17", "1", "-o", tmp_path / "v.png")
    assert_refused(result, "view 1 of sample 17 (shard 2) is not written", "fpd cache-heatmaps -w")


def test_a_store_of_other_settings_is_not_drawn(toy_work: Path, tmp_path: Path) -> None:
    result = fpd(
        "inspect-cache",
        "-w",
        toy_work,
        "--set",
        "store.seed=1",
        "--view",
        "0",
        "0",
        "-o",
        tmp_path / "v.png",
    )
    assert_refused(result, "seed: expected 1, found 0")


def test_an_unknown_format_is_refused(toy_work: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.foo"
    assert_refused(fpd("inspect-cache", "-w", toy_work, "--view", "0", "0", "-o", out), "foo")
    assert list(tmp_path.iterdir()) == []
