"""The command line: what commands print and write, and every mistake ends in one message."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner, Result

from fpd.cli import main

NETWORK = '{name="hourglass", stages=1, channels=8, stem="ports"}'
SETTINGS = [
    "data.synthetic.train=24",
    "data.synthetic.test=8",
    "data.validation=0.2",
    "geometry.crop_px=64",
    "teacher.epochs=1",
    "teacher.batch_size=8",
    f"teacher.model={NETWORK}",
    "student.epochs=1",
    "student.batch_size=8",
    f"student.model={NETWORK}",
    "store.views=2",
    "store.shard_samples=8",
    "loader.workers=0",
    "monitor.contact_sheet_every=0",
]
"""For commands in a new work directory, with the recipe `demo`."""


def fpd(*arguments: str | Path, settings: list[str] | None = None) -> Result:
    """Run a command in this process; `settings` are changes of the recipe `demo`."""
    options = [text for setting in settings or [] for text in ("--set", setting)]
    options += [] if settings is None else ["-r", "demo"]
    return CliRunner().invoke(main, [str(argument) for argument in arguments] + options)


def run_student(work: Path, *options: str | Path) -> Result:
    """Train a student called "other", for one epoch."""
    return fpd(
        "run", "student", "-w", work, "--name", "other", "--set", "student.epochs=1", *options
    )


def assert_refused(result: Result, *parts: str) -> str:
    """Check that a command ended in one message with these parts, and no traceback."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    for part in parts:
        assert part in result.output
    return result.output


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class Finished(NamedTuple):
    work: Path
    output: str


