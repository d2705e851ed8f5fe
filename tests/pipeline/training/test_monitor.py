"""Contact sheets and curves: they show what is trained, and do not affect it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from fpd.data.heatmap_codec import encode
from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe, apply_overrides, fresh_views, stored_views
from fpd.pipeline.config.sections import Student
from fpd.pipeline.evaluation.pck import Pck, pck
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.store import StoreReader, open_storage, read_heatmaps, stored_layout
from fpd.pipeline.training import loop, monitor
from fpd.pipeline.training import tensorboard as events
from fpd.pipeline.training.contact_sheet import Sheet
from fpd.pipeline.training.dataset import DistillationViews, TrainingData
from fpd.pipeline.training.monitor import Monitor
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student, teacher

CPU = torch.device("cpu")
EVERYTHING = (
    "monitor.contact_sheet_every=1",
    "monitor.contact_sheet_samples=2",
    "monitor.tensorboard=true",
)


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


def train_teacher(root: Path, recipe: Recipe) -> ModelDir:
    work = WorkDir(root)
    work.create()
    teacher.run(work, recipe, CPU)
    return work.teacher


def rows(folder: ModelDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def sheets(folder: ModelDir) -> list[str]:
    return sorted(path.name for path in (folder.path / "contact_sheets").iterdir())


def curves(folder: ModelDir) -> EventAccumulator:
    return EventAccumulator(str(folder.path / "tensorboard"), size_guidance={"images": 0}).Reload()


def steps(accumulator: EventAccumulator, tag: str = "loss/loss") -> list[int]:
    return [event.step for event in accumulator.Scalars(tag)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Sheet]:
    """The sheets that were drawn."""
    sheets: list[Sheet] = []
    draw = monitor.draw

    def keep(sheet: Sheet) -> bytes:
        sheets.append(sheet)
        return draw(sheet)

    monkeypatch.setattr(monitor, "draw", keep)
    return sheets


@pytest.fixture
def network(toy_recipe: Recipe) -> nn.Module:
    """An untrained network, in training mode."""
    torch.manual_seed(0)
    network: nn.Module = toy_recipe.teacher.model.build(14)
    return network.train()


def make_monitor(
    folder: Path, recipe: Recipe, data: TrainingData, objective: Objective, epochs: int = 9
) -> Monitor:
    folder.mkdir(exist_ok=True)
    return Monitor(
        recipe=recipe,
        objective=objective,
        data=data,
        sampler=EpochSampler(data.samples, 8, 0, data.views, flip=data.flip, keep_N=data.keep_N),
        out=ModelDir(folder),
        device=CPU,
        training=recipe.teacher.model_copy(update={"epochs": epochs}),
    )


def teacher_monitor(
    folder: Path, recipe: Recipe, samples: SampleSet, epochs: int = 9, **settings: Any
) -> Monitor:
    data = TrainingData(
        samples=samples,
        validation=samples,
        dataset=fresh_views(recipe, samples, 0),
        views=None,
        inputs={},
        **settings,
    )
    return make_monitor(folder, recipe, data, Objective(recipe.targets, 16), epochs)


def history(epochs: int) -> list[dict[str, Any]]:
    """Rows of `metrics.jsonl`."""
    columns = {name: 1.0 for name in events.SCALAR_TAGS if "pose_loss" not in name}
    return [columns | {"epoch": epoch, "loss": 1 / epoch} for epoch in range(1, epochs + 1)]


SCORE = pck(np.zeros((1, 14, 2)), np.zeros((1, 14, 2)), np.ones(1), LSP)


def run_epochs(run: Monitor, network: nn.Module, *epochs: int, score: Pck | None = SCORE) -> None:
    for epoch in epochs:
        run.after_epoch(history(epoch), score, network)


# When sheets are drawn


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(0, 2, []), (2, 5, [1, 2, 4, 5]), (9, 2, [1, 2])]
)
def test_the_first_the_last_and_every_nth_epoch_have_a_sheet(
    tmp_path: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    network: nn.Module,
    every: int,
    epochs: int,
    expected: list[int],
) -> None:
    recipe = changed(
        toy_recipe,
        f"monitor.contact_sheet_every={every}",
        "monitor.contact_sheet_samples=1",
    )
    run = teacher_monitor(tmp_path, recipe, toy_samples, epochs)
    run_epochs(run, network, *range(1, epochs + 1))
    assert (tmp_path / "contact_sheets").exists() == bool(expected)
    if expected:
        assert sheets(run.out) == [f"epoch_{number:04d}.png" for number in expected]
    assert not (tmp_path / "tensorboard").exists()


# What they show


def test_a_sheet_shows_views_targets_and_the_scored_network(
    tmp_path: Path, toy_recipe: Recipe, toy_samples: SampleSet, drawn: list[Sheet]
) -> None:
    """With a moving average, which is what is scored and kept, in evaluation mode."""
    recipe = changed(
        toy_recipe,
        "monitor.contact_sheet_every=1",
        "monitor.contact_sheet_samples=5",
        "teacher.ema_decay=0.9",
        "teacher.epochs=1",
    )
    folder = train_teacher(tmp_path, recipe)
    (sheet,) = drawn
    indices = sorted(range(18), key=lambda index: int(toy_samples.id_hash_N[index]))[:5]
    views = [fresh_views(recipe, toy_samples, 0)[index, 0] for index in indices]
    assert list(sheet.captions) == [toy_samples.ids[index] for index in indices]
    assert [column.name for column in sheet.columns] == ["target", "prediction"]
    assert np.array_equal(sheet.crops_BSS3, [view["crop"] for view in views])
    joints = torch.from_numpy(np.stack([view["joints"] for view in views]))
    target, weights = encode(joints, 16, recipe.targets.sigma_px)
    assert np.array_equal(sheet.columns[0].heatmaps_BKHW, target)
    assert np.array_equal(sheet.columns[0].confident_BK, weights > 0)
    np.testing.assert_allclose(sheet.labels_BK2, joints * 4 + 1.5)
    (row,) = rows(folder)
    assert sheet.title[0] == "teacher, epoch 1 of 1"
    assert f"loss {row['loss']:.4g} (" in sheet.title[1]
    assert f"PCK@0.2 {100 * row['validation_pck']:.1f} %" in sheet.title[1]
    network = recipe.teacher.model.build(14)
    network.load_state_dict(load_file(folder.weights))
    with torch.inference_mode():
        prediction = network.eval()(normalize(torch.from_numpy(sheet.crops_BSS3), CPU))[-1]
    np.testing.assert_allclose(sheet.columns[1].heatmaps_BKHW, prediction, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_a_student_sheet_shows_the_cached_heatmaps(
    tmp_path: Path,
    toy_work: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    network: nn.Module,
    drawn: list[Sheet],
    flip: bool,
) -> None:
    """Crop and heatmaps are flipped where the student flips the view."""
    recipe = changed(
        toy_recipe, "monitor.contact_sheet_every=1", "monitor.contact_sheet_samples=18"
    )
    location = WorkDir(toy_work).store
    reader = StoreReader(open_storage(location), stored_layout(open_storage(location)))
    views = stored_views(recipe, toy_samples)
    data = TrainingData(
        samples=toy_samples,
        validation=toy_samples,
        dataset=DistillationViews(views, reader),
        views=2,
        inputs={},
        flip=flip,
    )
    objective = Objective(
        recipe.targets,
        16,
        student=Student(alpha=0.5, teacher_scale="raw"),
        flip_indices=LSP.flip_indices if flip else None,
    )
    run = make_monitor(tmp_path, recipe, data, objective)
    run_epochs(run, network, 1)
    (sheet,) = drawn
    assert [column.name for column in sheet.columns] == [
        "target",
        "teacher, as cached",
        "prediction",
    ]
    sampler = EpochSampler(toy_samples, 8, 0, 2, flip=True)
    keys = {key[0]: key for key in sampler.keys(range(18))}
    assert len({key[2] for key in keys.values()}) == 2
    for row, name in enumerate(sheet.captions):
        index, view, flipped = keys[toy_samples.ids.index(name)]
        crop = views[index, view]["crop"]
        heatmaps = read_heatmaps(str(location), view=view, samples=[index])[0]
        if flip and flipped:
            crop, heatmaps = crop[:, ::-1], heatmaps[list(LSP.flip_indices)][..., ::-1]
        assert np.array_equal(sheet.crops_BSS3[row], crop)
        np.testing.assert_allclose(sheet.columns[1].heatmaps_BKHW[row], heatmaps, atol=1e-6)


def test_samples_that_are_left_out_of_training_are_not_shown(
    tmp_path: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    network: nn.Module,
    drawn: list[Sheet],
) -> None:
    recipe = changed(
        toy_recipe, "monitor.contact_sheet_every=1", "monitor.contact_sheet_samples=64"
    )
    keep_N = np.arange(18) % 3 > 0
    run_epochs(teacher_monitor(tmp_path, recipe, toy_samples, keep_N=keep_N), network, 1)
    expected = [toy_samples.ids[index] for index in np.flatnonzero(keep_N)]
    assert sorted(drawn[0].captions) == sorted(expected)


# Without effect on training


def test_monitoring_does_not_affect_training(work: WorkDir, toy_recipe: Recipe) -> None:
    """Neither weights, statistics, optimizer and moving average, nor the random generators."""
    recipe = changed(toy_recipe, "student.epochs=2", "student.ema_decay=0.9")
    states, generators = [], []
    for name, shown in (("plain", ()), ("monitored", EVERYTHING)):
        student.run(work, changed(recipe, *shown), CPU, name=name)
        states.append(torch.load(work.student(name).state, weights_only=True))
        generators.append((torch.get_rng_state(), np.random.get_state()[1]))
    plain, monitored = (work.student(name) for name in ("plain", "monitored"))
    assert plain.weights.read_bytes() == monitored.weights.read_bytes()
    assert plain.record()["identity"] == monitored.record()["identity"]
    for part in ("network", "averaged"):
        for key, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][key])
    for number, moments in states[0]["optimizer"]["state"].items():
        for key, tensor in moments.items():
            assert torch.equal(tensor, states[1]["optimizer"]["state"][number][key])
    assert torch.equal(generators[0][0], generators[1][0])
    assert np.array_equal(generators[0][1], generators[1][1])
    check_curves(monitored)


def check_curves(folder: ModelDir) -> None:
    """The curves are the columns of `metrics.jsonl`, the images are the sheets."""
    accumulator, metrics = curves(folder), rows(folder)
    for column, tag in events.SCALAR_TAGS.items():
        assert tag.endswith((column, "validation_pck/mean"))
        assert steps(accumulator, tag) == [1, 2]
        values = [event.value for event in accumulator.Scalars(tag)]
        assert values == pytest.approx([row[column] for row in metrics], rel=1e-6)
    images = accumulator.Images("contact_sheet")
    assert [image.step for image in images] == [1, 2]
    for image, name in zip(images, sheets(folder), strict=True):
        content = (folder.path / "contact_sheets" / name).read_bytes()
        assert image.encoded_image_string == content
        assert (image.width, image.height) == (4 * 196 + 4, 82 + 2 * 196)


@pytest.mark.parametrize("blocked", ["contact_sheets", "tensorboard"])
def test_files_that_cannot_be_written_are_warned_of_once(
    tmp_path: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    network: nn.Module,
    caplog: pytest.LogCaptureFixture,
    blocked: str,
) -> None:
    (tmp_path / blocked).write_text("a file in the way")
    run = teacher_monitor(tmp_path, changed(toy_recipe, *EVERYTHING), toy_samples)
    run_epochs(run, network, 1, 2)
    (warning,) = caplog.messages
    assert "FileExistsError" in warning
    other = {"contact_sheets", "tensorboard"} - {blocked}
    assert (tmp_path / other.pop()).is_dir()


def test_a_sheet_that_fails_leaves_the_network_in_training_mode(
    tmp_path: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> Callable[[Tensor], Tensor]:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(monitor, "make_predictor", fail)
    run = teacher_monitor(
        tmp_path, changed(toy_recipe, "monitor.contact_sheet_every=1"), toy_samples
    )
    run_epochs(run, network, 1, 2)
    assert network.training
    assert len(caplog.messages) == 1
    assert "OutOfMemoryError" in caplog.text
    assert not list(tmp_path.rglob("*.png"))


def test_a_second_ctrl_c_interrupts_drawing(
    tmp_path: Path,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: Sheet) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(monitor, "draw", interrupted)
    recipe = changed(toy_recipe, "monitor.contact_sheet_every=1")
    with pytest.raises(KeyboardInterrupt):
        run_epochs(teacher_monitor(tmp_path, recipe, toy_samples), network, 1)


# TensorBoard


@pytest.fixture
def curves_only(toy_recipe: Recipe) -> Recipe:
    return changed(toy_recipe, "monitor.tensorboard=true")


def test_joints_are_averaged_by_group(
    tmp_path: Path, curves_only: Recipe, toy_samples: SampleSet, network: nn.Module
) -> None:
    per_joint_K = np.linspace(0, 0.26, 14)
    per_joint_K[[12, 13]] = np.nan  # no sample has a head that counts: there is no such curve
    run = teacher_monitor(tmp_path, curves_only, toy_samples)
    run_epochs(run, network, 1, score=replace(SCORE, per_joint_K=per_joint_K))
    accumulator = curves(run.out)
    (ankle,) = accumulator.Scalars("validation_pck/ankle")  # joints 0 and 5
    assert ankle.value == pytest.approx((per_joint_K[0] + per_joint_K[5]) / 2)
    tags = accumulator.Tags()["scalars"]
    assert "validation_pck/head" not in tags
    assert not any(math.isnan(e.value) for tag in tags for e in accumulator.Scalars(tag))


def test_curves_that_are_turned_on_later_have_the_earlier_epochs(
    tmp_path: Path, curves_only: Recipe, toy_samples: SampleSet, network: nn.Module
) -> None:
    run = teacher_monitor(tmp_path, curves_only, toy_samples)
    run_epochs(run, network, 3, 4)
    accumulator = curves(run.out)
    assert steps(accumulator) == [1, 2, 3, 4]
    assert steps(accumulator, "validation_pck/knee") == [3, 4]  # not in the metrics
    # A resumed run writes its own epochs only.
    run_epochs(teacher_monitor(tmp_path, curves_only, toy_samples), network, 4, 5)
    assert steps(curves(run.out)) == [1, 2, 3, 4, 5]


def test_epochs_that_a_full_disk_refused_are_written_later(
    tmp_path: Path,
    curves_only: Recipe,
    toy_samples: SampleSet,
    network: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    run = teacher_monitor(tmp_path, curves_only, toy_samples)
    run_epochs(run, network, 1)
    with monkeypatch.context() as patched:
        patched.setattr(events, "sync", full)
        run_epochs(run, network, 2, 3)
    run_epochs(run, network, 4)
    accumulator = curves(run.out)
    assert steps(accumulator) == [1, 2, 3, 4]
    assert steps(accumulator, "validation_pck/knee") == [1, 2, 3, 4]


def test_without_the_package_training_does_not_start(
    tmp_path: Path, curves_only: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: loop.Run) -> None:
        raise AssertionError("training started")

    monkeypatch.setattr(events, "find_spec", lambda name: None)
    monkeypatch.setattr(loop.Run, "train", never)
    with pytest.raises(ValueError, match=r"`pip install .*monitor\.tensorboard=false"):
        train_teacher(tmp_path, curves_only)
    assert not (tmp_path / "teacher").exists()


def test_other_processes_write_nothing(
    tmp_path: Path, toy_recipe: Recipe, toy_samples: SampleSet, network: nn.Module
) -> None:
    run = teacher_monitor(tmp_path, changed(toy_recipe, *EVERYTHING), toy_samples)
    run.sampler.group = replace(run.sampler.group, rank=1, size=2)
    run_epochs(run, network, 1)
    assert not list(tmp_path.iterdir())
