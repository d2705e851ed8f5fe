"""ONNX and TFLite teachers with every head: from the cache to a student and its scores."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fpd.cli import main
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.runtime.files import write_sealed_json
from fpd.pipeline.store import open_storage, read_heatmaps, read_manifest
from fpd.pipeline.workdir import WorkDir

from ..pipeline.teachers.network_files import write_onnx, write_spec, write_tflite

BLAZEPOSE = Path(__file__).parents[3] / "shared" / "data" / "teachers"

# Joints of COCO, without a neck and a head top, which LSP has.
JOINTS = tuple(
    f"{side}_{joint}"
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    for side in ("left", "right")
)

NETWORKS = {
    "onnx": ("heatmaps", "logits", "simcc", "landmarks"),
    "tflite": ("heatmaps", "logits"),
}
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "tflite": ("ai_edge_litert",)}


def need(kind: str) -> None:
    for package in PACKAGES[kind]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{kind} teachers need {package}")


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def work(tmp_path: Path, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> WorkDir:
    """A work directory with a recipe and nothing else, in the current directory."""
    monkeypatch.chdir(tmp_path)
    work = WorkDir(Path("work"))
    work.create()
    overrides = ["store.flip_averaged=true", "store.views=1", "student.epochs=1"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), overrides)
    write_sealed_json(work.kept_recipe, recipe.model_dump(mode="json"))
    return work


def score(work: WorkDir, teacher: str) -> dict[str, Any]:
    """Fill the store, train a student, evaluate both, and return the teacher's row."""
    run("cache-heatmaps", "-w", work.root, "--teacher", teacher)
    assert "error / bound" in run("verify-cache", "-w", work.root, "--deep")
    run("run", "student", "-w", work.root)
    run("evaluate", "-w", work.root)
    rows = json.loads((work.evaluation / "report.json").read_text("utf-8"))["models"]
    assert list(rows) == ["student", "teacher"]
    row: dict[str, Any] = rows["teacher"]
    return row


@pytest.mark.parametrize(
    ("kind", "head"), [(kind, head) for kind, heads in NETWORKS.items() for head in heads]
)
def test_each_format_and_head_serves_a_student(work: WorkDir, kind: str, head: str) -> None:
    need(kind)
    path = Path(f"model.{kind}")
    keys: dict[str, Any] = {"head": head}
    if head == "landmarks":
        keys["coordinates"] = "normalized"
    if kind == "onnx":
        write_onnx(path, head, len(JOINTS))
    else:
        write_tflite(path, len(JOINTS), head)
    row = score(work, str(write_spec(path, JOINTS, **keys)))
    [part] = row["teacher"]["teachers"]
    assert (part["kind"], part["spec"].get("head", "heatmaps")) == (kind, head)
    assert row["uncovered_joints"] == ["neck", "head top"]
    stored = read_manifest(open_storage(work.store))["teacher"]
    assert stored["teachers"] == [part]
    peaks_K = read_heatmaps(work.store, 0, range(18)).max((0, 2, 3))
    assert [bool(peak) for peak in peaks_K] == [True] * 12 + [False] * 2


def test_a_changed_file_or_spec_does_not_match_its_store(work: WorkDir) -> None:
    need("onnx")
    path = write_spec(write_onnx(Path("model.onnx"), "logits", 12), JOINTS, head="logits")
    run("cache-heatmaps", "-w", work.root, "--teacher", str(path))
    write_spec(path, JOINTS, head="logits", grid="origin")
    again = CliRunner().invoke(main, ["cache-heatmaps", "-w", str(work.root)])
    assert again.exit_code == 1 and "teacher" in again.output
    write_spec(path, JOINTS, head="logits")
    write_onnx(path, "logits", 12, batch=1)
    for command in ("cache-heatmaps", "verify-cache"):
        changed = CliRunner().invoke(main, [command, "-w", str(work.root)])
        assert changed.exit_code == 1 and "teacher" in changed.output


@pytest.mark.skipif(not BLAZEPOSE.is_dir(), reason="BlazePose is not in ../shared/data/teachers")
def test_blazepose_teaches_without_a_spec(work: WorkDir) -> None:
    need("tflite")
    row = score(work, str(BLAZEPOSE / "pose_landmark_lite.tflite"))
    assert row["uncovered_joints"] == ["neck", "head top"]
    assert row["teacher"]["teachers"][0]["kind"] == "tflite"
