"""`fpd evaluate --predictions results.json --ground-truth annotations.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fpd.cli import main
from fpd.data.datasets import load
from fpd.pipeline.config.recipe import apply_overrides
from fpd.pipeline.evaluation import oks
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, teacher

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
    assert "OKS in percent, 2 predictions of 2 labeled flys" in result.output
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
        ({"image_id": [1]}, "expected an image_id of the ground truth's, found [1]"),
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


@pytest.fixture
def flies(tmp_path: Path, toy_samples) -> Path:
    """Drawn people as a file in COCO's format, with a skeleton that COCO doesn't know."""
    images, annotations = [], []
    (tmp_path / "coco" / "images").mkdir(parents=True)
    (tmp_path / "coco" / "annotations").mkdir()
    for index in range(12):
        sample = toy_samples[index]
        pixels, _ = toy_samples.images.read(sample.image, 1.0)
        Image.fromarray(pixels).save(tmp_path / "coco" / "images" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png"})
        seen = [not bool(xy != xy) for xy in sample.joints_K2[:, 0]]
        keypoints = [
            number
            for (x, y), there in zip(sample.joints_K2, seen, strict=True)
            for number in ([float(x), float(y), 2] if there else [0, 0, 0])
        ]
        side = sample.side_px / 1.25
        corner = [float(c + 0.5 - side / 2) for c in sample.center_2]
        row = {"id": index, "image_id": index, "category_id": 1, "area": side * side}
        row |= {"bbox": [*corner, side, side], "keypoints": keypoints}
        annotations.append(row)
    category = {"id": 1, "name": "fly", "keypoints": list(toy_samples.skeleton.joints)}
    content = {"images": images, "categories": [category], "annotations": annotations}
    write(tmp_path / "coco" / "annotations" / "all.json", content)
    return tmp_path


def test_a_work_directory_of_cocos_format(flies, toy_recipe, toy_samples) -> None:
    settings = ["data.reader=coco", f"data.root={flies}", "data.coco.train=all.json"]
    settings += ["data.coco.test=all.json", "data.coco.train_images=images"]
    settings += ["data.coco.test_images=images", "teacher.epochs=1", "data.validation=0.3"]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), settings)
    people = load(recipe.data, "test")
    # The way into the file and back: the same joints, boxes and pairs.
    assert people.joints_NK2 == pytest.approx(toy_samples.joints_NK2[:12], nan_ok=True)
    assert people.center_N2 == pytest.approx(toy_samples.center_N2[:12])
    assert people.skeleton.flip_indices == toy_samples.skeleton.flip_indices
    work = WorkDir(flies / "work")
    work.create()
    teacher.run(work, recipe, torch.device("cpu"))
    row = evaluate.run(work, recipe, torch.device("cpu"))["models"]["teacher"]
    assert row["metric"] == "PCK(box)@0.2" and row["oks"] is None
    assert "no sigmas of fly" in row["oks_left_out"]
    settings.append(f"data.coco.sigmas={[0.5] * 14}")
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), settings)
    report = evaluate.run(work, recipe, torch.device("cpu"))
    found = report["models"]["teacher"]["oks"]
    assert 0 <= found["AP"] <= found["AP50"] <= 1 and found["AP50"] > 0
    assert json.loads((work.evaluation / "report.json").read_text())["models"]["teacher"]["oks"]
    assert "\nteacher" in "\n".join(oks.lines(report["models"]))
