"""What a run shows while it trains: it shows what was trained, and harms nothing."""

from __future__ import annotations

import io
import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.data import default_collate

from fpd.data.datasets import load
from fpd.data.heatmap_codec import encode
from fpd.pipeline.config.recipe import Recipe, apply_overrides, fresh_views, stored_views
from fpd.pipeline.models.checkpoint import ModelDir
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.store import read_heatmaps
from fpd.pipeline.training import loop, monitor
from fpd.pipeline.training import tensorboard as events
from fpd.pipeline.training.contact_sheet import Sheet
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.training.tensorboard import EventLog
from fpd.pipeline.workdir import WorkDir
from fpd.stages import heatmaps, student, teacher

CPU = torch.device("cpu")
EVERYTHING = (
    *("monitor.contact_sheet_every=1", "monitor.contact_sheet_samples=2"),
    "monitor.tensorboard=true",
)


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def train_teacher(path: Path, recipe: Recipe) -> ModelDir:
    work = WorkDir(path)
    work.create()
    teacher.run(work, recipe, CPU)
    return work.teacher


def rows(folder: ModelDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def sheets(folder: ModelDir) -> list[str]:
    return sorted(path.name for path in (folder.path / "contact_sheets").iterdir())


def curves(folder: ModelDir) -> EventAccumulator:
    return EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"images": 0}).Reload()


def steps(found: EventAccumulator, tag: str = "loss/training") -> list[int]:
    return [event.step for event in found.Scalars(tag)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Sheet]:
    """What was drawn."""
    sheets: list[Sheet] = []
    draw = monitor.draw

    def keep(sheet: Sheet) -> bytes:
        sheets.append(sheet)
        return draw(sheet)

    monkeypatch.setattr(monitor, "draw", keep)
    return sheets


# When


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(0, 1, []), (2, 5, [1, 2, 4, 5]), (9, 2, [1, 2])]
)
def test_the_first_the_last_and_every_nth_epoch_are_drawn(
    tmp_path: Path, toy_recipe: Recipe, every: int, epochs: int, expected: list[int]
) -> None:
    recipe = changed(toy_recipe, f"teacher.epochs={epochs}", f"monitor.contact_sheet_every={every}")
    folder = train_teacher(tmp_path, recipe)
    assert (folder.path / "contact_sheets").exists() == bool(expected)
    if expected:
        assert sheets(folder) == [f"epoch_{number:04d}.png" for number in expected]
    assert not (folder.path / "tensorboard").exists()


# What


def test_a_sheet_shows_what_the_teacher_was_trained_on(
    tmp_path: Path, toy_recipe: Recipe, drawn: list[Sheet]
) -> None:
    recipe = changed(toy_recipe, "monitor.contact_sheet_every=1", "monitor.contact_sheet_samples=5")
    folder = train_teacher(tmp_path, recipe)
    samples = load(recipe.data, "train")
    people = sorted(range(18), key=lambda index: int(samples.id_hash_N[index]))[:5]
    views = [fresh_views(recipe, samples, 0)[index, 0] for index in people]
    for sheet in drawn:
        assert list(sheet.captions) == [samples.ids[index] for index in people]
        assert [column.name for column in sheet.columns] == ["target", "prediction"]
        assert np.array_equal(sheet.crops_BSS3, [view["crop"] for view in views])
        joints = torch.from_numpy(np.stack([view["joints"] for view in views]))
        expected, due = encode(joints, 16, recipe.targets.sigma_px)
        assert np.array_equal(sheet.columns[0].heatmaps_BKHW, expected)
        assert np.array_equal(sheet.columns[0].sure_BK, due > 0)
        assert np.allclose(sheet.labels_BK2, joints * 4 + 1.5, equal_nan=True)
    last = rows(folder)[-1]
    assert drawn[-1].title[0] == "teacher, epoch 2 of 2"
    assert f"loss {last['loss']:.4g} (" in drawn[-1].title[1]
    assert f"PCK@0.2 {100 * last['validation_pck']:.1f} %" in drawn[-1].title[1]


def test_the_prediction_is_the_scored_networks_in_eval_mode(
    tmp_path: Path, toy_recipe: Recipe, drawn: list[Sheet]
) -> None:
    """With a moving average, which is scored and kept, and is not what was stepped."""
    recipe = changed(
        toy_recipe, "monitor.contact_sheet_every=1", "teacher.ema_decay=0.9", "teacher.epochs=1"
    )
    folder = train_teacher(tmp_path, recipe)
    network = recipe.teacher.model.build(14)
    network.load_state_dict(load_file(folder.weights))
    with torch.inference_mode():
        crops = normalize(torch.from_numpy(drawn[0].crops_BSS3), CPU)
        expected = network.eval()(crops)[-1].numpy()
    assert np.allclose(drawn[0].columns[-1].heatmaps_BKHW, expected, atol=1e-5)


