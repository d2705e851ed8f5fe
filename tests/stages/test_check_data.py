"""`fpd check-data`: every problem of a data set is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fpd.cli import main
from fpd.commands.summaries.check_data import describe
from fpd.data.sections import Data
from fpd.stages import check_data

FILES = {"train": "a.json", "test": "b.json", "train_images": "images", "test_images": "images"}


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    keypoints = [20, 20, 2, 0, 0, 0]
    row = {"id": number, "image_id": number % 3, "category_id": 1, "bbox": [5, 5, 40, 30]}
    return row | {"keypoints": keypoints} | changes


def write(root: Path, name: str, annotations: list[dict[str, Any]]) -> None:
    content = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)],
        "categories": [{"id": 1, "name": "bee", "keypoints": ["head", "tail"]}],
        "annotations": annotations,
    }
    path = root / "coco" / "annotations" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "coco" / "images").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    for n in range(3):
        Image.fromarray(noise).save(tmp_path / "coco" / "images" / f"{n}.png")
    write(tmp_path, "a.json", [annotation(n) for n in range(6)])
    write(tmp_path, "b.json", [annotation(7)])
    return tmp_path


def run(root: Path) -> dict[str, Any]:
    return check_data.run(Data(reader="coco", root=root, validation=0, coco=FILES), workers=2)


def test_a_limit_is_stated(root: Path) -> None:
    data = Data(reader="coco", root=root, validation=0, limit=4, coco=FILES)
    report = check_data.run(data, workers=2)
    assert report["usable"] and report["splits"]["train"]["samples"] == 4
    assert report["splits"]["test"]["samples"] == 1
    assert "6 people in the samples of coco, 4 kept; left out: 2 over data.limit = 4" in describe(
        report
    )


def test_a_good_data_set(root: Path) -> None:
    report = run(root)
    assert report["usable"] and report["problems"] == []
    train = report["splits"]["train"]
    assert (train["samples"], train["images"], train["labeled_joints"]) == (6, 3, 6)
    assert train["labeled"] == 0.5 and train["labeled_by_joint"] == {"head": 1.0, "tail": 0.0}
    assert train["box_px"] == [50, 50, 50] and train["image_px"] == [120, 120, 120]
    assert report["splits"]["validation"]["samples"] == 0
    assert "no problems" in describe(report)


def test_damaged_pixels_behind_a_valid_header_are_found(root: Path) -> None:
    image = root / "coco" / "images" / "1.png"
    image.write_bytes(image.read_bytes()[:2000])
    report = run(root)
    (problem,) = report["problems"]  # of both splits
    assert problem.startswith("train: coco/a/1: ") and "1.png cannot be decoded" in problem


def test_all_problems_are_listed(root: Path) -> None:
    far = [annotation(n, keypoints=[900, 20, 2, 0, 0, 0]) for n in range(30)]
    write(root, "a.json", far)
    (root / "coco" / "images" / "2.png").unlink()
    problems = run(root)["problems"]
    assert sum("head at (900, 20) is far outside" in problem for problem in problems) == 20
    assert sum("2.png is missing" in problem for problem in problems) == 1
    assert len(problems) == 21


def test_a_missing_folder_is_reported_once(root: Path) -> None:
    shutil.rmtree(root / "coco" / "images")
    (problem,) = run(root)["problems"]
    assert f"{root / 'coco' / 'images'} is missing, a folder" in problem
    assert "data.coco.train_images" in problem and problem.endswith("(5 more samples)")


def test_unusual_images_are_told(root: Path) -> None:
    for n in range(3):
        values = np.full((90, 120), 1000 + n, np.uint16)
        cv2.imwrite(str(root / "coco" / "images" / f"{n}.png"), values)
    report = run(root)
    assert report["usable"] and len(report["image_notes"]) == 3
    assert "0.png uses the lower 10 of its 16 bits" in describe(report)
    report["image_notes"] *= 3
    assert "and 4 more such images" in describe(report)


def test_a_damaged_label_file_does_not_hide_the_other(root: Path) -> None:
    path = root / "coco" / "annotations" / "a.json"
    path.write_bytes(path.read_bytes()[:-9])
    report = run(root)
    assert list(report["splits"]) == ["test"]
    assert len(report["problems"]) == 1 and "a.json cannot be read" in report["problems"][0]


def test_a_problem_of_both_files_is_told_once(tmp_path: Path) -> None:
    (problem,) = check_data.run(Data(reader="lsp", root=tmp_path))["problems"]
    assert problem.startswith("train, test: ") and "joints.mat is missing" in problem
    assert describe(check_data.run(Data(reader="lsp", root=tmp_path))).startswith("1 problem:")


def fpd(root: Path, *options: str) -> Any:
    settings = [f"data.coco.{key}={value}" for key, value in FILES.items()]
    settings += ["data.reader=coco", f"data.root={root}", "data.validation=0"]
    overrides = [text for setting in settings for text in ("--set", setting)]
    work = str(root / "work")
    return CliRunner().invoke(main, ["check-data", "-r", "demo", "-w", work, *overrides, *options])


def test_the_command(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "check.json"
    result = fpd(root, "--json", str(out))
    assert result.exit_code == 0, result.output
    assert "no problems" in result.output and "50.0 %" in result.output
    assert json.loads(out.read_text())["usable"] is True
    assert not (root / "work").exists()
    (root / "coco" / "images" / "0.png").unlink()
    result = fpd(root)
    assert result.exit_code == 1 and "train: coco/a/0: " in result.output
    assert "0.png is missing" in result.output
    result = fpd(root, "--json", str(tmp_path / "none" / "check.json"))
    assert result.exit_code == 1 and "expected a folder" in result.output


def test_people_left_out_and_pairs_are_printed(root: Path) -> None:
    people = [annotation(n) for n in range(6)]
    people[1] |= {"keypoints": [], "bbox": [0, 0, 0, 0]}
    people[2] |= {"iscrowd": "1"}
    write(root, "a.json", people)
    report = run(root)
    file = report["label_files"][0]
    assert (file["people"], file["kept"]) == (6, 4)
    assert file["left_out"] == {"without labeled joints": 1, "marked as a crowd": 1}
    text = fpd(root).output
    assert "a.json, 4 kept; left out: 1 without labeled joints, 1 marked as a crowd" in text
    assert "a flip exchanges no joints; it keeps head, tail" in text


def rename(root: Path, name: str, joints: list[str]) -> None:
    path = root / "coco" / "annotations" / name
    content = json.loads(path.read_text())
    content["categories"][0]["keypoints"] = joints
    path.write_text(json.dumps(content))


def test_the_test_file_has_the_training_files_joints(root: Path) -> None:
    rename(root, "b.json", ["Tail", "head"])
    report = run(root)
    assert report["usable"] and "matched by name" in report["order_note"]
    assert report["order_note"] in fpd(root).output
    rename(root, "b.json", ["head", "wing"])
    (problem,) = run(root)["problems"]
    assert problem.endswith("the training file alone has tail; the test file alone has wing")


def test_a_side_without_counterpart_is_a_problem(root: Path) -> None:
    rename(root, "a.json", ["head", "leftwing"])
    (problem,) = run(root)["problems"]
    assert "no counterpart, or several, of leftwing" in problem and "data.coco.flip" in problem


def test_synthetic_data_needs_no_files() -> None:
    report = check_data.run(Data(synthetic={"train": 4, "test": 2}))
    assert report["usable"] and report["splits"]["test"]["samples"] == 2


def test_samples_in_both_splits_are_told(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (60, 60)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.8 0.8 0.3 0.3 0.6 0.6\n")
    names = "names: [bee]\nkpt_shape: [2, 2]\nflip_idx: [0, 1]\n"
    (tmp_path / "data.yaml").write_text(f"train: images\nval: images\n{names}")
    report = check_data.run(Data(reader="yolo", root=tmp_path, validation=0))
    assert report["usable"] and "test: 1 of 1 samples are also trained on" in describe(report)
