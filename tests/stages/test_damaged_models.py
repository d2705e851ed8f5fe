"""Damaged, replaced and missing files of a model: every command names the file and the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from fpd.cli import main
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.workdir import WorkDir


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def flip(path: Path, place: float = 0.9) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


def assert_named(result: Result, *expected: str) -> None:
    """The command refused with one message, which does not blame the store."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    for text in expected:
        assert text in result.output
    assert "--overwrite" not in result.output
    assert "does not fit this run" not in result.output


@pytest.fixture(scope="module")
def trained(toy_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with a teacher, its store and a student. Read-only: see `work`."""
    root = Path(shutil.copytree(toy_work, tmp_path_factory.mktemp("trained") / "work"))
    result = fpd("run", "student", "-w", root)
    assert result.exit_code == 0, result.output
    return root


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> WorkDir:
    """A copy, to change."""
    return WorkDir(Path(shutil.copytree(trained, tmp_path / "work")))


STUDENT_COMMANDS = [
    ["evaluate"],
    ["predict", "photo.png"],
    ["export"],
    ["profile"],
    ["run", "student"],
    ["run", "student", "--name", "b", "--init-from", "{work}/student"],
    ["run", "student", "--name", "b", "--init-from", "{work}/student/weights.safetensors"],
    ["run", "student", "--name", "b", "--set", "student.init_from=student"],
]


@pytest.mark.parametrize("arguments", STUDENT_COMMANDS, ids=" ".join)
def test_damaged_weights_of_a_student(
    work: WorkDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", np.zeros((64, 64, 3), np.uint8))
    student = work.student("student")
    arguments = [argument.format(work=work.root) for argument in arguments]
    flip(student.weights)
    message = f"{student.weights} is not the file that record.json describes"
    result = fpd(*arguments, "-w", work.root)
    assert_named(result, message, f"restore it, or remove {student.path} and train it again")
    assert not (work.root / "evaluation" / "report.json").exists()
    student.weights.unlink()
    result = fpd(*arguments, "-w", work.root)
    if result.exit_code == 2:  # click's own refusal of an `--init-from` that does not exist
        assert "weights.safetensors' does not exist" in result.output
    else:
        assert_named(result, f"{student.weights} is missing, although")


TEACHER_COMMANDS = [
    ["run", "teacher"],
    ["cache-heatmaps"],
    ["cache-heatmaps", "--plan"],
    ["verify-cache"],
    ["verify-cache", "--deep", "--repair"],
    ["inspect-cache", "--view", "3", "0"],
    ["run", "student", "--name", "b"],
    ["sweep", "s", "--grid", "student.alpha=0.5", "--seeds", "1"],
    ["evaluate"],
    ["run", "all"],
]


@pytest.mark.parametrize("arguments", TEACHER_COMMANDS, ids=" ".join)
def test_damaged_weights_of_the_teacher(
    work: WorkDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flip(work.teacher.weights)
    before = {path: path.read_bytes() for path in work.store.rglob("*") if path.is_file()}
    result = fpd(*arguments, "-w", work.root)
    assert_named(
        result,
        f"{work.teacher.weights} is not the file that record.json describes",
        f"restore it, or remove {work.teacher.path} and train it again",
    )
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("command", [["cache-heatmaps"], ["cache-heatmaps", "--plan"]])
def test_damaged_weights_of_another_runs_model(work: WorkDir, command: list[str]) -> None:
    other = WorkDir(work.root.parent / "other")
    other.create()
    other.write_kept(work.read_kept())
    named = [*command, "-w", other.root, "--teacher", work.teacher.path]
    flip(work.teacher.weights)
    assert_named(fpd(*named), f"{work.teacher.weights} is not the file that record.json describes")
    work.teacher.weights.unlink()
    assert_named(fpd(*named), f"{work.teacher.weights} is missing, although")
    assert not other.store.exists()


def test_missing_weights_of_the_teacher(work: WorkDir) -> None:
    """Its store still serves students, by the digest in its record."""
    work.teacher.weights.unlink()
    for command in (["run", "teacher"], ["cache-heatmaps"], ["evaluate"]):
        result = fpd(*command, "-w", work.root)
        assert_named(result, f"{work.teacher.weights} is missing, although")
    trained = fpd("run", "student", "-w", work.root, "--name", "b")
    assert trained.exit_code == 0, trained.output
    verified = fpd("verify-cache", "-w", work.root)
    assert verified.exit_code == 0, verified.output
    assert "no view was compared" in verified.output


def test_damaged_students_of_a_sweep(work: WorkDir) -> None:
    command = ["sweep", "s", "-w", work.root, "--grid", "student.alpha=0", "--seeds", "1"]
    made = fpd(*command)
    assert made.exit_code == 0, made.output
    student = ModelDir(work.sweep("s") / "alpha=0" / "seed-0")
    score = student.path / "score.json"
    scores = score.read_bytes()
    score.write_bytes(scores.replace(b'"epochs": 2', b'"epochs": 9'))
    assert fpd(*command).exit_code == 0
    assert score.read_bytes() == scores  # scored again
    flip(student.weights)
    assert_named(fpd(*command), "weights.safetensors is not the file that record.json describes")
    score.unlink()
    assert_named(fpd(*command), "weights.safetensors is not the file that record.json describes")


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_a_record_that_was_changed(work: WorkDir, name: str) -> None:
    path = ModelDir(work.root / name).record_path
    record = json.loads(path.read_text())
    record["skeleton"]["joints"] = record["skeleton"]["joints"][::-1]
    path.write_text(json.dumps(record))
    for command in (["evaluate"], ["profile"], ["run", name]):
        result = fpd(*command, "-w", work.root)
        assert_named(result, f"{path} does not match its checksum", "restore it, or remove")


def test_a_recipe_that_was_changed(work: WorkDir) -> None:
    """It decides what the next student is trained on, and how models are scored."""
    path = work.kept_recipe
    whole = path.read_text()
    for text in (whole.replace('"crop_px": 64', '"crop_px": 96'), whole[:-20], "{}"):
        path.write_text(text)
        for command in (["evaluate"], ["run", "student"], ["cache-heatmaps"], ["check-data"]):
            result = fpd(*command, "-w", work.root)
            assert_named(result, str(path), "restore it, or choose another work directory with -w")
    path.write_text(whole)
    assert fpd("profile", "-w", work.root).exit_code == 0


def test_a_history_that_was_changed_is_not_drawn(
    work: WorkDir, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = work.student("student").metrics
    metrics.write_text(metrics.read_text().replace('"epoch": 1', '"epoch": 7'))
    with caplog.at_level("WARNING", "fpd"):
        assert fpd("evaluate", "-w", work.root).exit_code == 0
    assert f"no training curves of student: {metrics} is not the file" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_weights_of_an_unfinished_run(work: WorkDir, damage: str) -> None:
    """A run that ends must not record what it did not save."""
    student = work.student("student")
    student.record_path.unlink()  # as if it was stopped just before the end
    if damage == "flipped":
        flip(student.weights)
    else:
        student.weights.unlink()
    result = fpd("run", "student", "-w", work.root)
    assert_named(result, str(student.weights), "restore it, or remove", "to start over")
    assert not student.finished


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6, 0.99])
def test_a_flipped_bit_in_a_checkpoint(work: WorkDir, place: float) -> None:
    student = work.student("student")
    student.record_path.unlink()
    flip(student.state, place)
    result = fpd("run", "student", "-w", work.root)
    assert_named(result, f"{student.state} is damaged", f"remove {student.path} to start over")


def test_lost_metrics_are_written_again(work: WorkDir) -> None:
    student = work.student("student")
    before = student.metrics.read_bytes()
    student.record_path.unlink()
    student.metrics.unlink()
    assert fpd("run", "student", "-w", work.root).exit_code == 0
    assert student.metrics.read_bytes() == before
