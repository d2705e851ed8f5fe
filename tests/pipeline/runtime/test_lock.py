"""One writer of a folder or a file at a time, across processes and for the stages that write."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from fpd.cli import main
from fpd.data.io.media import Media
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.config.sections import Sweep
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.runtime.launch import LAUNCHED
from fpd.pipeline.runtime.lock import INSIDE, BeingWritten, writer_lock
from fpd.pipeline.training.sweep.variants import train_and_score, variants
from fpd.pipeline.workdir import WorkDir
from fpd.stages import student

CPU = torch.device("cpu")
HELD = rf"is being written by process {os.getpid()} on .+: wait for it, or stop it"


@pytest.mark.parametrize("inside", [False, True])
def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path: Path, inside: bool) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with writer_lock(target, inside=inside):
        with (
            pytest.raises(BeingWritten, match=HELD),
            writer_lock(target, inside=inside),
        ):
            raise AssertionError("two writers at the same time")
        with writer_lock(tmp_path / "another"):
            pass
    with writer_lock(target, inside=inside):
        pass
    lock_file = target / INSIDE if inside else tmp_path / ".folder.lock"
    assert lock_file.is_file()
    assert inside or not list(target.iterdir())


def test_a_path_from_the_current_directory_is_the_same_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    with (
        writer_lock(tmp_path / "folder"),
        pytest.raises(BeingWritten),
        writer_lock(Path()),
    ):
        raise AssertionError("two writers at the same time")


def test_a_full_disk_names_the_lock_file_and_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", fail)
        with pytest.raises(OSError, match="No space left") as refused, writer_lock(tmp_path / "a"):
            raise AssertionError("a lock without a holder")
    assert refused.value.filename == str(tmp_path / ".a.lock")
    with writer_lock(tmp_path / "a"):
        pass


def test_what_a_stranger_wrote_as_the_holder_is_shown_as_text(tmp_path: Path) -> None:
    with writer_lock(tmp_path / "folder"):
        (tmp_path / ".folder.lock").write_bytes(b"process \x1b[2J\xff\n")
        with pytest.raises(BeingWritten, match=r"by process \\x1b\[2J.\\n: wait"):
            writer_lock(tmp_path / "folder").__enter__()


def test_of_processes_started_together_the_first_one_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHED:
        monkeypatch.setenv(name, "1")
    with writer_lock(tmp_path / "folder"):
        assert not list(tmp_path.iterdir())
    monkeypatch.setenv("RANK", "0")
    with writer_lock(tmp_path / "folder"), pytest.raises(BeingWritten):
        writer_lock(tmp_path / "folder").__enter__()


COMMANDS = {
    "teacher": ["run", "teacher"],
    "other": ["run", "student", "--name", "other"],
    "evaluation": ["evaluate"],
    "sweeps/alpha": ["sweep", "alpha", "--grid", "student.alpha=0"],
    "teacher/teacher.pt2": ["export", "--name", "teacher", "--format", "torch-export"],
}


@pytest.mark.parametrize("target", COMMANDS)
def test_each_command_that_writes_is_refused_while_another_writes(
    target: str, work: WorkDir
) -> None:
    arguments = [*COMMANDS[target], "-w", str(work.root)]
    with writer_lock(work.root / target):
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert f"{work.root / target} is being written by process {os.getpid()}" in result.output
    assert not (work.root / target).exists() or target == "teacher"


def test_so_is_predict(work: WorkDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = tmp_path / "photo.png"
    monkeypatch.setattr("fpd.stages.predict.find_media", lambda _: Media((photo,), ()))
    out = tmp_path / "out"
    out.mkdir()
    with writer_lock(out, inside=True):
        options = ["-w", str(work.root), "--name", "teacher", "-o", str(out)]
        result = CliRunner().invoke(main, ["predict", str(tmp_path), *options])
    assert result.exit_code == 1
    assert "is being written by" in result.output
    assert [path.name for path in out.iterdir()] == [INSIDE]


def test_a_student_of_a_sweep_that_another_process_trains_is_left_to_it(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    grid = Sweep(grid={"student.alpha": [0]}, seeds=1)
    (variant,) = variants(grid)
    with writer_lock(variant.folder(work, "x").path):
        row = train_and_score(work, toy_recipe, "x", grid, variant, CPU, None)
    assert "is being written by" in row["error"]
    assert not variant.folder(work, "x").path.exists()


@pytest.mark.slow
def test_of_two_students_of_one_name_at_once_the_second_is_refused(
    work: WorkDir, tmp_path: Path
) -> None:
    """Two processes with other settings: the weights and their record are those of the first."""
    command = [sys.executable, "-m", "fpd", "run", "student", "-w", str(work.root), "--name", "one"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        [*command, "--set", "student.alpha=0", "--set", "student.epochs=30"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (work.root / "one").exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    started = time.monotonic()
    second = subprocess.run(
        [*command, "--set", "student.alpha=1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert first.poll() is None, "the first ended before the second was refused"
    assert second.returncode == 1
    assert f"is being written by process {first.pid} on " in second.stderr, second.stderr
    assert "Traceback" not in second.stderr and time.monotonic() - started < 60
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    record = work.student("one").record()
    assert record["identity"]["settings"]["training"]["alpha"] == 0
    load_model(work.student("one"), CPU)


def test_a_finished_student_of_other_settings_is_still_refused_by_its_settings(
    work: WorkDir, toy_recipe: Recipe
) -> None:
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), ["student.alpha=0"])
    student.run(work, recipe, CPU, name="one")
    other = apply_overrides(recipe.model_dump(mode="json"), ["student.seed=5"])
    with pytest.raises(ValueError, match="holds a run with other settings"):
        student.run(work, other, CPU, name="one")
    shutil.rmtree(work.student("one").path)
    student.run(work, other, CPU, name="one")