def test_a_student_sees_the_cached_maps(
    work: WorkDir, toy_recipe: Recipe, drawn: list[Sheet]
) -> None:
    recipe = changed(
        toy_recipe, "monitor.contact_sheet_every=1", "student.teacher_scale=raw", "student.epochs=1"
    )
    student.run(work, recipe, CPU)
    samples = load(recipe.data, "train")
    for row, name in enumerate(drawn[0].captions):
        index = samples.ids.index(name)
        view = int(samples.id_hash_N[index]) % 2
        crop = stored_views(recipe, samples)[index, view]["crop"]
        assert np.array_equal(drawn[0].crops_BSS3[row], crop)
        expected = read_heatmaps(str(work.store), view=view, samples=[index])[0]
        assert np.allclose(drawn[0].columns[1].heatmaps_BKHW[row], expected, atol=1e-6)
    assert [column.name for column in drawn[0].columns] == [
        *["target", "teacher, as cached", "prediction"]
    ]


def test_a_student_that_mirrors_sees_mirrored_maps(
    work: WorkDir, toy_recipe: Recipe, drawn: list[Sheet]
) -> None:
    recipe = changed(
        toy_recipe,
        *["store.flip_averaged=true", "monitor.contact_sheet_every=1", "student.epochs=1"],
        *["monitor.contact_sheet_samples=18", "student.teacher_scale=raw"],
    )
    shutil.rmtree(work.store)
    heatmaps.run(work, recipe, CPU)
    student.run(work, recipe, CPU)
    samples, swap = load(recipe.data, "train"), [*[5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6], 12, 13]
    in_training = [key for batch in EpochSampler(samples, 8, 0, 2, flip=True) for key in batch]
    keys: dict[int, Any] = {key[0]: key for key in in_training}
    assert len({key[2] for key in keys.values()}) == 2  # some are mirrored, some not
    for row, name in enumerate(drawn[0].captions):
        index, view, mirrored = keys[samples.ids.index(name)]
        crop = stored_views(recipe, samples)[index, view]["crop"]
        maps = read_heatmaps(str(work.store), view=view, samples=[index])[0]
        if mirrored:
            crop, maps = crop[:, ::-1], maps[swap][..., ::-1]
        assert np.array_equal(drawn[0].crops_BSS3[row], crop)
        assert np.allclose(drawn[0].columns[1].heatmaps_BKHW[row], maps, atol=1e-6)


def test_a_student_without_the_store_has_no_such_column(
    tmp_path: Path, toy_recipe: Recipe, drawn: list[Sheet]
) -> None:
    work = WorkDir(tmp_path)
    work.create()
    overrides = ["student.alpha=0", "student.epochs=1", "monitor.contact_sheet_every=1"]
    student.run(work, changed(toy_recipe, *overrides), CPU)
    assert [column.name for column in drawn[0].columns] == ["target", "prediction"]


def test_people_who_are_left_out_of_training_are_not_shown(
    work: WorkDir, toy_recipe: Recipe, drawn: list[Sheet]
) -> None:
    overrides = ["student.fold=[0, 3]", "student.epochs=1", "monitor.contact_sheet_samples=64"]
    student.run(work, changed(toy_recipe, *overrides, "monitor.contact_sheet_every=1"), CPU)
    samples = load(toy_recipe.data, "train")
    left_out = samples.part(0, 3)
    assert 0 < left_out.sum() < 18
    trained_on = {name for name, out in zip(samples.ids, left_out, strict=True) if not out}
    assert set(drawn[0].captions) == trained_on
    assert len(drawn[0].captions) == len(trained_on)


# Harmless


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_nothing_that_is_trained_depends_on_it(
    work: WorkDir, toy_recipe: Recipe, stage: str
) -> None:
    """Weights, running statistics, optimizer, average; and the generators are where they were."""
    recipe = changed(toy_recipe, f"{stage}.epochs=3", f"{stage}.ema_decay=0.9")
    found = []
    for shown in ((), EVERYTHING):
        folder = work.teacher if stage == "teacher" else work.student("student")
        if stage == "teacher":
            shutil.rmtree(folder.path, ignore_errors=True)
            teacher.run(work, changed(recipe, *shown), CPU)
        else:
            student.run(work, changed(recipe, *shown), CPU)
        state = torch.load(folder.state, weights_only=True)
        draws = torch.get_rng_state(), np.random.get_state()[1]
        found.append((folder.weights.read_bytes(), state, draws, folder.record()["identity"]))
        shutil.rmtree(folder.path)
    (bytes_a, state_a, draws_a, identity_a), (bytes_b, state_b, draws_b, identity_b) = found
    assert bytes_a == bytes_b
    assert identity_a == identity_b
    for part in ("network", "averaged"):
        assert all(torch.equal(state_a[part][key], state_b[part][key]) for key in state_a[part])
    moments = [state["optimizer"]["state"] for state in (state_a, state_b)]
    for number, moment in moments[0].items():
        assert all(torch.equal(moment[key], moments[1][number][key]) for key in moment)
    assert torch.equal(draws_a[0], draws_b[0])
    assert np.array_equal(draws_a[1], draws_b[1])