@pytest.fixture(scope="module")
def finished(toy_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A work directory after `fpd run all`, and what that printed."""
    work = Path(shutil.copytree(toy_work, tmp_path_factory.mktemp("cli") / "work"))
    result = fpd("run", "all", "-w", work)
    assert result.exit_code == 0, result.output
    return Finished(work, result.output)


@pytest.fixture
def work(finished: Finished, tmp_path: Path) -> Path:
    """A copy of the finished work directory, to change."""
    return Path(shutil.copytree(finished.work, tmp_path / "work"))


def read_report(work: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((work / "evaluation" / "report.json").read_text("utf-8"))
    return report


def test_run_all_prints_every_stage_and_a_table_of_the_models(finished: Finished) -> None:
    for part in ("heatmaps: 2 views", "student: trained in", "PCK@0.2", "mean", "AUC", "GMACs"):
        assert part in finished.output
    assert (finished.work / "evaluation" / "pck_curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_store_is_smaller_than_float16(finished: Finished) -> None:
    match = re.search(r"\((\d+) bytes a view; raw float16", finished.output)
    assert match is not None
    assert int(match.group(1)) < 2 * 14 * 16 * 16  # 14 joints, 16 x 16 pixels


def test_run_all_again_trains_and_caches_nothing(work: Path) -> None:
    weights = {path: path.stat().st_mtime_ns for path in work.rglob("weights.safetensors")}
    shards = files_in(work / "heatmaps.zarr" / "heatmaps" / "c")
    assert fpd("run", "all", "-w", work).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert files_in(work / "heatmaps.zarr" / "heatmaps" / "c") == shards


def test_threshold_and_test_time_augmentation_are_options(work: Path) -> None:
    before = read_report(work)
    result = fpd("evaluate", "-w", work, "--tau", "0.1", "--flip-test", "--scales", "0.9,1")
    assert result.exit_code == 0, result.output
    assert "PCK@0.1 in percent" in result.output
    assert ", flip test, scales 0.9, 1\n" in result.output
    report = read_report(work)
    assert report["evaluation"] == {"flip_test": True, "scales": [0.9, 1.0]}
    assert report["models"]["teacher"]["curve"] != before["models"]["teacher"]["curve"]
    for row in report["models"].values():
        # The curve keeps its steps of 0.01 up to LSP's own threshold.
        assert row["mean"] == pytest.approx(row["curve"]["pck"][10])
        assert row["curve"]["thresholds"][-1] == 0.2


def test_options_of_evaluate_that_are_refused(finished: Finished) -> None:
    refused = fpd("evaluate", "-w", finished.work, "--scales", "0.9,1.1")
    assert_refused(refused, "evaluation.scales")
    refused = fpd("evaluate", "-w", finished.work, "--tau", "nan")
    assert refused.exit_code == 2 and "expected a number, found nan" in refused.output
    files = ("--predictions", "p.mat", "--ground-truth", "g.mat")
    assert_refused(fpd("evaluate", *files, "--flip-test"), "--flip-test")


def test_ctrl_c_in_an_evaluation_keeps_the_last_report(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (work / "evaluation" / "report.json").read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("fpd.stages.evaluate.predict", interrupted)
    result = fpd("evaluate", "-w", work)
    assert result.exit_code == 130
    assert "stopped" in result.output and "same command" in result.output
    assert (work / "evaluation" / "report.json").read_bytes() == before


@pytest.mark.parametrize("command", [[], ["run", "teacher"], ["cache-heatmaps"], ["evaluate"]])
def test_examples_in_the_help_keep_their_lines(command: list[str]) -> None:
    output = fpd(*command, "--help").output
    assert "\\b" not in output
    assert re.search(r"^  (torchrun|fpd) .*\n", output, re.MULTILINE)


# A store that does not serve a run: the message names the command that makes one that does.


def test_student_without_a_store_names_the_command(work: Path) -> None:
    shutil.rmtree(work / "heatmaps.zarr")
    assert_refused(run_student(work), "is missing", f"fpd cache-heatmaps -w {work}")


def test_student_of_another_teacher_is_refused_until_overwritten(work: Path) -> None:
    shutil.rmtree(work / "teacher")
    other = ["teacher.seed=1", "teacher.epochs=1"]
    assert fpd("run", "teacher", "-w", work, settings=other).exit_code == 0
    command = f"fpd cache-heatmaps -w {work} --overwrite"
    assert_refused(run_student(work), "teacher.sha256", command)
    assert_refused(fpd("cache-heatmaps", "-w", work), "teacher.sha256", "--overwrite")
    assert fpd("cache-heatmaps", "-w", work, "--overwrite").exit_code == 0
    assert run_student(work).exit_code == 0


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("augmentation.rotation_deg=10", "augmentation.rotation_deg: expected 10"),
        ("data.label_corruption.noise=0.5", "datasets.labels"),
        ("data.synthetic.seed=7", "datasets.images"),
        ("geometry.crop_px=128", "geometry.crop_px: expected 128, found 64"),
    ],
)
def test_student_refuses_a_store_of_other_settings(
    finished: Finished, setting: str, difference: str
) -> None:
    assert_refused(run_student(finished.work, "--set", setting), difference, "--overwrite")


def test_an_incomplete_store_is_finished_by_the_command_in_the_message(work: Path) -> None:
    before = files_in(work / "heatmaps.zarr")
    next((work / "heatmaps.zarr" / "heatmaps" / "receipts" / "1").iterdir()).unlink()
    assert_refused(
        run_student(work), "5 of 6 shards", "1 of 2 views", f"fpd cache-heatmaps -w {work}"
    )
    assert fpd("cache-heatmaps", "-w", work).exit_code == 0
    assert files_in(work / "heatmaps.zarr") == before


def test_more_views_are_added_to_a_store(work: Path) -> None:
    views = ("--set", "store.views=3")
    assert_refused(run_student(work, *views), "6 of 9 shards", "fpd cache-heatmaps")
    assert fpd("cache-heatmaps", "-w", work, *views).exit_code == 0
    assert run_student(work, *views).exit_code == 0


def test_the_store_may_be_outside_the_work_directory(work: Path, tmp_path: Path) -> None:
    before = files_in(work / "heatmaps.zarr")
    shutil.rmtree(work / "heatmaps.zarr")
    outside = tmp_path / "scratch" / "run.zarr"
    store = ("--store", outside)
    assert_refused(run_student(work, *store), f"{outside} is missing", "fpd cache-heatmaps")
    assert fpd("cache-heatmaps", "-w", work, *store).exit_code == 0
    assert not (work / "heatmaps.zarr").exists()
    assert files_in(outside) == before
    assert run_student(work, *store).exit_code == 0


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_folder_of_other_files_does_not_become_a_store(
    finished: Finished, tmp_path: Path, overwrite: list[str]
) -> None:
    photo = tmp_path / "photos" / "holiday.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"mine")
    result = fpd("cache-heatmaps", "-w", finished.work, "--store", photo.parent, *overwrite)
    assert_refused(result, "holiday.jpg", "--store")
    assert photo.read_bytes() == b"mine"


def test_heatmaps_without_a_teacher_name_the_command(tmp_path: Path) -> None:
    result = fpd("cache-heatmaps", "-w", tmp_path / "w", settings=SETTINGS)
    assert_refused(result, "no finished teacher", f"fpd run teacher -w {tmp_path / 'w'}")


def test_a_student_of_labels_only_needs_no_store(tmp_path: Path) -> None:
    settings = [*SETTINGS, "student.alpha=0"]
    result = fpd("run", "student", "-w", tmp_path / "w", settings=settings)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "w" / "heatmaps.zarr").exists()


def test_a_student_starts_from_another(work: Path) -> None:
    result = run_student(work, "--init-from", work / "student")
    assert result.exit_code == 0, result.output
    refused = fpd("run", "student", "-w", work, "--name", "x", "--init-from", work / "evaluation")
    assert_refused(refused, "--init-from", "expected a weights file")


# Wrong input of every kind


def test_evaluating_nothing_names_the_command(tmp_path: Path) -> None:
    result = fpd("evaluate", "-w", tmp_path / "w", settings=SETTINGS)
    assert_refused(result, "no finished model", "fpd run all")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("run", "teacher"),
        ("run", "student"),
        ("run", "all"),
        ("cache-heatmaps",),
        ("cache-heatmaps", "--plan"),
        ("verify-cache",),
        ("inspect-cache", "--view", "0", "0"),
        ("evaluate",),
        ("sweep", "alpha", "--grid", "student.alpha=0,1"),
        ("check-data",),
        ("export", "--quantize", "static"),
    ],
)
def test_a_new_work_directory_needs_a_recipe(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Whatever is set: the demo's epochs and label noise are nobody else's."""
    options = ("--set", "data.reader=coco", "--set", f"data.root={tmp_path}")
    result = fpd(*command, "-w", tmp_path / "w", *options)
    assert_refused(
        result, "w has no recipe yet", "-r", "demo, lsp, lsp-gpu, mpii", "`fpd run all -r lsp"
    )
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "command",
    [("evaluate",), ("run", "student"), ("cache-heatmaps",), ("verify-cache",), ("demo",)],
)
def test_a_lost_recipe_is_not_that_of_the_demo(work: Path, command: tuple[str, ...]) -> None:
    (work / "recipe.json").unlink()
    before = files_in(work)
    assert_refused(fpd(*command, "-w", work), "but no recipe.json: restore the file", "-r", "--set")
    assert files_in(work) == before


