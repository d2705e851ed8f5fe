"""What `inspect-cache` says is what the files hold, whole or not; and the picture shows it."""

from __future__ import annotations

import json
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
from fpd.pipeline.runtime.text import parse_ranges, show_ranges
from fpd.pipeline.store import Coverage, Layout, coverage, files_at, read_heatmaps
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps
from fpd.stages import inspect as inspection

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
    found = inspection.run(work, toy_recipe)
    on_disk = {
        name: sum(f.stat().st_size for f in (work.store / name / "c").rglob("*") if f.is_file())
        for name in ARRAYS
    }
    assert found["bytes"]["arrays"] == on_disk
    assert found["bytes"]["total"] == sum(on_disk.values())
    assert found["bytes"]["a_view"] == sum(on_disk.values()) / (2 * 18)
    assert found["bytes"]["float16_a_view"] == 2 * 14 * 16 * 16
    assert found["bytes"]["times_smaller"] == pytest.approx(
        2 * 14 * 16 * 16 * 36 / sum(on_disk.values())
    )
    assert found["coverage"] == {
        "shards": 6,
        "present": 6,
        "whole_views": "0-1",
        "empty_views": "",
        "partial_views": {},
    }
    assert found["layout"] == {"views": 2, "samples": 18, "shards": 3, "shard_samples": 8}
    assert found["encoding_error"] == found["manifest"]["encoding_error"]
    assert found["canaries"] == 6 * 2


def test_the_text_has_what_matters(toy_work: Path, toy_recipe: Recipe) -> None:
    result = fpd("inspect-cache", "-w", toy_work)
    assert result.exit_code == 0, result.output
    found = inspection.run(WorkDir(toy_work), toy_recipe)
    for part in (
        str(WorkDir(toy_work).store),
        f"sha256 {found['manifest']['teacher']['sha256'][:12]}…",
        "name figures/train, samples 18",
        "torch 2",
        "6 of 6 shards are there: 2 views of 18 samples, 3 shards a view",
        "whole views: 0-1",
        f"{found['bytes']['a_view']:.1f}",
        f"{found['bytes']['times_smaller']:.1f} x smaller than raw float16",
        "(bound 10 %)",
        "canaries: 12",
    ):
        assert part in result.output, part
    assert "not begun" not in result.output


def test_json_is_the_same(toy_work: Path, toy_recipe: Recipe) -> None:
    result = fpd("inspect-cache", "-w", toy_work, "--json")
    assert json.loads(result.output) == inspection.run(WorkDir(toy_work), toy_recipe)


def test_an_incomplete_store_says_what_is_missing(work: WorkDir, toy_recipe: Recipe) -> None:
    heatmaps.run(work, changed(toy_recipe, "store.views=4"), CPU, only_views=[3])
    (work.store / "heatmaps/receipts/1/1.json").unlink()
    with (work.store / "peaks/c/1/2/0").open("ab") as file:
        file.write(b"!")
    found = inspection.run(work, toy_recipe)["coverage"]
    assert found == {
        "shards": 12,
        "present": 7,
        "whole_views": "0,3",
        "empty_views": "2",
        "partial_views": {"1": {"present": 1, "missing": "1-2"}},
    }
    text = fpd("inspect-cache", "-w", work.root).output
    assert "view 1: 1 of 3 shards, missing 1-2" in text
    assert "not begun: 2" in text


def test_a_store_with_no_shard_yet(work: WorkDir, toy_recipe: Recipe) -> None:
    shutil.rmtree(work.store / "heatmaps" / "receipts")
    result = fpd("inspect-cache", "-w", work.root)
    assert result.exit_code == 0, result.output
    assert "0 of 6 shards are there" in result.output
    assert "nothing is written yet" in result.output
    assert inspection.run(work, toy_recipe)["bytes"]["times_smaller"] is None


def test_neither_data_set_nor_recipe_is_needed(work: WorkDir, tmp_path: Path) -> None:
    elsewhere = shutil.copytree(work.store, tmp_path / "elsewhere" / "toy.zarr")
    shutil.rmtree(work.root)
    result = fpd("inspect-cache", "-w", tmp_path / "none", "--store", elsewhere)
    assert result.exit_code == 0, result.output
    assert "6 of 6 shards are there" in result.output
    assert not (tmp_path / "none").exists()


