"""`fpd predict`: the joints that evaluation finds, on whatever images a user names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from fpd.cli import main
from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.config.sections import TestTimeAugmentation
from fpd.pipeline.evaluation.inference import PredictedJoints
from fpd.pipeline.evaluation.inference import predict as predict_set
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.prediction import photos as photos_module
from fpd.pipeline.prediction.people import BOX_MARGIN
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")
COCO = Path(__file__).parents[3] / "shared" / "data" / "coco"


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.output
    for part in parts:
        assert part in result.output


@pytest.fixture(scope="module")
def model(toy_work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with nothing but one model, called "student"."""
    work = tmp_path_factory.mktemp("shipped") / "work"
    shutil.copytree(toy_work / "teacher", work / "student")
    return work


@pytest.fixture(scope="module")
def samples(toy_recipe: Recipe) -> SampleSet:
    return load(toy_recipe.data, "test")


@pytest.fixture(scope="module")
def expected(model: Path, samples: SampleSet, toy_recipe: Recipe) -> PredictedJoints:
    """What evaluation predicts."""
    trained = load_model(WorkDir(model).model("student"), CPU)
    return predict_set(trained.network, toy_recipe, samples, CPU)


@pytest.fixture(scope="module")
def photos(samples: SampleSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy test samples as files: 000.png to 007.png, and boxes of the same crops."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for index in range(len(samples)):
        pixels, _ = samples.images.read(index, 1.0)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
        rows.append({"image": f"{index:03d}.png", "bbox": box_of(samples, index)})
    (folder / "boxes.json").write_text(json.dumps(rows))
    return folder


def box_of(samples: SampleSet, index: int) -> list[float]:
    """The box, of edges, whose crop is the sample's."""
    side = samples.side_N[index] / BOX_MARGIN
    left, top = samples.center_N2[index] + 0.5 - side / 2
    return [float(left), float(top), float(side), float(side)]


def results(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((out / "predictions.json").read_text("utf-8"))
    return rows


def keypoints(row: dict[str, Any]) -> NDArray[np.float64]:
    return np.array(row["keypoints"]).reshape(-1, 3)


def assert_joints_agree(joints_NK2: NDArray[np.float64], expected_NK2: NDArray[np.float64]) -> None:
    """All but a few: the toy model's heatmaps are nearly flat, and rounding may move a maximum."""
    distances_NK = np.linalg.norm(joints_NK2 - expected_NK2, axis=-1)
    assert (distances_NK < 4e-3).mean() > 0.8


def test_a_missing_file_of_boxes_leaves_no_folder(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    arguments = (photos, "-w", model, "--boxes", tmp_path / "none.csv", "-o", tmp_path / "o")
    assert_refused(fpd(*arguments), "none.csv")
    assert not (tmp_path / "o").exists()


def test_the_joints_are_those_of_evaluation(
    model: Path, photos: Path, expected: PredictedJoints, tmp_path: Path
) -> None:
    result = fpd(photos, "-w", model, "--boxes", photos / "boxes.json", "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert "predicted 8 people on 8 images" in result.output
    rows = results(tmp_path / "o")
    assert [row["file_name"] for row in rows] == [f"{n:03d}.png" for n in range(8)]
    keypoints_NK3 = np.stack([keypoints(row) for row in rows])
    assert_joints_agree(keypoints_NK3[..., :2], expected.joints_NK2)
    np.testing.assert_allclose(keypoints_NK3[..., 2], expected.peaks_NK, atol=1e-3)
    scores = [row["score"] for row in rows]
    np.testing.assert_allclose(scores, expected.peaks_NK.mean(-1), atol=1e-3)
    assert {row["category_id"] for row in rows} == {1}
    joints = json.loads((tmp_path / "o" / "joints.json").read_text())
    assert joints["joints"][0] == "right ankle" and joints["skeleton"] == "lsp"


def test_one_person_is_singular(model: Path, photos: Path, tmp_path: Path) -> None:
    result = fpd(photos / "000.png", "-w", model, "-o", tmp_path / "o", "--no-draw")
    assert "predicted 1 person on 1 image: written to" in result.output


def test_every_image_is_drawn_unless_disabled(model: Path, photos: Path, tmp_path: Path) -> None:
    arguments = (photos / "000.png", photos / "001.png", "-w", model)
    assert fpd(*arguments, "-o", tmp_path / "a").exit_code == 0
    for name in ("000.png", "001.png"):
        drawn, before = (cv2.imread(str(folder / name)) for folder in (tmp_path / "a", photos))
        assert drawn.shape == before.shape
    assert fpd(*arguments, "-o", tmp_path / "b", "--no-draw").exit_code == 0
    names = {p.name for p in (tmp_path / "b").iterdir()} - {".fpd.lock"}
    assert names == {"joints.json", "predictions.json"}


def test_one_box_and_the_whole_image(
    model: Path, photos: Path, samples: SampleSet, expected: PredictedJoints, tmp_path: Path
) -> None:
    box = ",".join(map(str, box_of(samples, 3)))
    image = photos / "003.png"
    result = fpd(image, "-w", model, "--box", box)
    assert result.exit_code == 0
    assert "predicted 1 person on 1 image: " in result.output
    row = results(model / "predictions" / "student")[0]
    assert_joints_agree(keypoints(row)[:, :2], expected.joints_NK2[3])
    assert row["bbox"] == pytest.approx(box_of(samples, 3))
    # Without a box, the crop is the smallest square around the whole image.
    pixels = cv2.imread(str(image))
    height, width = pixels.shape[:2]
    assert fpd(image, "-w", model, "-o", tmp_path / "a").exit_code == 0
    whole = results(tmp_path / "a")[0]
    assert whole["bbox"] == [0, 0, width, height]
    side = max(height, width) / BOX_MARGIN
    centered = f"{width / 2 - side / 2},{height / 2 - side / 2},{side},{side}"
    assert fpd(image, "-w", model, "-o", tmp_path / "b", "--box", centered).exit_code == 0
    boxed = results(tmp_path / "b")[0]
    assert_joints_agree(keypoints(whole)[:, :2], keypoints(boxed)[:, :2])


def test_several_people_on_one_image_by_cocos_annotations(
    model: Path, photos: Path, samples: SampleSet, tmp_path: Path
) -> None:
    boxes = {
        "images": [{"id": 41, "file_name": "003.png"}, {"id": 42, "file_name": "gone.png"}],
        "annotations": [
            {"image_id": 41, "bbox": box_of(samples, 3), "category_id": 1},
            {"image_id": 41, "bbox": [5, 5, 40, 60], "category_id": 1, "score": 0.5},
            {"image_id": 42, "bbox": [5, 5, 40, 60], "category_id": 1},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(boxes))
    out = tmp_path / "o"
    result = fpd(photos, "-w", model, "--boxes", tmp_path / "coco.json", "-o", out)
    assert result.exit_code == 0
    assert "skipped: 7 images" in result.output and "1 box of images" in result.output
    rows = results(out)
    assert [row["image_id"] for row in rows] == [41, 41]
    assert rows[1]["score"] == pytest.approx(0.5 * keypoints(rows[1])[:, 2].mean(), abs=1e-4)
    assert sorted(p.name for p in out.glob("*.png")) == ["003.png"]


def test_other_boxes_than_peoples_are_left_out_and_counted(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    box = [5, 5, 40, 60]
    rows = [
        {"image_id": "000", "category_id": 1, "bbox": box, "score": 0.9},
        {"image_id": "000", "category_id": 17, "bbox": box, "score": 0.9},
        {"image_id": "001", "category_id": 1, "bbox": box, "score": 0.001},
        {"image_id": "002", "category_id": 1, "bbox": box, "iscrowd": "1"},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    arguments = (photos, "-w", model, "--boxes", tmp_path / "boxes.json", "-o", tmp_path / "o")
    result = fpd(*arguments)
    assert result.exit_code == 0, result.output
    assert [row["file_name"] for row in results(tmp_path / "o")] == ["000.png"]
    assert "left out: 1 of other categories than 1, 1 with a score below 0.3" in (result.output)
    assert "1 around crowds" in result.output and "7 images without a person" in result.output
    assert fpd(*arguments, "--min-score", "0").exit_code == 0
    assert len(results(tmp_path / "o")) == 2
    assert fpd(*arguments, "--category", "17").exit_code == 0
    assert [row["category_id"] for row in results(tmp_path / "o")] == [17]
    (tmp_path / "boxes.json").write_text(json.dumps(rows[2:]))
    assert_refused(fpd(*arguments), "no person's box on the given images", "1 around crowds")
    assert_refused(fpd(photos / "000.png", "-w", model, "--category", "1"), "with --boxes")


def test_boxes_of_the_picture_as_stored_are_told(model: Path, photos: Path, tmp_path: Path) -> None:
    pixels = Image.open(photos / "003.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.crop((0, 0, 90, 70)).save(tmp_path / "phone.png", exif=exif)
    boxes = {
        "images": [{"id": 1, "file_name": "phone.png", "width": 90, "height": 70}],
        "annotations": [{"image_id": 1, "bbox": [5, 5, 40, 60]}],
    }
    (tmp_path / "b.json").write_text(json.dumps(boxes))
    arguments = (tmp_path / "phone.png", "-w", model, "--boxes", tmp_path / "b.json")
    assert_refused(fpd(*arguments), "has 70 x 90 pixels, its boxes are for 90 x 70", "--as-stored")
    assert fpd(*arguments, "--as-stored").exit_code == 0
    boxes["images"][0]["width"] = 45
    (tmp_path / "b.json").write_text(json.dumps(boxes))
    assert_refused(fpd(*arguments), "its boxes are for 45 x 70: give the pictures")


def test_flip_test_and_scales_are_those_of_evaluation(
    model: Path, photos: Path, samples: SampleSet, toy_recipe: Recipe, tmp_path: Path
) -> None:
    trained = load_model(WorkDir(model).model("student"), CPU)
    tta = TestTimeAugmentation(flip_test=True, scales=(0.9, 1.0))
    expected = predict_set(trained.network, toy_recipe, samples, CPU, tta=tta).joints_NK2
    options = ("--boxes", photos / "boxes.json", "-o", tmp_path, "--flip-test", "--scales", "0.9,1")
    assert fpd(photos, "-w", model, *options).exit_code == 0
    joints_NK2 = np.stack([keypoints(row)[:, :2] for row in results(tmp_path)])
    assert_joints_agree(joints_NK2, expected)


def test_a_photo_stored_sideways_is_turned(
    model: Path, photos: Path, samples: SampleSet, expected: PredictedJoints, tmp_path: Path
) -> None:
    pixels = np.array(Image.open(photos / "003.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    sideways = np.ascontiguousarray(np.rot90(pixels, 1))
    (tmp_path / "in").mkdir()
    Image.fromarray(sideways).save(tmp_path / "in" / "phone.png", exif=exif)
    box = ",".join(map(str, box_of(samples, 3)))
    arguments = (tmp_path / "in", "-w", model, "--box", box, "-o")
    assert fpd(*arguments, tmp_path / "a").exit_code == 0
    turned_K2 = keypoints(results(tmp_path / "a")[0])[:, :2]
    assert_joints_agree(turned_K2, expected.joints_NK2[3])
    assert cv2.imread(str(tmp_path / "a" / "phone.png")).shape == pixels.shape
    assert fpd(*arguments, tmp_path / "b", "--as-stored").exit_code == 0
    assert not np.allclose(keypoints(results(tmp_path / "b")[0])[:, :2], turned_K2, atol=2)


# Problems with some images do not stop the others.


def test_broken_images_are_named_at_the_end(model: Path, photos: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(photos, tmp_path / "photos"))
    (folder / "001.png").write_bytes(b"no image")
    png = (folder / "005.png").read_bytes()
    cv2.imwrite(str(folder / "006b.jpg"), cv2.imread(str(folder / "006.png")))
    jpeg = (folder / "006b.jpg").read_bytes()
    (folder / "006b.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "005.png").write_bytes(png[:200])  # a whole header, and no pixels
    result = fpd(folder, "-w", model, "-o", tmp_path / "o")
    assert_refused(result, "001.png cannot be read as an image", "006b.jpg is a JPEG cut short")
    assert "predicted 6 people on 6 images" in result.output
    assert "3 inputs or boxes, named above" in result.output
    assert result.output.count("006b.jpg") == 1
    assert len(results(tmp_path / "o")) == 6


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ("900,10,20,20", "is outside the image of"),
        ("10,10,0,20", "is empty or tiny"),
        ("0,0,1e9,1e9", "far larger than the image"),
        ("nan,0,10,10", "expected --box X,Y,W,H in numbers"),
        ("1,2,3", "expected --box X,Y,W,H in numbers, found '1,2,3'"),
    ],
)
def test_boxes_that_cannot_be_cut_out(
    model: Path, photos: Path, tmp_path: Path, box: str, part: str
) -> None:
    result = fpd(photos / "000.png", "-w", model, "--box", box, "-o", tmp_path / "o")
    assert_refused(result, part)
    assert not (tmp_path / "o" / "predictions.json").exists()


def test_a_bad_box_among_good_ones(model: Path, photos: Path, tmp_path: Path) -> None:
    text = "image,x,y,w,h\n000.png,5,5,40,60\n000.png,5,5,0,60\n002.png,9999,5,40,60\n"
    (tmp_path / "boxes.csv").write_text(text)
    out = tmp_path / "o"
    result = fpd(photos, "-w", model, "--boxes", tmp_path / "boxes.csv", "-o", out)
    assert_refused(
        result, "000.png: box 5,5,0,60", "002.png: box 9999,5,40,60", "2 inputs or boxes"
    )
    assert [row["bbox"] for row in results(out)] == [[5, 5, 40, 60]]


# One message before anything is done


def test_wrong_arguments_are_named(model: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "000.png"
    assert_refused(fpd(tmp_path / "none.jpg", "-w", model), "none.jpg")
    assert_refused(fpd("-w", model), "found 0")
    assert_refused(
        fpd(photos, "-w", model, "--box", "1,2,30,40"), "--box is for one image, found 8"
    )
    both = ("--box", "1,2,30,40", "--boxes", photos / "boxes.json")
    assert_refused(fpd(image, "-w", model, *both), "found both --box and --boxes")
    assert_refused(fpd(image, "-w", model, "-o", photos), "the folder of the images", "-o")
    (tmp_path / "file").touch()
    refused = fpd(image, "-w", model, "-o", tmp_path / "file" / "o")
    assert_refused(refused, "the folder of predictions", "cannot be written to", "another with -o")
    assert_refused(fpd(image, "-w", model, "--name", "x"), "no finished model 'x'", "student")
    assert_refused(fpd(image, "-w", tmp_path / "w"), "finished: none", "fpd run student")
    (tmp_path / "other.json").write_text('[{"image": "x.png", "bbox": [1, 2, 3, 4]}]')
    other = ("--boxes", tmp_path / "other.json")
    assert_refused(fpd(photos, "-w", model, *other), "1 box", "'x.png'", "'000.png'")
    assert not (tmp_path / "w").exists()


def test_the_folder_of_a_model_without_a_name_is_inside_predictions(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model / "student", tmp_path / "mine" / "fast")
    (tmp_path / "mine" / "fast" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "mine" / "fast" / "here")
    for given in ("..", "../../fast"):
        result = fpd(photos / "000.png", "--model", given, "--no-draw")
        assert result.exit_code == 0, result.output
        assert results(Path("predictions") / "fast")
        shutil.rmtree("predictions")


def test_when_nothing_can_be_predicted_earlier_results_stay(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no image")
    out = tmp_path / "o"
    out.mkdir()
    (out / "predictions.json").write_text("[]")
    result = fpd(tmp_path / "a.jpg", "-w", model, "-o", out)
    assert_refused(result, "nothing could be predicted", "cannot be read as an image")
    assert (out / "predictions.json").read_text() == "[]"


def test_a_signal_keeps_what_was_predicted(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives while the first image is drawn."""

    def interrupted(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(photos_module, "IMAGES_PER_BATCH", 1)
    monkeypatch.setattr(photos_module, "write_image", interrupted)
    result = fpd(photos, "-w", model, "-o", tmp_path)
    assert result.exit_code == 130, result.output
    assert f"{tmp_path} has the joints of 1 person" in result.output
    assert len(results(tmp_path)) == 1


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(model: Path, photos: Path, tmp_path: Path) -> None:
    """On so many links to images that the signal arrives among them."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:05d}.png").symlink_to(photos / f"{number % 8:03d}.png")
    out = tmp_path / "o"
    arguments = [sys.executable, "-m", "fpd", "predict", str(folder), "-w", str(model)]
    process = subprocess.Popen(
        [*arguments, "-o", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("*.png")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert " has the joints of " in errors
    rows = results(out)
    assert 0 < len(rows) < 3000
    assert len(list(out.glob("*.png"))) == len(rows)
    assert [path.name for path in out.glob(".*")] == [".fpd.lock"]  # no temporary files


@pytest.mark.skipif(not COCO.is_dir(), reason=f"{COCO} is not there")
def test_real_photographs_with_cocos_own_file(model: Path, tmp_path: Path) -> None:
    file = COCO / "annotations" / "person_keypoints.json"
    annotations = json.loads(file.read_text())["annotations"]
    result = fpd(COCO / "images", "-w", model, "--boxes", file, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    rows = results(tmp_path)
    assert sorted(row["image_id"] for row in rows) == sorted(a["image_id"] for a in annotations)
    for row in rows:
        x, y, w, h = row["bbox"]
        side = BOX_MARGIN * max(w, h)
        reach = side / 2 + side / 16 + 1  # decoding may leave the map by a pixel of 16
        assert (np.abs(keypoints(row)[:, :2] - [x + w / 2, y + h / 2]) <= reach).all()