def test_the_recipe_of_a_new_work_directory_is_printed(tmp_path: Path) -> None:
    work = tmp_path / "w"
    line = f"{work} is new: it gets the recipe demo"
    no_teacher = fpd("cache-heatmaps", "-w", work, settings=SETTINGS)
    assert_refused(no_teacher, line, "no finished teacher")
    assert line not in fpd("cache-heatmaps", "-w", work).output


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--set", "teacher.epoch=3"], ["teacher.epoch"]),
        (["--set", "student.alpha=2"], ["student.alpha", "1"]),
        (["-r", "mpi"], ["'mpi'", "demo", "lsp"]),
        (["--device", "cuda:9"], ["--device cuda:9"]),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: list[str], parts: list[str]) -> None:
    recipe = [] if "-r" in options else ["-r", "demo"]
    assert_refused(fpd("run", "teacher", "-w", tmp_path / "w", *recipe, *options), *parts)


def test_an_unknown_setting_in_a_recipe_file_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[teacher]\nlr = 3\n")
    assert_refused(fpd("run", "teacher", "-r", recipe, "-w", tmp_path / "w"), "teacher.lr")
    assert not (tmp_path / "w").exists()


def test_the_recipe_of_a_first_command_that_failed_is_not_kept(lsp: Path, tmp_path: Path) -> None:
    work = tmp_path / "w"
    assert_refused(on_lsp(tmp_path / "wrong", work), "joints.mat is missing", "data.root")
    assert fpd("run", "teacher", "-w", work, "--set", f'data.root="{lsp}"').exit_code == 0
    assert json.loads((work / "recipe.json").read_text())["data"]["root"] == str(lsp)


def test_a_setting_of_one_command_does_not_change_later_ones(work: Path) -> None:
    assert run_student(work).exit_code == 0  # with student.epochs=1
    assert fpd("run", "student", "-w", work, "--name", "later").exit_code == 0
    for name, epochs in (("other", 1), ("later", 2)):
        assert len((work / name / "metrics.jsonl").read_text().splitlines()) == epochs


def test_work_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = fpd("run", "teacher", "-w", tmp_path / "file" / "work", settings=SETTINGS)
    assert_refused(result, "cannot be written", "-w")


@pytest.mark.parametrize("name", ["../x", "teacher"])
def test_student_names_that_are_no_folder_of_a_student(finished: Finished, name: str) -> None:
    assert_refused(fpd("run", "student", "-w", finished.work, "--name", name), repr(name))


def test_damaged_files_are_named(work: Path) -> None:
    weights = work / "student" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert_refused(
        fpd("evaluate", "-w", work), str(weights), "is not the file that record.json describes"
    )
    (work / "student" / "record.json").write_text("{")
    assert_refused(fpd("evaluate", "-w", work), "record.json is damaged")
    (work / "recipe.json").write_text("[]")
    assert_refused(fpd("evaluate", "-w", work), "recipe.json is damaged")


