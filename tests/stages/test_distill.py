"""`fpd distill`: from photographs and a teacher's file to a student's, in one command."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.models.export.formats import open_onnx
from fpd.stages import export

from ..pipeline.detectors.test_yolo import raw, write_yolo
from ..pipeline.teachers.network_files import write_onnx, write_spec

pytest.importorskip("onnx", reason="students are exported to ONNX")
pytest.importorskip("onnxruntime", reason="ONNX teachers are run by onnxruntime")

SHARED = Path(__file__).parents[3] / "shared" / "data"
BLAZEPOSE = SHARED / "teachers" / "pose_landmark_lite.tflite"

JOINTS = ("nose", "left_hip", "right_hip", "tail")
SETTINGS = [
    "geometry.crop_px=64",
    "data.validation=0.2",
    "store.views=1",
    "store.shard_samples=8",
    "student.epochs=1",
    "student.model.channels=8",
    "loader.workers=0",
    "monitor.contact_sheet_every=0",
]


def distill(*arguments: str | Path, settings: Sequence[str] = SETTINGS) -> Result:
    """Run the command in this process, with settings that take seconds."""
    options = [text for setting in settings for text in ("--set", setting)]
    return CliRunner().invoke(main, ["distill", *map(str, arguments), *options])


def report_of(work: str = "work/student") -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path(work, "evaluation", "report.json").read_text("utf-8"))
    return report


def assert_refused(result: Result, part: str) -> None:
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and part in errors[0], result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_samples: SampleSet) -> Path:
    """Twelve photographs of 64 x 64 and a teacher."""
    root = tmp_path_factory.mktemp("distill")
    (root / "photos").mkdir()
    for index in range(12):
        pixels, _ = toy_samples.images.read(index, 1.0)
        Image.fromarray(pixels).resize((64, 64)).save(root / "photos" / f"{index}.png")
    write_spec(
        write_onnx(root / "pose.onnx", "heatmaps", len(JOINTS)), JOINTS, head="heatmaps", peak=0.1
    )
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these, which is the current directory."""
    folder = Path(shutil.copytree(made, tmp_path / "here"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the export, which takes as long as all other stages."""
    compared = {"crops": 0, "people": "", "heatmap": 0, "joints_compared": 0, "joints": 0}
    time = {"median_ms": 1.0}
    report = {
        "compared": compared | {"joint_px": None},
        "path": "student.onnx",
        "bytes": 0,
        "card": "student.onnx.md",
        "times": {"exported": time, "pytorch": time, "batch": 1, "threads": 1},
    }
    monkeypatch.setattr(export, "run", lambda *_, **__: report)


def test_a_folder_and_a_teacher_give_a_student(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = distill("photos", "--teacher", "pose.onnx")
    assert result.exit_code == 0, result.output
    assert "each of the 12 photographs is taken as one person that fills it" in caplog.text
    for part in (
        "no problems",
        "agreement with the teacher, not accuracy",
        "student against teacher, not labels",
        "of 12 photographs: distilled on",
        "preparation",
        "work/student/evaluation/report.html",
        "fpd predict PHOTO -w work/student",
    ):
        assert part in result.output
    description = json.loads(Path("student.onnx.json").read_text())
    assert description["joints"] == list(JOINTS) and description["compared"]["people"] == "photos"
    crops = np.zeros((2, 64, 64, 3), np.uint8)
    assert open_onnx(Path("student.onnx").read_bytes())(crops).joints.shape == (2, 4, 2)
    row = report_of()["models"]["student"]
    assert row["mean"] is None and 0 < row["agreement"]["mean_distance"] < 2
    assert "agreement with the teacher" in Path("work/student/evaluation/report.html").read_text()


def test_the_same_command_continues_and_later_ones_know_the_settings(
    folder: Path, quick_export: None
) -> None:
    assert distill("photos", "--teacher", "pose.onnx", "-o", "a.onnx").exit_code == 0
    weights = Path("work/a/student/weights.safetensors")
    before = weights.stat().st_mtime_ns
    again = distill("photos", "--teacher", "pose.onnx", "-o", "a.onnx")
    assert again.exit_code == 0 and "decoding" not in again.output, again.output
    assert weights.stat().st_mtime_ns == before and "caching" not in again.output
    shorter = distill("photos", "-o", "a.onnx", settings=())  # the directory has its own recipe
    assert shorter.exit_code == 0 and "differs from" not in shorter.output, shorter.output
    assert weights.stat().st_mtime_ns == before
    inspected = CliRunner().invoke(main, ["evaluate", "-w", "work/a"])
    assert inspected.exit_code == 0 and "agreement" in inspected.output, inspected.output


def test_a_detector_finds_the_people_once(
    folder: Path, quick_export: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Two people on each photograph; users may correct the file."""
    output = raw((16, 32, 30, 60, 0, 0.9), (48, 32, 30, 60, 0, 0.8))
    write_yolo(folder / "yolo.onnx", output)
    command = ("photos", "--teacher", "pose.onnx", "--detector", "yolo.onnx", "-w", "there")
    result = distill(*command)
    assert result.exit_code == 0, result.output
    boxes = Path("there/boxes.csv")
    rows = list(csv.DictReader(boxes.read_text().splitlines()))
    assert len(rows) == 24 and rows[1] | {"image": ""} == {
        "image": "", "x": "33.0", "y": "2.0", "width": "30.0", "height": "60.0", "score": "0.800",
    }  # fmt: skip
    assert "distilled on" in result.output and "fills it" not in caplog.text
    samples = report_of("there")["models"]["student"]["samples"]
    assert samples % 2 == 0
    corrected = [row for row in boxes.read_text().splitlines() if not row.endswith("0.800")]
    boxes.write_text("\n".join(corrected) + "\n")
    for made in ("heatmaps.zarr", "student", "evaluation"):
        shutil.rmtree(Path("there", made))
    assert distill(*command).exit_code == 0
    assert report_of("there")["models"]["student"]["samples"] == samples / 2


def test_boxes_from_a_file(folder: Path, quick_export: None) -> None:
    lines = [f"{number}.png,4,4,40,56" for number in range(8)]
    (folder / "people.csv").write_text("\n".join(["image,x,y,width,height", *lines]))
    result = distill("photos", "--teacher", "pose.onnx", "--boxes", "people.csv")
    assert result.exit_code == 0, result.output
    assert "4 of 12 photographs have no person's box" in result.output


def test_labels_score_the_student(folder: Path, quick_export: None) -> None:
    """In COCO's format; the labeled photographs are not trained on."""
    (folder / "photos" / "coco" / "annotations").mkdir(parents=True)
    annotations = [
        {
            "id": number,
            "image_id": number,
            "category_id": 1,
            "bbox": [0, 0, 64, 64],
            "keypoints": [30, 10, 2, 40, 40, 2, 20, 40, 2],
        }
        for number in range(3)
    ]
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(3)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "left_hip", "right_hip"]}],
    }
    (folder / "photos" / "coco" / "annotations" / "test.json").write_text(json.dumps(content))
    (folder / "photos" / "coco" / "images").mkdir()
    for number in range(3):
        (folder / "photos" / f"{number}.png").rename(
            folder / "photos" / "coco" / "images" / f"{number}.png"
        )
    coco = ["data.coco.test=test.json", "data.coco.test_images=images"]
    options = [text for setting in coco for text in ("--set", setting)]
    result = distill("photos", "--teacher", "pose.onnx", "--labels", "coco", *options)
    assert result.exit_code == 0, result.output
    assert "on 3 people with labels" in result.output and "distilled on 9 people" in result.output
    row = report_of()["models"]["student"]
    assert row["joints"] == 9 and "agreement" not in row


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("none", "--teacher", "pose.onnx"), "none: expected a folder of photographs, found none"),
        (("empty", "--teacher", "pose.onnx"), "expected 1 to 1000000 images, found 0"),
        (("photos",), "expected a teacher of the photographs, found none: name one with --teacher"),
        (("photos", "--teacher", "x.onnx"), "--teacher x.onnx: expected a file or folder, found"),
        (("photos", "--teacher", "pose.onnx", "--boxes", "x.csv"), "expected a file or folder of"),
        (("photos", "--teacher", "pose.onnx", "--boxes", "bad.csv"), "as box 1 (line 2), found"),
        (("photos", "--teacher", "pose.onnx", "--boxes", "other.csv"), "no box of a photograph in"),
        (("photos", "--teacher", "pose.onnx", "--detector", "x"), "--detector x: expected an"),
        (("photos", "--teacher", "pose.onnx", "-o", "x.pt"), "expected a name that ends in .onnx"),
        (("photos", "--teacher", "pose.onnx", "-r", "lsp"), "expected a recipe of photographs"),
        (("photos", "--teacher", "pose.onnx", "--labels", "x"), "data.photos.labels: input should"),
    ],
)
def test_mistakes_end_in_one_sentence(folder: Path, arguments: tuple[str, ...], part: str) -> None:
    (folder / "empty").mkdir()
    (folder / "bad.csv").write_text("image,x,y,width,height\n0.png,1,1,x,9\n")
    (folder / "other.csv").write_text("image,x,y,width,height\nother.png,1,1,9,9\n")
    assert_refused(distill(*arguments), part)
    assert not Path("work").exists() and not Path("student.onnx").exists()