def test_no_store_is_one_sentence(tmp_path: Path) -> None:
    result = fpd("inspect-cache", "-w", tmp_path / "none")
    assert_refused(result, "there is no heatmap store at", f"fpd cache-heatmaps -w {tmp_path}/none")


def test_a_damaged_manifest_is_one_sentence(work: WorkDir) -> None:
    (work.store / "zarr.json").write_text("{}")
    assert_refused(fpd("inspect-cache", "-w", work.root), str(work.store))


def test_thousands_of_shards_stay_a_few_lines(
    toy_work: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """View 0 is whole, 1 not begun, 2 there by every other shard; and so on to view 99."""
    layout = Layout(views=100, segments=(400,), joints=3, heatmap_px=8, shard_samples=1)
    missing = [(v, s) for v, s in layout.tasks() if v % 3 == 1 or (v % 3 == 2 and s % 2)]
    receipt = coverage(files_at(WorkDir(toy_work).store), Layout(2, (18,), 14, 16, 8)).receipts[0]
    found = Coverage(layout, missing, [receipt] * (layout.views * layout.shards - len(missing)))
    monkeypatch.setattr(inspection, "coverage", lambda *_: found)
    text = describe(inspection.run(WorkDir(toy_work), toy_recipe))
    lines = text.splitlines()
    assert f"  whole views: {','.join(map(str, range(0, 60, 3)))} and 14 more" in lines
    assert "  and 25 more views there in part" in lines
    assert any(line.startswith("  view 2: 200 of 400 shards, missing 1,3,5,") for line in lines)
    assert len(lines) < 50
    assert max(map(len, lines)) < 200


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([5], "5"), ([0, 1, 2, 3, 6], "0-3,6"), ([9, 2, 3], "2-3,9"), ([1, 1, 2], "1-2")],
)
def test_ranges_there_and_back(numbers: list[int], text: str) -> None:
    assert show_ranges(numbers) == text
    if text:
        assert parse_ranges(text, below=10) == set(numbers)


def test_many_ranges_are_counted() -> None:
    assert show_ranges([0, 2, 4, 5, 6, 8], most=2) == "0,2 and 4 more"


# The picture


def teaching_of(work: WorkDir, recipe: Recipe, sample: str, view: int, out: Path) -> CachedFigure:
    """What is handed to be drawn."""
    drawn: list[CachedFigure] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "draw_teaching", lambda teaching, _: drawn.append(teaching))
        inspection.draw(work, recipe, CPU, sample, view, out)
    return drawn[0]


def picture(path: Path) -> np.ndarray[Any, Any]:
    image = cv2.imread(str(path))
    assert image is not None
    return image


