"""Teachers on crops that are turned upright or show more, from the cache to the scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from fpd.cli import main
from fpd.pipeline.caching.worker import make as make_one
from fpd.pipeline.caching.worker import make_job
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.dask_cluster import Workers
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.store import open_storage, read_heatmaps, read_manifest
from fpd.pipeline.teachers import TeacherSpec
from fpd.pipeline.workdir import WorkDir

JOINTS = (
    *("left hip", "right hip", "left shoulder", "right shoulder", "left wrist", "right wrist"),
    *("left knee", "right knee"),
)
SPEC: dict[str, Any] = {"input": [64, 64], "joints": JOINTS}


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose peaks are above a half everywhere, so that every first pass counts."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, len(JOINTS), 7, 4, 3)

        def forward(self, crops: Tensor) -> Tensor:
            return torch.sigmoid(self.conv(crops))

    torch.manual_seed(0)
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(
        Small().eval(), (torch.rand(2, 3, 64, 64),), dynamic_shapes=batch
    )
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    torch.export.save(exported, path)
    return path


@pytest.fixture
def work(
    tmp_path: Path, program: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> WorkDir:
    monkeypatch.chdir(tmp_path)
    shutil.copy(program, "model.pt2")
    write_spec()
    work = WorkDir(Path("work"))
    work.create()
    recipe = apply_overrides(
        toy_recipe.model_dump(mode="json"),
        ["store.flip_averaged=true", "store.views=1", "student.epochs=1"],
    )
    write_sealed_json(work.kept_recipe, recipe.model_dump(mode="json"))
    return work


def write_spec(**changes: object) -> None:
    spec = TeacherSpec.model_validate(SPEC | changes)
    Path("model.pt2.json").write_text(spec.model_dump_json())


def cache(work: WorkDir, method: str, *more: str) -> np.ndarray:
    """Make a store, replacing any other, and return its heatmaps."""
    made = fpd(
        *("cache-heatmaps", "-w", work.root, "--teacher", "model.pt2", "--overwrite"),
        *("--set", f"store.teacher_alignment={method}", *more),
    )
    assert made.exit_code == 0, made.output
    return read_heatmaps(work.store, 0, range(18))


def teacher_entry(work: WorkDir) -> dict[str, Any]:
    entry: dict[str, Any] = read_manifest(open_storage(work.store))["teacher"]
    return entry


@pytest.mark.parametrize("method", ["torso", "labels"])
def test_later_commands_turn_the_same_crops(work: WorkDir, method: str) -> None:
    upright = cache(work, "none")
    assert "alignment" not in teacher_entry(work) and "crop_px" not in teacher_entry(work)
    turned = cache(work, method)
    assert np.abs(turned - upright).max() > 0.1
    entry = teacher_entry(work)
    assert entry["alignment"] == {"method": method, "version": 1}
    assert (entry["crop_px"], entry["crop_box"]) == (128, 2.0)
    for command in (
        ["cache-heatmaps"],
        ["cache-heatmaps", "--plan"],
        ["verify-cache", "--deep"],
        ["inspect-cache", "--view", "3", "0", "--out", "view.png"],
        ["run", "student"],
        ["evaluate"],
    ):
        result = fpd(*command, "-w", work.root)
        assert result.exit_code == 0, result.output
        if command[0] == "verify-cache":
            assert "error / bound" in result.output
        if command[0] == "inspect-cache":
            assert "not compared" not in result.output
    report = json.loads((work.evaluation / "report.json").read_text("utf-8"))
    assert report["store"]["teacher_passes"] == 2 * 18 * (2 if method == "torso" else 1)


def test_a_store_of_otherwise_turned_crops_is_refused(work: WorkDir) -> None:
    cache(work, "labels")
    for method in ("none", "torso"):
        other = ("--set", f"store.teacher_alignment={method}")
        for command in (["cache-heatmaps"], ["run", "student"], ["verify-cache"]):
            refused = fpd(*command, "-w", work.root, *other)
            assert refused.exit_code == 1 and "teacher.alignment" in refused.output, refused.output


@pytest.mark.parametrize("method", ["torso", "labels"])
def test_a_views_heatmaps_depend_on_no_other_view(work: WorkDir, method: str) -> None:
    together = cache(work, method, "--set", "store.max_error=0.01")
    alone = cache(work, method, "--set", "store.max_error=0.01", "--set", "store.batch_size=1")
    assert np.abs(together - alone).max() < 0.02


def test_a_worker_turns_the_same_crops(work: WorkDir) -> None:
    """What it needs to know travels in the job."""
    cache(work, "labels")
    storage, recipe = open_storage(work.store), work.recipe(None, ())
    shards = sorted((work.store / "heatmaps" / "c").rglob("*"))
    lost = next(path for path in shards if path.is_file())
    content = lost.read_bytes()
    lost.unlink()
    shard = int(lost.parts[lost.parts.index("c") + 2])
    workers = Workers(count=1, device="cpu")
    job = make_job(work, recipe, storage, read_manifest(storage), workers, allow_code=False)
    make_one(replace(job, share_gpus=False), 0, shard)
    assert lost.read_bytes() == content


def test_a_portable_store_has_the_students_crops(work: WorkDir) -> None:
    turned = cache(work, "labels")
    portable = cache(work, "labels", "--portable")
    assert np.abs(turned - portable).max() < 1e-6  # the teacher's crops are from the photographs
    checked = fpd("verify-cache", "-w", work.root)
    assert checked.exit_code == 0 and "error / bound" in checked.output
    card = (work.store / "README.md").read_text("utf-8")
    assert "turned upright" in card and "wider crops" in card


def test_scores_do_not_depend_on_the_labels(work: WorkDir) -> None:
    """Turned by the labels that it is scored on, a teacher would score too high."""
    cache(work, "none")
    trained = fpd("run", "student", "-w", work.root)
    assert trained.exit_code == 0, trained.output
    rows = {}
    for method in ("none", "torso", "labels"):
        scored = fpd("evaluate", "-w", work.root, "--set", f"store.teacher_alignment={method}")
        assert scored.exit_code == 0, scored.output
        path = work.evaluation / "predictions" / "teacher.json"
        rows[method] = json.loads(path.read_text("utf-8"))["joints"]
    assert rows["labels"] == rows["torso"] != rows["none"]


def test_a_larger_box_is_part_of_the_teacher(work: WorkDir) -> None:
    own = cache(work, "none")
    write_spec(box_factor=1.5)
    refused = fpd("cache-heatmaps", "-w", work.root)
    assert refused.exit_code == 1 and "box_factor" in refused.output
    wider = cache(work, "none")
    assert np.abs(wider - own).max() > 0.1
    entry = teacher_entry(work)
    assert entry["crop_box"] == 1.5 and entry["crop_px"] == 64
    checked = fpd("verify-cache", "-w", work.root)
    assert checked.exit_code == 0 and "error / bound" in checked.output
    # On the students' crops, there is nothing around the box.
    cache(work, "none", "--set", "store.teacher_crops=student")
    assert "crop_box" not in teacher_entry(work)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher_alignment=torso", "teacher_crops=student"], "expected teacher_crops = own"),
        (["teacher_alignment=body"], "body_points"),
        (["teacher_alignment=upright"], "'none', 'torso', 'body' or 'labels'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    work: WorkDir, overrides: list[str], message: str
) -> None:
    options = [text for setting in overrides for text in ("--set", f"store.{setting}")]
    refused = fpd("cache-heatmaps", "-w", work.root, "--teacher", "model.pt2", *options)
    assert refused.exit_code == 1 and message in refused.output
    assert not work.store.exists()


def test_the_teacher_that_was_trained_here_is_not_turned(work: WorkDir) -> None:
    refused = fpd("cache-heatmaps", "-w", work.root, "--set", "store.teacher_alignment=torso")
    assert refused.exit_code == 1 and "--teacher" in refused.output