def test_damaged_photographs_are_listed_before_the_teacher_runs(folder: Path) -> None:
    for name in ("3.png", "5.png"):
        path = folder / "photos" / name
        path.write_bytes(path.read_bytes()[:-400])
    result = distill("photos", "--teacher", "pose.onnx")
    assert_refused(result, "the photographs above cannot be used")
    assert "3.png" in result.output and "5.png" in result.output
    assert not Path("work/student/heatmaps.zarr").exists()


def test_a_teacher_in_python_runs_only_if_the_command_names_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("recipe.toml").write_text('extends = "photos"\n[store]\nteachers = ["evil:make"]\n')
    Path("evil.py").write_text("raise SystemExit('code was run')")
    assert_refused(distill("photos", "-r", "recipe.toml"), "evil:make as a teacher: Python code")


@pytest.mark.skipif(not BLAZEPOSE.is_file(), reason="BlazePose is not in ../shared/data/teachers")
def test_blazepose_teaches_33_joints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert", reason="TFLite teachers need it")
    monkeypatch.chdir(tmp_path)
    images = SHARED / "lsp" / "images"
    Path("photos").mkdir()
    for number in range(1, 13):
        Path("photos", f"im{number:04d}.jpg").symlink_to(images / f"im{number:04d}.jpg")
    result = distill("photos", "--teacher", BLAZEPOSE, "-o", "pose.onnx")
    assert result.exit_code == 0, result.output
    joints = json.loads(Path("pose.onnx.json").read_text())["joints"]
    assert len(joints) == 33 and joints[0] == "nose" and "auxiliary 33" not in joints
