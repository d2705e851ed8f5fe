"""`fpd evaluate --predictions results.json --ground-truth annotations.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fpd.cli import main

pytest.importorskip("pycocotools")

JOINTS = ["head", "left wing", "right wing"]


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    labels = [
        {
            "id": n,
            "image_id": n,
            "category_id": 2,
            "bbox": [0, 0, 100, 100],
            "area": 10000,
            "keypoints": [10, 10, 2, 50, 60, 2, 70, 80, 1],
        }
        for n in (1, 2)
    ]
    truth = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2)],
        "categories": [{"id": 2, "name": "fly", "keypoints": JOINTS}],
        "annotations": labels,
    }
    found = [
        {"image_id": n, "category_id": 2, "keypoints": row["keypoints"], "score": 0.5}
        for n, row in zip((1, 2), labels, strict=True)
    ]
    found[1]["keypoints"] = [500, 500, 1] * 3  # one of two is right
    return {"truth": truth, "found": found}


def score(tmp_path: Path, files: dict[str, Any], *options: str) -> Any:
    predictions = write(tmp_path / "results.json", files["found"])
    truth = write(tmp_path / "labels.json", files["truth"])
    arguments = ["evaluate", "--predictions", predictions, "--ground-truth", truth, *options]
    return CliRunner().invoke(main, arguments)


def test_scores_are_printed_and_written(tmp_path, files) -> None:
    out = tmp_path / "scores.json"
    result = score(tmp_path, files, "--sigmas", "0.05,0.05,0.1", "--json", str(out))
    assert result.exit_code == 0, result.output
    assert "OKS in percent, 2 predictions of 2 labelled flys" in result.output
    report = json.loads(out.read_text())
    assert report["oks"]["AR"] == pytest.approx(0.5)
    assert report["oks"]["AP"] == pytest.approx(51 / 101)  # recall 0.5 of 0, 0.01 ... 1
    assert report["sigmas"] == [0.05, 0.05, 0.1]
    assert f"{100 * 51 / 101:.1f}" in result.output


def test_joints_of_its_own_need_sigmas(tmp_path, files) -> None:
    result = score(tmp_path, files)
    assert result.exit_code == 1 and "--sigmas 0.05,0.05,..." in result.output
    result = score(tmp_path, files, "--sigmas", "0.05")
    assert result.exit_code == 1 and "expected 3 numbers, got 1" in result.output
    result = score(tmp_path, files, "--sigmas", "0.05,a,0.1")
    assert result.exit_code == 1 and "data.coco.sigmas" in result.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 9}, "person 2: expected an image_id of the ground truth's, found 9"),
        ({"keypoints": [1, 2, 3]}, "expected 'keypoints' of 9 in finite numbers"),
        ({"score": None}, "expected 'score' of a single number"),
    ],
)
def test_impossible_predictions_are_refused(tmp_path, files, changes, message) -> None:
    files["found"][1] |= changes
    result = score(tmp_path, files, "--sigmas", "0.05,0.05,0.1")
    assert result.exit_code == 1 and message in result.output


def test_options_of_pck_are_refused(tmp_path, files) -> None:
    result = score(tmp_path, files, "--tau", "0.1", "--sigmas", "0.05,0.05,0.1")
    assert result.exit_code == 1 and "not with COCO's" in result.output
    arguments = ["evaluate", "--predictions", "a.mat", "--ground-truth", "b.mat", "--sigmas", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "COCO's format alone" in result.output
    result = CliRunner().invoke(main, ["evaluate", "--category", "fly"])
    assert result.exit_code == 1 and "go with --predictions" in result.output
