"""The command line as a user meets it: every mistake ends in one clear sentence."""

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

import cv2
import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner, Result

from fpd.cli import main

TOY = [
    "data.synthetic.train=24",
    "data.synthetic.test=8",
    "data.validation=0.2",
    "geometry.crop_px=64",
    "teacher.epochs=2",
    "teacher.batch_size=8",
    "student.epochs=2",
    "student.batch_size=8",
    "store.views=2",
    "store.shard_samples=8",
    "loader.workers=0",
]
SMALL = '{name="hourglass", stages=1, channels=8, stem="ports"}'
SETTINGS = [*TOY, f"teacher.model={SMALL}", f"student.model={SMALL}"]


def fpd(*arguments: str | Path, settings: list[str] | None = None) -> Result:
    """Run a command in this process, with `--set` for each of `settings`."""
    options = [word for setting in settings or [] for word in ("--set", setting)]
    return CliRunner().invoke(main, [str(argument) for argument in arguments] + options)


def assert_refused(result: Result, *parts: str) -> str:
    """Check that a command ended in one sentence with these parts, and no traceback."""
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    for part in parts:
        assert part in result.output
    return result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory after `fpd run all`."""
    work = tmp_path_factory.mktemp("cli") / "work"
    result = fpd("run", "all", "-w", work, settings=SETTINGS)
    assert result.exit_code == 0, result.output
    return work


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished work directory, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "work"))


def test_all_four_stages_end_in_one_table(finished: Path) -> None:
    result = fpd("evaluate", "-w", finished)
    assert result.exit_code == 0
    for word in ("teacher", "student", "labels-only", "PCK@0.2", "mean", "AUC", "GMACs"):
        assert word in result.output
    assert (finished / "evaluation" / "pck_curve.png").read_bytes().startswith(b"\x89PNG")


def test_another_threshold_is_another_metric(work: Path) -> None:
    result = fpd("evaluate", "-w", work, "--tau", "0.1")
    assert result.exit_code == 0 and "PCK@0.1 in percent" in result.output
    report = json.loads((work / "evaluation" / "report.json").read_text())
    for row in report["models"].values():
        # The curve keeps its steps of 0.01 up to LSP's own threshold.
        assert row["mean"] == pytest.approx(row["curve"]["pck"][10])
        assert row["curve"]["thresholds"][-1] == 0.2


def test_run_all_again_does_nothing_new(work: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.rglob("weights.safetensors")}
    shards = {
        path: path.read_bytes()
        for path in (work / "heatmaps.zarr").rglob("c/*/*")
        if path.is_file()
    }
    result = fpd("run", "all", "-w", work)
    assert result.exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert all(path.read_bytes() == content for path, content in shards.items())


def test_the_store_is_small_and_says_so(finished: Path) -> None:
    result = fpd("cache-heatmaps", "-w", finished)
    found = re.search(r"\((\d+) bytes a view; raw float16", result.output)
    assert found
    # 14 joints of 16 x 16 in float16.
    assert int(found.group(1)) < 14 * 16 * 16 * 2


# Refusals of the store: expected, found, and the command that mends it.


def test_student_without_a_store_names_the_command(work: Path) -> None:
    shutil.rmtree(work / "heatmaps.zarr")
    assert_refused(
        fpd("run", "student", "-w", work, "--name", "other"),
        "is missing",
        f"fpd cache-heatmaps -w {work}",
    )


def test_student_of_another_teacher_is_refused_until_overwritten(work: Path) -> None:
    shutil.rmtree(work / "teacher")
    again = fpd("run", "teacher", "-w", work, "--set", "teacher.seed=1")
    assert again.exit_code == 0
    assert_refused(
        fpd("run", "student", "-w", work, "--name", "other"),
        "teacher.sha256",
        f"fpd cache-heatmaps -w {work} --overwrite",
    )
    assert_refused(fpd("cache-heatmaps", "-w", work), "teacher.sha256", "--overwrite")
    assert fpd("cache-heatmaps", "-w", work, "--overwrite").exit_code == 0
    assert fpd("run", "student", "-w", work, "--name", "other").exit_code == 0


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("augmentation.rotation_deg=10", "augmentation.rotation_deg: expected 10"),
        ("store.seed=3", "seed: expected 3, found 0"),
        ("data.label_corruption.noise=0.5", "datasets.labels"),
        ("data.synthetic.seed=7", "datasets.images"),
        ("data.synthetic.train=30", "datasets.samples"),
        ("geometry.crop_px=128", "geometry.crop_px: expected 128, found 64"),
        ("store.max_error=0.05", "max_error: expected 0.05, found 0.1"),
        ("store.flip_averaged=false", "flip_averaged: expected False, found True"),
    ],
)
def test_student_refuses_a_store_that_does_not_fit(
    finished: Path, setting: str, named: str
) -> None:
    assert_refused(
        fpd("run", "student", "-w", finished, "--name", "other", "--set", setting),
        named,
        "--overwrite",
    )


def test_flip_and_multi_scale_tests_are_options(work: Path) -> None:
    def scores() -> dict[str, object]:
        return json.loads((work / "evaluation" / "report.json").read_text("utf-8"))

    fpd("evaluate", "-w", work)
    plain = scores()
    result = fpd("evaluate", "-w", work, "--flip-test", "--scales", "0.9,1")
    assert result.exit_code == 0
    assert ", flip test, scales 0.9, 1\n" in result.output
    found = scores()
    assert found["evaluation"] == {"flip": True, "scales": [0.9, 1.0]}
    assert found["models"] != plain["models"]
    again = fpd("evaluate", "-w", work, "--set", "evaluation={flip_test=true,scales=[0.9,1]}")
    assert again.exit_code == 0
    of_teacher = [r["models"]["teacher"]["mean"] for r in (found, scores())]  # type: ignore[index]
    assert of_teacher[0] == of_teacher[1]
    said = assert_refused(fpd("evaluate", "-w", work, "--scales", "0.9,1.1"), "evaluation.scales")
    assert said.count("0.9") == 1  # it is said once what was found
    result = fpd("evaluate", "-w", work, "--tau", "nan")
    assert result.exit_code == 2 and "expected a number, found nan" in result.output


def test_ctrl_c_in_an_evaluation_is_a_sentence(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (work / "evaluation" / "report.json").read_bytes()

    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("fpd.stages.evaluate.predict", interrupted)
    result = fpd("evaluate", "-w", work)
    assert result.exit_code == 130
    assert "stopped; what is complete is kept, run the same command again" in result.output
    assert (work / "evaluation" / "report.json").read_bytes() == before


def test_a_files_predictions_are_asked_once() -> None:
    options = ("--predictions", "p.mat", "--ground-truth", "g.mat")
    assert_refused(fpd("evaluate", *options, "--flip-test"), "--flip-test")


@pytest.mark.parametrize("command", [[], ["run", "teacher"], ["cache-heatmaps"], ["evaluate"]])
def test_examples_of_the_help_keep_their_lines(command: list[str]) -> None:
    output = fpd(*command, "--help").output
    assert "\\b" not in output
    assert re.search(r"^  (torchrun|fpd) .*\n", output, re.MULTILINE)


def test_incomplete_store_is_finished_by_the_command_named(work: Path) -> None:
    before = {p: p.read_bytes() for p in (work / "heatmaps.zarr").rglob("*") if p.is_file()}
    next((work / "heatmaps.zarr" / "heatmaps" / "receipts" / "1").iterdir()).unlink()
    output = assert_refused(
        fpd("run", "student", "-w", work, "--name", "other"), "5 of 6 shards", "1 of 2 views"
    )
    assert f"fpd cache-heatmaps -w {work}" in output
    assert fpd("cache-heatmaps", "-w", work).exit_code == 0
    assert {p: p.read_bytes() for p in before} == before
    assert fpd("run", "student", "-w", work, "--name", "other").exit_code == 0


def test_more_views_are_asked_for_and_added(work: Path) -> None:
    assert_refused(
        fpd("run", "student", "-w", work, "--name", "other", "--set", "store.views=3"),
        "6 of 9 shards",
        "fpd cache-heatmaps",
    )
    assert fpd("cache-heatmaps", "-w", work, "--set", "store.views=3").exit_code == 0
    assert fpd("run", "student", "-w", work, "--name", "o", "--set", "store.views=3").exit_code == 0


def test_the_store_may_lie_elsewhere(work: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "scratch" / "run.zarr"
    (work / "heatmaps.zarr").rename(work / "before.zarr")
    student = ["run", "student", "-w", work, "--name", "other", "--store", elsewhere]
    assert_refused(fpd(*student), f"{elsewhere} is missing", "fpd cache-heatmaps")
    assert fpd("cache-heatmaps", "-w", work, "--store", elsewhere).exit_code == 0
    assert not (work / "heatmaps.zarr").exists()
    for path in (work / "before.zarr" / "heatmaps" / "c").rglob("*"):
        if path.is_file():
            found = elsewhere / path.relative_to(work / "before.zarr")
            assert found.read_bytes() == path.read_bytes()
    assert fpd(*student).exit_code == 0


def test_a_folder_of_other_files_does_not_become_a_store(work: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"mine")
    for more in ([], ["--overwrite"]):
        result = fpd("cache-heatmaps", "-w", work, "--store", tmp_path / "photos", *more)
        assert_refused(result, "found holiday.jpg", "--store")
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"mine"


def test_a_changed_image_is_named(lsp: Path, tmp_path: Path) -> None:
    """In place, with the same name, size and date: only its pixels tell."""
    work = tmp_path / "w"
    assert on_lsp(lsp, work).exit_code == 0
    assert fpd("cache-heatmaps", "-w", work).exit_code == 0
    images = lsp / "lsp" / "images"
    for path in images.iterdir():
        before = path.stat()
        pixels = 255 - cv2.imread(str(path))
        cv2.imwrite(str(path), pixels)
        os.truncate(path, max(before.st_size, path.stat().st_size))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_refused(fpd("run", "student", "-w", work), "another picture", "lsp/im00", "--overwrite")


def test_caching_before_teaching_names_the_command(tmp_path: Path) -> None:
    result = fpd("cache-heatmaps", "-w", tmp_path / "w", settings=SETTINGS)
    assert_refused(result, "no finished teacher", f"fpd run teacher -w {tmp_path / 'w'}")


def test_labels_only_needs_no_store(tmp_path: Path) -> None:
    result = fpd(
        "run",
        "student",
        "-w",
        tmp_path / "w",
        "--name",
        "labels-only",
        settings=[*SETTINGS, "student.alpha=0"],
    )
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "w" / "heatmaps.zarr").exists()


def test_a_student_starts_from_another(work: Path) -> None:
    result = fpd("run", "student", "-w", work, "--name", "later", "--init-from", work / "student")
    assert result.exit_code == 0, result.output
    assert_refused(
        fpd("run", "student", "-w", work, "--name", "x", "--init-from", work / "evaluation"),
        "--init-from",
        "expected a weights file",
    )


# Wrong input of every kind.


def test_evaluating_nothing_names_the_command(tmp_path: Path) -> None:
    assert_refused(fpd("evaluate", "-w", tmp_path / "w"), "no finished model", "fpd run all")
    assert not (tmp_path / "w").exists()


def test_unknown_setting_is_named(tmp_path: Path) -> None:
    result = fpd("run", "teacher", "-w", tmp_path / "w", "--set", "teacher.epoch=3")
    assert_refused(result, "teacher.epoch: there is no such setting")


def test_unknown_key_in_a_recipe_file_is_named(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[teacher]\nlr = 3\n")
    assert_refused(fpd("run", "teacher", "-r", recipe, "-w", tmp_path / "w"), "teacher.lr")
    assert not (tmp_path / "w").exists()


def test_a_first_command_that_failed_does_not_stick(lsp: Path, tmp_path: Path) -> None:
    work = tmp_path / "w"
    assert_refused(on_lsp(tmp_path / "wrong", work), "joints.mat is missing")
    right = fpd("run", "teacher", "-w", work, "--set", f'data.root="{lsp}"')
    assert right.exit_code == 0, right.output
    assert fpd("cache-heatmaps", "-w", work).exit_code == 0


def test_a_setting_for_one_command_does_not_stick(work: Path) -> None:
    first = fpd("run", "student", "-w", work, "--name", "brief", "--set", "student.epochs=1")
    assert first.exit_code == 0
    assert fpd("run", "student", "-w", work, "--name", "usual").exit_code == 0
    assert len((work / "brief" / "metrics.jsonl").read_text().splitlines()) == 1
    assert len((work / "usual" / "metrics.jsonl").read_text().splitlines()) == 2


def test_unknown_recipe_lists_those_there_are(tmp_path: Path) -> None:
    assert_refused(fpd("run", "teacher", "-r", "mpi", "-w", tmp_path / "w"), "'mpi'", "demo", "lsp")


def test_value_out_of_range_is_named(tmp_path: Path) -> None:
    result = fpd("run", "student", "-w", tmp_path / "w", "--set", "student.alpha=2")
    assert_refused(result, "student.alpha", "less than or equal to 1")


def test_unknown_device(tmp_path: Path) -> None:
    assert_refused(
        fpd("run", "teacher", "-w", tmp_path / "w", "--device", "cuda:9"), "--device cuda:9"
    )


def test_work_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = fpd("run", "teacher", "-w", tmp_path / "file" / "work", settings=SETTINGS)
    assert_refused(result, "cannot be written", "-w")


def test_student_name_that_leads_out_of_the_work_directory(work: Path) -> None:
    assert_refused(fpd("run", "student", "-w", work, "--name", "../x"), "'../x'")
    assert_refused(fpd("run", "student", "-w", work, "--name", "teacher"), "'teacher'")


def test_damaged_files_are_named(work: Path) -> None:
    (work / "student" / "record.json").write_text("{")
    assert_refused(fpd("evaluate", "-w", work), "record.json is damaged")
    (work / "recipe.json").write_text("[]")
    assert_refused(fpd("evaluate", "-w", work), "recipe.json is damaged")


def test_damaged_weights_are_named(work: Path) -> None:
    weights = work / "student" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert_refused(fpd("evaluate", "-w", work), str(weights), "cannot be read as weights")


def test_other_settings_in_a_used_folder_are_refused(work: Path) -> None:
    result = fpd("run", "student", "-w", work, "--set", "student.epochs=5")
    assert_refused(result, "epochs: expected 5, found 2", "--name")


@pytest.fixture
def lsp(tmp_path: Path) -> Path:
    """A miniature of LSP: twelve people, who all stand the same way."""
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


def test_a_folder_of_images_trains(lsp: Path, tmp_path: Path) -> None:
    result = on_lsp(lsp, tmp_path / "w")
    assert result.exit_code == 0, result.output


def test_missing_folder(tmp_path: Path) -> None:
    result = on_lsp(tmp_path / "nowhere", tmp_path / "w")
    assert_refused(result, "joints.mat is missing", "--set data.root=FOLDER")


def test_missing_image_is_named(lsp: Path, tmp_path: Path) -> None:
    (lsp / "lsp" / "images" / "im0003.jpg").unlink()
    assert_refused(on_lsp(lsp, tmp_path / "w"), "lsp/im0003", "missing")


def test_broken_image_is_named(lsp: Path, tmp_path: Path) -> None:
    (lsp / "lsp" / "images" / "im0004.jpg").write_bytes(b"not an image at all")
    assert_refused(on_lsp(lsp, tmp_path / "w"), "lsp/im0004", "cannot be read as an image")


def test_image_cut_short_is_named(lsp: Path, tmp_path: Path) -> None:
    image = lsp / "lsp" / "images" / "im0005.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    assert_refused(on_lsp(lsp, tmp_path / "w"), "im0005.jpg", "cut short")


def test_image_cut_short_is_named_by_a_loading_process_too(lsp: Path, tmp_path: Path) -> None:
    image = lsp / "lsp" / "images" / "im0005.jpg"
    image.write_bytes(image.read_bytes()[:-40])
    output = assert_refused(
        on_lsp(lsp, tmp_path / "w", "loader.workers=1"), "im0005.jpg", "cut short"
    )
    assert "Traceback" not in output


def spoil(root: Path, value: float) -> None:
    path = root / "lsp" / "joints.mat"
    joints = scipy.io.loadmat(path)["joints"]
    joints[0, 4, 7] = value
    scipy.io.savemat(path, {"joints": joints})


def test_joint_out_of_bounds_is_named(lsp: Path, tmp_path: Path) -> None:
    spoil(lsp, 5000)
    assert_refused(on_lsp(lsp, tmp_path / "w"), "lsp/im0008", "left knee", "far outside")


def test_nan_in_the_labels_is_named(lsp: Path, tmp_path: Path) -> None:
    spoil(lsp, np.nan)
    assert_refused(on_lsp(lsp, tmp_path / "w"), "joints.mat", "person 8")


def test_empty_data_set(lsp: Path, tmp_path: Path) -> None:
    scipy.io.savemat(lsp / "lsp" / "joints.mat", {"joints": np.zeros((3, 14, 0))})
    assert_refused(on_lsp(lsp, tmp_path / "w"), "'lsp' has no people in its train split")


def test_full_disk_is_said_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    work = tmp_path / "w"
    with monkeypatch.context() as patched:
        patched.setattr("fpd.pipeline.training.checkpoint.torch.save", lambda *_: full(work))
        result = fpd("run", "teacher", "-w", work, settings=SETTINGS)
    assert_refused(result, "No space left on device", "the same command goes on")
    assert not list(work.rglob("*.tmp"))
    assert fpd("run", "teacher", "-w", work).exit_code == 0


# Signals, in a process of their own.


def command(*arguments: str | Path) -> list[str]:
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    return [sys.executable, "-m", "fpd", *map(str, arguments), *options]


def test_ctrl_c_while_caching_leaves_a_store_that_the_same_command_finishes(
    finished: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(finished / "teacher", work / "teacher")
    store, many = work / "heatmaps.zarr", ["--set", "store.views=400"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [*command("cache-heatmaps", "-w", work), *many]
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)
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
    kept = len(list(store.glob("heatmaps/receipts/*/*.json")))
    assert 0 < kept < 400 * 3
    result = fpd("cache-heatmaps", "-w", work, settings=[*SETTINGS, "store.views=2"])
    assert result.exit_code == 0, result.output
    whole = finished / "heatmaps.zarr"
    for path in (whole / "heatmaps" / "c").rglob("*"):
        if path.is_file():
            assert (store / path.relative_to(whole)).read_bytes() == path.read_bytes()