def test_other_settings_in_a_used_folder_are_refused(finished: Finished) -> None:
    result = fpd("run", "student", "-w", finished.work, "--set", "student.epochs=5")
    assert_refused(result, "epochs: expected 5, found 2", "--name")


@pytest.fixture
def lsp(tmp_path: Path) -> Path:
    """A miniature of LSP: twelve samples of the same pose."""
    root = tmp_path / "datasets"
    (root / "lsp" / "images").mkdir(parents=True)
    joints = np.zeros((3, 14, 12))
    joints[0] = np.linspace(20, 80, 14)[:, None]
    joints[1] = np.linspace(30, 110, 14)[:, None]
    scipy.io.savemat(root / "lsp" / "joints.mat", {"joints": joints})
    for number in range(1, 13):
        image = np.full((140, 100, 3), 17 * number, np.uint8)
        cv2.imwrite(str(root / "lsp" / "images" / f"im{number:04d}.jpg"), image)
    return root


def on_lsp(root: Path, work: Path, *more: str) -> Result:
    settings = [*SETTINGS, "data.reader=lsp", f'data.root="{root}"', *more]
    return fpd("run", "teacher", "-w", work, settings=settings)


def test_a_changed_image_is_named(lsp: Path, tmp_path: Path) -> None:
    """In place, with the same name, size and date: only the pixels differ."""
    work = tmp_path / "w"
    assert on_lsp(lsp, work).exit_code == 0
    assert fpd("cache-heatmaps", "-w", work).exit_code == 0
    for path in (lsp / "lsp" / "images").iterdir():
        before = path.stat()
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
        os.truncate(path, max(before.st_size, path.stat().st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_refused(fpd("run", "student", "-w", work), "lsp/im00", "--overwrite")


def test_a_broken_image_is_named(lsp: Path, tmp_path: Path) -> None:
    (lsp / "lsp" / "images" / "im0004.jpg").write_bytes(b"not an image at all")
    assert_refused(on_lsp(lsp, tmp_path / "w"), "lsp/im0004", "cannot be read as an image")


def test_an_error_in_a_loader_process_is_one_message(lsp: Path, tmp_path: Path) -> None:
    """A PNG whose header is whole, so that only decoding fails."""
    noise = np.random.default_rng(0).integers(0, 255, (140, 100, 3), np.uint8)
    png = cv2.imencode(".png", noise)[1].tobytes()
    (lsp / "lsp" / "images" / "im0005.jpg").write_bytes(png[:2000])
    output = assert_refused(on_lsp(lsp, tmp_path / "w", "loader.workers=1"), "im0005.jpg")
    assert "Traceback" not in output


def test_a_label_outside_its_image_is_named(lsp: Path, tmp_path: Path) -> None:
    path = lsp / "lsp" / "joints.mat"
    joints = scipy.io.loadmat(path)["joints"]
    joints[0, 4, 7] = 5000
    scipy.io.savemat(path, {"joints": joints})
    assert_refused(on_lsp(lsp, tmp_path / "w"), "lsp/im0008", "left knee")


def test_a_full_disk_is_reported_and_the_same_command_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    work = tmp_path / "w"
    with monkeypatch.context() as patched:
        patched.setattr("fpd.pipeline.training.checkpoint.torch.save", disk_full)
        result = fpd("run", "teacher", "-w", work, settings=SETTINGS)
    assert_refused(result, "No space left on device", "same command")
    assert not list(work.rglob("*.tmp"))
    assert fpd("run", "teacher", "-w", work).exit_code == 0


@pytest.mark.slow
def test_ctrl_c_while_caching_leaves_a_store_that_the_same_command_finishes(
    toy_work: Path, tmp_path: Path
) -> None:
    """In a process of its own."""
    work = Path(shutil.copytree(toy_work, tmp_path / "work"))
    store = work / "heatmaps.zarr"
    shutil.rmtree(store)
    arguments = ["cache-heatmaps", "-w", str(work), "--set", "store.views=400"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fpd", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(store.glob("heatmaps/receipts/*/*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "same command" in errors
    assert "Traceback" not in errors
    assert 0 < len(list(store.glob("heatmaps/receipts/*/*.json"))) < 400 * 3
    result = fpd("cache-heatmaps", "-w", work)
    assert result.exit_code == 0, result.output
    undisturbed = files_in(toy_work / "heatmaps.zarr" / "heatmaps" / "c")
    assert undisturbed.items() <= files_in(store / "heatmaps" / "c").items()