def test_a_view_is_drawn_beside_the_live_teacher(toy_work: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.png"
    result = fpd("inspect-cache", "-w", toy_work, "--view", "3", "1", "-o", out)
    assert result.exit_code == 0, result.output
    assert "off the live teacher (bound 10 %)" in result.output
    assert min(picture(out).shape[:2]) > 1000
    assert picture(out).std() > 20  # not a blank page


def test_what_is_drawn_is_what_the_store_holds(
    work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet, tmp_path: Path
) -> None:
    drawn = teaching_of(work, toy_recipe, toy_samples.ids[11], 1, tmp_path / "view.png")
    np.testing.assert_array_equal(drawn.cached_KHW, read_heatmaps(work.store, 1, [11])[0])
    assert drawn.title.startswith(f"{toy_samples.ids[11]} (sample 11), view 1: scale ")
    assert drawn.joints == toy_samples.skeleton.joints
    assert drawn.crop_SS3.shape == (64, 64, 3)
    assert drawn.live_KHW is not None
    assert drawn.errors_KHW is not None
    # Not zero, which would be the store compared with itself; not above the bound.
    assert 0.01 < np.abs(drawn.errors_KHW).max() <= 0.1
    unit = np.maximum(drawn.peaks_K.astype(np.float32), 0.1)[:, None, None]
    expected = (drawn.cached_KHW - np.maximum(drawn.live_KHW, 0)) / unit
    np.testing.assert_allclose(drawn.errors_KHW, expected, atol=1e-6)


def test_labels_are_drawn_where_the_person_is(
    work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet, tmp_path: Path
) -> None:
    from fpd.data.augmentation import affine_23, transform
    from fpd.pipeline.config.recipe import stored_views

    person = toy_samples[4]
    parameters = stored_views(toy_recipe, toy_samples).parameters(4, 0)
    expected = transform(
        affine_23(person.center_2, person.side_px, parameters, 64), person.joints_K2
    )
    if parameters[2]:
        expected = expected[list(toy_samples.skeleton.flip_indices)]
    drawn = teaching_of(work, toy_recipe, "4", 0, tmp_path / "view.png")
    np.testing.assert_allclose(drawn.labels_K2, expected, atol=1e-3)


def test_a_mirror_averaged_store_says_so(work: WorkDir, toy_recipe: Recipe, tmp_path: Path) -> None:
    shutil.rmtree(work.store)
    recipe = changed(toy_recipe, "store.flip_averaged=true", "store.views=1")
    heatmaps.run(work, recipe, CPU)
    drawn = teaching_of(work, recipe, "0", 0, tmp_path / "view.png")
    assert "averaged with the mirrored twin" in drawn.title
    assert drawn.errors_KHW is not None
    assert np.abs(drawn.errors_KHW).max() <= 0.1  # the live teacher is averaged, too


def test_without_the_teacher_the_rest_is_drawn(work: WorkDir, tmp_path: Path) -> None:
    shutil.rmtree(work.teacher.path)
    out = tmp_path / "view.png"
    result = fpd("inspect-cache", "-w", work.root, "--view", "0", "0", "-o", out)
    assert result.exit_code == 0, result.output
    assert f"(no teacher in {work.teacher.path} to compare with)" in result.output
    assert picture(out).std() > 20


def test_another_teacher_is_not_compared(work: WorkDir, toy_recipe: Recipe, tmp_path: Path) -> None:
    weights = bytearray(work.teacher.weights.read_bytes())
    weights[-1] ^= 1
    work.teacher.weights.write_bytes(weights)
    drawn = teaching_of(work, toy_recipe, "0", 0, tmp_path / "view.png")
    assert drawn.live_KHW is None
    assert "another teacher than the store's" in drawn.title


@pytest.mark.parametrize(
    ("sample", "view", "said"),
    [
        ("18", "0", "an index in 0..17, got '18'"),
        ("nobody", "0", "such as figures/train/"),
        ("-1", "0", "got '-1'"),
        ("0", "2", "expected a view in 0..1"),
        ("0", "-1", "expected a view in 0..1"),
    ],
)
def test_views_that_are_not_there_are_refused(
    toy_work: Path, tmp_path: Path, sample: str, view: str, said: str
) -> None:
    out = tmp_path / "view.png"
    assert_refused(fpd("inspect-cache", "-w", toy_work, "-o", out, "--view", sample, view), said)
    assert not out.exists()


def test_a_view_not_yet_written_is_refused(work: WorkDir, tmp_path: Path) -> None:
    (work.store / "heatmaps/receipts/1/2.json").unlink()
    result = fpd("inspect-cache", "-w", work.root, "--view", "17", "1", "-o", tmp_path / "v.png")
    assert_refused(result, "view 1 of sample 17 (shard 2) is not written", "fpd cache-heatmaps -w")


def test_a_store_of_other_settings_is_not_drawn_as_if_it_fitted(
    toy_work: Path, tmp_path: Path
) -> None:
    result = fpd(
        *("inspect-cache", "-w", toy_work, "--set", "store.seed=1"),
        *("--view", "0", "0", "-o", tmp_path / "v.png"),
    )
    assert_refused(result, "seed: expected 1, found 0")


def test_a_format_that_cannot_be_drawn_is_refused(toy_work: Path, tmp_path: Path) -> None:
    out = tmp_path / "view.foo"
    assert_refused(fpd("inspect-cache", "-w", toy_work, "--view", "0", "0", "-o", out), "foo")
    assert list(tmp_path.iterdir()) == []