def test_it_may_be_turned_on_in_the_middle(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of before has the identity of one of now, and its epochs are in the curves."""
    crash_after(monkeypatch, 2)
    recipe = changed(toy_recipe, "teacher.epochs=4")
    with pytest.raises(RuntimeError, match="pulled"):
        train_teacher(tmp_path, recipe)
    folder = train_teacher(tmp_path, changed(recipe, *EVERYTHING))
    assert sheets(folder) == ["epoch_0003.png", "epoch_0004.png"]
    found = curves(folder)
    assert steps(found) == [1, 2, 3, 4]
    assert steps(found, "validation_pck/knee") == [3, 4]  # which the metrics do not keep


def crash_after(monkeypatch: pytest.MonkeyPatch, epochs: int, *, saved: bool = True) -> None:
    """End the run once, when so many epochs are done, after or before that is saved."""
    save, crashed = loop.Run._save, []

    def crashing(run: loop.Run) -> None:
        now = run.state.progress.epoch == epochs and not crashed
        if saved or not now:
            save(run)
        if now:
            crashed.append(True)
            raise RuntimeError("the plug was pulled")

    monkeypatch.setattr(loop.Run, "_save", crashing)


@pytest.mark.parametrize("what", ["contact_sheets", "tensorboard"])
def test_where_nothing_can_be_written_it_is_said_once(
    work: WorkDir,
    toy_recipe: Recipe,
    caplog: pytest.LogCaptureFixture,
    what: str,
) -> None:
    plain = work.teacher.weights.read_bytes()
    shutil.rmtree(work.teacher.path)
    work.teacher.path.mkdir()
    (work.teacher.path / what).write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        teacher.run(work, changed(toy_recipe, *EVERYTHING), CPU)
    assert work.teacher.weights.read_bytes() == plain
    warnings = [text for text in caplog.messages if "training goes on" in text]
    assert len(warnings) == 1
    assert "FileExistsError" in warnings[0]
    other = {"contact_sheets", "tensorboard"} - {what}
    assert (work.teacher.path / other.pop()).is_dir()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), torch.OutOfMemoryError(), ValueError("NaN")]
)
def test_a_sheet_that_fails_leaves_the_network_in_training(
    work: WorkDir,
    toy_recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    plain = work.teacher.weights.read_bytes()
    shutil.rmtree(work.teacher.path)

    def fail(*_: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        raise error

    monkeypatch.setattr(monitor, "make_predictor", fail)
    with caplog.at_level(logging.WARNING):
        teacher.run(work, changed(toy_recipe, "monitor.contact_sheet_every=1"), CPU)
    assert work.teacher.weights.read_bytes() == plain
    assert sum("no contact sheet was drawn" in text for text in caplog.messages) == 1
    assert not list(work.teacher.path.rglob("*.png"))


def test_a_second_ctrl_c_ends_drawing_too(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Sheet) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_teacher(tmp_path, changed(toy_recipe, "monitor.contact_sheet_every=1"))


# TensorBoard


def test_the_curves_are_the_metrics(work: WorkDir, toy_recipe: Recipe) -> None:
    student.run(work, changed(toy_recipe, "student.epochs=3", *EVERYTHING), CPU)
    folder = work.student("student")
    found, expected = curves(folder), rows(folder)
    for column, tag in monitor.SCALARS.items():
        assert steps(found, tag) == [1, 2, 3]
        values = [event.value for event in found.Scalars(tag)]
        assert values == pytest.approx([row[column] for row in expected], rel=1e-6)
    groups = {tag for tag in found.Tags()["scalars"] if tag.startswith("validation_pck/")}
    assert {"validation_pck/mean", "validation_pck/knee", "validation_pck/wrist"} <= groups
    images = found.Images("contact_sheet")
    assert [image.step for image in images] == [1, 2, 3]
    for image, name in zip(images, sheets(folder), strict=True):
        drawn = (folder.path / "contact_sheets" / name).read_bytes()
        assert image.encoded_image_string == drawn
        assert (image.width, image.height) == (4 * 196 + 4, 82 + 2 * 196)


def test_groups_mean_their_joints(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_joint = np.linspace(0, 0.26, 14)
    per_joint[[12, 13]] = np.nan  # nobody has a head that counts: no such curve
    score = loop.score
    monkeypatch.setattr(loop, "score", lambda *a: replace(score(*a), per_joint_K=per_joint))
    found = curves(train_teacher(tmp_path, changed(toy_recipe, "monitor.tensorboard=true")))
    (first, _) = found.Scalars("validation_pck/ankle")  # joints 0 and 5
    assert first.value == pytest.approx((per_joint[0] + per_joint[5]) / 2)
    assert "validation_pck/head" not in found.Tags()["scalars"]
    assert not any(
        math.isnan(e.value) for tag in found.Tags()["scalars"] for e in found.Scalars(tag)
    )


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_that_goes_on_has_one_point_an_epoch(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """Also where an epoch is trained again, and where the dying process left half a record."""
    recipe = changed(toy_recipe, "teacher.epochs=4", *EVERYTHING)
    crash_after(monkeypatch, 2, saved=saved)
    with pytest.raises(RuntimeError, match="pulled"):
        train_teacher(tmp_path, recipe)
    (first,) = (WorkDir(tmp_path).teacher.path / "tensorboard").iterdir()
    with first.open("ab") as file:
        file.write(first.read_bytes()[:20])
    folder = train_teacher(tmp_path, recipe)
    found = curves(folder)
    for tag in found.Tags()["scalars"]:
        assert steps(found, tag) == [1, 2, 3, 4], tag
    losses = [event.value for event in found.Scalars("loss/training")]
    assert losses == pytest.approx([row["loss"] for row in rows(folder)])
    assert [image.step for image in found.Images("contact_sheet")] == [1, 2, 3, 4]


def test_a_run_that_starts_over_voids_what_was_there(tmp_path: Path, toy_recipe: Recipe) -> None:
    recipe = changed(toy_recipe, "monitor.tensorboard=true", "teacher.epochs=3")
    folder = train_teacher(tmp_path, recipe)
    for path in (folder.state, folder.record_path):
        path.unlink()
    again = train_teacher(tmp_path, changed(recipe, "teacher.epochs=2"))
    assert steps(curves(again)) == [1, 2]


def test_what_a_full_disk_refused_is_written_once_there_is_room(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes half of the second epoch's record, and nothing of the third's."""
    records, calls = events._records, []

    def full(content: list[dict[str, Any]]) -> bytes:
        calls.append(content)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        whole = records(content)
        return whole[: len(whole) // 2] if len(calls) == 2 else whole

    sync = events.sync

    def refusing(path: Path) -> None:
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(events, "_records", full)
    monkeypatch.setattr(events, "sync", refusing)
    recipe = changed(toy_recipe, "monitor.tensorboard=true", "teacher.epochs=5")
    folder = train_teacher(tmp_path, recipe)
    found = curves(folder)
    assert steps(found) == [1, 2, 3, 4, 5]
    assert steps(found, "validation_pck/knee") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("message", [b"", b"x", bytes(range(256)) * 5])
def test_records_are_tensorboards_own(message: bytes) -> None:
    expected = io.BytesIO()
    RecordWriter(expected).write(message)
    assert events._record(message) == expected.getvalue()


def test_files_are_read_in_the_order_they_were_begun(tmp_path: Path) -> None:
    """Whatever a run's machines say what time it is."""
    for step in range(1, 13):
        EventLog(tmp_path).write(step, {"a": step})
    assert len(list(tmp_path.iterdir())) == 12
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("a")] == [(n, n) for n in range(1, 13)]


def test_without_the_package_training_does_not_begin(
    tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the tensorboard package: `pip install"):
        train_teacher(tmp_path, changed(toy_recipe, "monitor.tensorboard=true"))
    assert not (tmp_path / "teacher").exists()
    train_teacher(tmp_path, changed(toy_recipe, "teacher.epochs=1"))  # and is not missed


# Keys


@pytest.mark.parametrize("mirror", [False, True])
def test_keys_of_some_are_their_keys_in_the_epochs_batches(
    toy_recipe: Recipe, mirror: bool
) -> None:
    batches = EpochSampler(load(toy_recipe.data, "train"), 5, 3, 2, mirror=mirror)
    batches.set_epoch(4, 0)
    expected = {key[0]: key for batch in batches for key in batch}
    batches.set_epoch(4, 2)  # however far the epoch is
    assert batches.keys([7, 0, 11]) == [expected[7], expected[0], expected[11]]
    default_collate(batches.keys([1]))
