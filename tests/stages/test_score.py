"""`fpd evaluate --predictions`: PCK and OKS of prediction files, and refusals in one line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image

from fpd.cli import main
from fpd.commands.summaries.evaluate import describe
from fpd.data.datasets import load
from fpd.data.readers.mpii import GROUND_TRUTH_JOINTS
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.evaluation import oks
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, score, teacher

COUNT = 6
Array = NDArray[np.float64]


def mpii_content() -> dict[str, Any]:
    """Six samples: one has no head box, and a tenth of all joints are missing."""
    rng = np.random.default_rng(3)
    names = np.empty((1, 16), object)
    names[0, :] = GROUND_TRUTH_JOINTS
    heads = np.stack([np.full((2, COUNT), 50.0), 50 + rng.uniform(20, 60, (2, COUNT))])
    heads[1, :, 4] = heads[0, :, 4]
    return {
        "dataset_joints": names,
        "jnt_missing": (rng.random((16, COUNT)) < 0.1).astype(np.uint8),
        "pos_gt_src": rng.uniform(-3, 400, (16, 2, COUNT)),
        "headboxes_src": heads,
    }


def one_based_predictions() -> Array:
    """N x K x 2, some pixels off the labels; one joint that counts is NaN."""
    rng = np.random.default_rng(4)
    exact = mpii_content()["pos_gt_src"].transpose(2, 0, 1)
    predicted: Array = exact + rng.normal(0, 12, exact.shape)
    labeled_joint = np.argwhere(mpii_content()["jnt_missing"].T[0, :6] == 0)[0, 0]
    predicted[0, labeled_joint] = np.nan
    return predicted


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    scipy.io.savemat(tmp_path / "gt_valid.mat", mpii_content())
    return tmp_path / "gt_valid.mat"


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    scipy.io.savemat(tmp_path / "pred.mat", {"preds": one_based_predictions()})
    return tmp_path / "pred.mat"


def hrnet_by_loops(tau: float) -> dict[str, Any]:
    """PCKh from the arrays as shipped, in loops, as in HRNet's lib/dataset/mpii.py."""
    content, predicted = mpii_content(), one_based_predictions()
    shares: dict[int, float] = {}
    counts: dict[int, int] = {}
    for k in range(16):
        right = count = 0
        for n in range(COUNT):
            (x1, y1), (x2, y2) = content["headboxes_src"][:, :, n]
            head = 0.6 * math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)
            if content["jnt_missing"][k, n] or not head:
                continue
            dx = predicted[n, k, 0] - content["pos_gt_src"][k, 0, n]
            dy = predicted[n, k, 1] - content["pos_gt_src"][k, 1, n]
            count += 1
            right += bool(math.sqrt(dx * dx + dy * dy) / head <= tau)
        if k not in (6, 7):
            shares[k], counts[k] = right / count, count
    total = sum(counts.values())
    return {
        "mean": sum(shares[k] * counts[k] / total for k in shares),
        "mean_unweighted": sum(shares.values()) / len(shares),
        "groups": {
            "head": shares[9],
            "shoulder": 0.5 * (shares[13] + shares[12]),
            "elbow": 0.5 * (shares[14] + shares[11]),
            "wrist": 0.5 * (shares[15] + shares[10]),
            "hip": 0.5 * (shares[3] + shares[2]),
            "knee": 0.5 * (shares[4] + shares[1]),
            "ankle": 0.5 * (shares[5] + shares[0]),
        },
        "joints": total,
    }


@pytest.mark.parametrize("tau", [None, 0.1])
def test_mpii_scores_equal_hrnets(truth: Path, predictions: Path, tau: float | None) -> None:
    report = score.run(predictions, truth, tau=tau)
    for key, value in hrnet_by_loops(0.5 if tau is None else tau).items():
        assert report[key] == pytest.approx(value, rel=1e-12), key
    assert report["metric"] == ("PCKh@0.5" if tau is None else "PCKh@0.1")
    assert report["tau"] == (0.5 if tau is None else 0.1)
    assert report["per_joint"]["pelvis"] is None and report["counts"]["thorax"] == 0
    assert (report["samples"], report["samples_without_unit"], report["not_finite"]) == (6, 1, 1)
    assert len(report["curve"]["pck"]) == 51
    # HRNet's pckAll, integrated by the trapezoidal rule.
    curve = [hrnet_by_loops(0.01 * step)["mean"] for step in range(51)]
    assert report["auc"] == pytest.approx((sum(curve) - (curve[0] + curve[-1]) / 2) / 50)


@pytest.mark.parametrize(
    ("name", "axes", "zero_based"),
    [
        ("p.npy", (0, 1, 2), None),
        ("p.npz", (1, 2, 0), False),
        ("p.mat", (1, 2, 0), True),
        ("p.json", (0, 1, 2), True),
    ],
)
def test_the_same_predictions_in_any_form_have_the_same_score(
    truth: Path,
    predictions: Path,
    tmp_path: Path,
    name: str,
    axes: tuple[int, ...],
    zero_based: bool | None,
) -> None:
    path = tmp_path / name
    array = (one_based_predictions() - (zero_based is True)).transpose(axes)
    if name == "p.npy":
        np.save(path, array)
    elif name == "p.npz":
        np.savez(path, preds=array)
    elif name == "p.mat":
        scipy.io.savemat(path, {"preds": array})
    else:
        path.write_text(json.dumps({"joints": array.tolist()}))
    expected = score.run(predictions, truth)
    report = score.run(path, truth, zero_based=zero_based)
    for key in ("mean", "mean_unweighted", "auc", "per_joint", "groups", "counts", "not_finite"):
        assert report[key] == pytest.approx(expected[key]), key
    assert report["predictions"]["first_pixel"] == (0 if zero_based else 1)


def test_the_coordinate_base_changes_the_score(truth: Path, tmp_path: Path) -> None:
    exact = mpii_content()["pos_gt_src"]
    heads = mpii_content()["headboxes_src"]
    heads[1] = heads[0] + [[1.0], [1.0]]  # the unit is 0.85 pixels, the shift 1.41
    scipy.io.savemat(truth, mpii_content() | {"headboxes_src": heads})
    np.save(tmp_path / "p.npy", exact)
    assert score.run(tmp_path / "p.npy", truth)["mean"] == 1.0
    assert score.run(tmp_path / "p.npy", truth, zero_based=False)["mean"] == 1.0
    assert score.run(tmp_path / "p.npy", truth, zero_based=True)["mean"] == 0.0


def lsp_files(tmp_path: Path) -> tuple[Path, Array]:
    """LSP's joints.mat with random joints, and predictions that are wrong for training images."""
    rng = np.random.default_rng(5)
    labels = rng.uniform(1, 150, (3, 14, 2000))
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": labels})
    predicted = labels[:2].transpose(2, 1, 0).copy()
    predicted[:1000] += 1000
    predicted[[1210, 1435, 1804]] += 1000  # also training images
    predicted[1000:1500, 0, 0] += 1000
    return tmp_path / "joints.mat", predicted


@pytest.mark.parametrize("count", [2000, 1000, 997])
def test_lsp_scores_the_same_samples_whatever_was_predicted(tmp_path: Path, count: int) -> None:
    truth, predicted = lsp_files(tmp_path)
    rows = np.arange(2000)[-1000:] if count != 2000 else np.arange(2000)
    if count == 997:
        rows = np.setdiff1d(rows, [1210, 1435, 1804])
    np.save(tmp_path / "p.npy", predicted[rows])
    report = score.run(tmp_path / "p.npy", truth)
    assert (report["metric"], report["samples"]) == ("PCK@0.2", 997)
    wrong = 498 / 997  # images 1001 to 1500 without 1211 and 1436
    assert report["per_joint"]["right ankle"] == pytest.approx(1 - wrong)
    assert report["mean"] == pytest.approx(1 - wrong / 14)
    assert len(report["curve"]["pck"]) == 21


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_the_table_has_groups_joints_and_notes(truth: Path, predictions: Path) -> None:
    result = fpd("--predictions", predictions, "--ground-truth", truth)
    assert result.exit_code == 0, result.output
    expected = hrnet_by_loops(0.5)
    title, header, row, *rest = result.output.splitlines()
    assert title == "PCKh@0.5 in percent, 6 samples: all 6 of MPII's file"
    assert header.split()[-3:] == ["mean", "unweighted", "AUC"]
    shares = [*expected["groups"].values(), expected["mean"], expected["mean_unweighted"]]
    assert row.split()[:-1] == ["pred.mat", *(f"{100 * share:.1f}" for share in shares)]
    text = "\n".join(rest)
    assert re.search(r"^pelvis +- +0$", text, re.MULTILINE)
    assert re.search(r"^left wrist +\d+\.\d +\d$", text, re.MULTILINE)
    assert "predictions: N x K x 2, first pixel at 1" in text
    assert "1 sample without a unit of length" in text
    assert f"1 of {expected['joints']} predicted joints NaN or infinite" in text


def test_the_json_is_in_full_precision(truth: Path, predictions: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    options = ["--predictions", predictions, "--ground-truth", truth, "--tau", "0.1"]
    result = fpd(*options, "--json", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text()) == score.run(predictions, truth, tau=0.1)
    assert result.output.endswith(f"written to {out}\n")


def assert_refused(result: Result, text: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert text in result.output


def test_options_that_do_not_go_together_are_refused(
    truth: Path, predictions: Path, tmp_path: Path
) -> None:
    both = ["--predictions", predictions, "--ground-truth", truth]
    assert_refused(fpd("--predictions", predictions), "found no --ground-truth")
    assert_refused(fpd("--ground-truth", truth), "found no --predictions")
    assert_refused(fpd("--json", tmp_path / "o.json"), "--predictions")
    assert_refused(fpd("--zero-based"), "--predictions")
    assert_refused(fpd(*both, "-w", tmp_path), "--work")
    assert_refused(fpd(*both, "--set", "store.views=1"), "--set")


def test_unwritable_outputs_are_refused(truth: Path, predictions: Path, tmp_path: Path) -> None:
    both = ["--predictions", predictions, "--ground-truth", truth]
    assert_refused(fpd(*both, "--json", tmp_path / "no" / "o.json"), "o.json")
    before = predictions.read_bytes()
    assert_refused(fpd(*both, "--json", predictions), "is one of the files to read")
    assert predictions.read_bytes() == before


def test_unreadable_and_unfitting_files_are_refused(truth: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.zeros((5, 16, 2)))
    result = fpd("--predictions", tmp_path / "p.npy", "--ground-truth", truth)
    assert_refused(result, "N being 6, found none that fits among: 5 x 16 x 2")
    result = fpd("--predictions", tmp_path / "none.npy", "--ground-truth", truth)
    assert_refused(result, "none.npy")
    (tmp_path / "p.mat").write_bytes(b"nonsense")
    result = fpd("--predictions", tmp_path / "p.mat", "--ground-truth", truth)
    assert_refused(result, "p.mat")
    result = fpd("--predictions", tmp_path / "p.npy", "--ground-truth", tmp_path / "p.npy")
    assert_refused(result, "expected MPII's gt_valid.mat")


def test_ground_truth_without_labels_is_refused(tmp_path: Path, predictions: Path) -> None:
    missing = np.ones((16, COUNT))
    scipy.io.savemat(tmp_path / "gt.mat", mpii_content() | {"jnt_missing": missing})
    result = fpd("--predictions", predictions, "--ground-truth", tmp_path / "gt.mat")
    assert_refused(result, "no labeled joint to score")


def test_no_work_directory_is_needed_or_made(
    truth: Path, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    result = fpd("--predictions", predictions, "--ground-truth", truth)
    assert result.exit_code == 0 and "PCKh@0.5" in result.output
    assert not list(empty.iterdir())


# OKS, of files in COCO's format

needs_pycocotools = pytest.mark.skipif(not oks.available(), reason="pycocotools is not installed")

WINGS = ["head", "left wing", "right wing"]
SIGMAS = ["--sigmas", "0.05,0.05,0.1"]


@pytest.fixture
def coco_labels() -> dict[str, Any]:
    """Two annotations of a category with joints of its own."""
    annotations = [
        {
            "id": number,
            "image_id": number,
            "category_id": 2,
            "bbox": [0, 0, 100, 100],
            "area": 10000,
            "keypoints": [10, 10, 2, 50, 60, 2, 70, 80, 1],
        }
        for number in (1, 2)
    ]
    return {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2)],
        "categories": [{"id": 2, "name": "fly", "keypoints": WINGS}],
        "annotations": annotations,
    }


@pytest.fixture
def coco_predictions(coco_labels: dict[str, Any]) -> list[dict[str, Any]]:
    """One correct and one wrong prediction, in COCO's results format."""
    correct, wrong = (
        {"image_id": number, "category_id": 2, "keypoints": keypoints, "score": 0.5}
        for number, keypoints in [
            (1, coco_labels["annotations"][0]["keypoints"]),
            (2, [500, 500, 1] * 3),
        ]
    )
    return [correct, wrong]


@pytest.fixture
def coco_score(
    tmp_path: Path, coco_labels: dict[str, Any], coco_predictions: list[dict[str, Any]]
) -> Callable[..., Result]:
    """Write both files and score them, with options of the command line."""

    def run(*options: str | Path) -> Result:
        truth, predictions = tmp_path / "labels.json", tmp_path / "results.json"
        truth.write_text(json.dumps(coco_labels))
        predictions.write_text(json.dumps(coco_predictions))
        return fpd("--predictions", predictions, "--ground-truth", truth, *options)

    return run


@needs_pycocotools
def test_oks_is_printed_and_written(tmp_path: Path, coco_score: Callable[..., Result]) -> None:
    out = tmp_path / "scores.json"
    result = coco_score(*SIGMAS, "--json", out)
    assert result.exit_code == 0, result.output
    assert "OKS in percent, 2 predictions of 2 samples (fly)" in result.output
    report = json.loads(out.read_text())
    assert report["oks"]["AR"] == pytest.approx(0.5)
    assert report["oks"]["AP"] == pytest.approx(51 / 101)  # recall 0.5 of 0, 0.01 ... 1
    assert report["sigmas"] == [0.05, 0.05, 0.1]
    assert f"{100 * 51 / 101:.1f}" in result.output


def test_other_skeletons_than_cocos_need_sigmas(coco_score: Callable[..., Result]) -> None:
    assert_refused(coco_score(), "--sigmas 0.05,0.05,...")
    assert_refused(coco_score("--sigmas", "0.05"), "expected 3 numbers")
    assert_refused(coco_score("--sigmas", "0.05,a,0.1"), "data.coco.sigmas")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 9}, "prediction 2: expected an image_id"),
        ({"image_id": [1]}, "prediction 2: expected an image_id"),
        ({"keypoints": [1, 2, 3]}, "expected 'keypoints' of 9"),
        ({"score": None}, "expected 'score'"),
    ],
)
def test_malformed_coco_predictions_are_refused(
    coco_score: Callable[..., Result],
    coco_predictions: list[dict[str, Any]],
    changes: dict[str, Any],
    message: str,
) -> None:
    coco_predictions[1] |= changes
    assert_refused(coco_score(*SIGMAS), message)


def test_what_does_not_count_is_told(
    coco_score: Callable[..., Result],
    coco_labels: dict[str, Any],
    coco_predictions: list[dict[str, Any]],
) -> None:
    coco_labels["categories"].append({"id": 3, "name": "leaf"})
    coco_labels["annotations"][1] |= {"keypoints": [], "iscrowd": "0"}
    coco_predictions.append(coco_predictions[0] | {"category_id": "3", "keypoints": []})
    coco_predictions[1] |= {"image_id": "2", "score": "0.5"}
    keypoints = coco_predictions[0]["keypoints"]
    for row in coco_predictions[:2]:
        row["keypoints"] = [list(map(str, row["keypoints"][i : i + 3])) for i in (0, 3, 6)]
    result = coco_score(*SIGMAS)
    assert "OKS in percent, 2 predictions of 2 samples (fly)" in result.output
    assert "1 sample ignored: " in result.output
    assert "1 prediction of other categories left out" in result.output
    assert re.search(r"results.json +100\.0 ", result.output)
    coco_predictions[:] = coco_predictions[2:]
    assert_refused(coco_score(*SIGMAS), "of fly (category 2), found 1 of other categories only")
    coco_predictions[0] |= {"category_id": 9, "keypoints": keypoints}
    assert_refused(
        coco_score(*SIGMAS), "prediction 1: expected a category_id of the ground truth's"
    )


def test_results_beside_their_joints_names_are_matched_by_name(
    tmp_path: Path,
    coco_score: Callable[..., Result],
    coco_predictions: list[dict[str, Any]],
) -> None:
    """As `fpd predict` writes them; without the names, the same file would score 0."""
    for row in coco_predictions:
        row["keypoints"] = np.reshape(row["keypoints"], (3, 3))[[2, 0, 1]].ravel().tolist()
    before = coco_score(*SIGMAS, "--json", tmp_path / "before.json")
    assert before.exit_code == 0
    assert json.loads((tmp_path / "before.json").read_text())["oks"]["AR"] == 0
    names = tmp_path / "joints.json"
    names.write_text(json.dumps({"joints": ["RightWing", "Head", "LeftWing"]}))
    result = coco_score(*SIGMAS, "--json", tmp_path / "after.json")
    assert "joints matched by name" in result.output
    assert json.loads((tmp_path / "after.json").read_text())["oks"]["AR"] == pytest.approx(0.5)
    names.write_text(json.dumps({"joints": ["RightWing", "Head", "tail"]}))
    assert_refused(coco_score(*SIGMAS), "(fly) alone has left wing; ")


def test_options_of_pck_and_oks_are_not_mixed(
    truth: Path, predictions: Path, coco_score: Callable[..., Result]
) -> None:
    assert_refused(coco_score("--tau", "0.1", *SIGMAS), "--tau")
    result = fpd("--predictions", predictions, "--ground-truth", truth, "--sigmas", "1")
    assert_refused(result, "--sigmas")
    assert_refused(fpd("--category", "fly"), "--predictions")


def test_predictions_of_pck_and_oks_are_not_confused(
    truth: Path, predictions: Path, tmp_path: Path, coco_labels: dict[str, Any]
) -> None:
    labels, results = tmp_path / "labels.json", tmp_path / "results.json"
    labels.write_text(json.dumps(coco_labels))
    results.write_text(json.dumps([{"image_id": 1}]))
    result = fpd("--predictions", predictions, "--ground-truth", labels)
    assert_refused(result, "expected a .json file in COCO's results format")
    result = fpd("--predictions", results, "--ground-truth", truth)
    assert_refused(result, "found one of objects, as in COCO's results format")


def write_coco_dataset(root: Path, samples: SampleSet) -> None:
    """Write samples as a data set in COCO's format, with a category other than person."""
    (root / "coco" / "images").mkdir(parents=True)
    (root / "coco" / "annotations").mkdir()
    images, annotations = [], []
    for index in range(len(samples)):
        sample = samples[index]
        pixels, _ = samples.images.read(sample.image, 1.0)
        Image.fromarray(pixels).save(root / "coco" / "images" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png"})
        labeled_K = ~np.isnan(sample.joints_K2[:, 0])
        keypoints_K3 = np.column_stack([np.nan_to_num(sample.joints_K2), 2 * labeled_K])
        keypoints_K3[~labeled_K] = 0
        side = sample.side_px / 1.25  # the reader enlarges boxes by this margin
        corner = [float(center + 0.5 - side / 2) for center in sample.center_2]
        annotations.append(
            {
                "id": index,
                "image_id": index,
                "category_id": 1,
                "area": side * side,
                "bbox": [*corner, side, side],
                "keypoints": keypoints_K3.ravel().tolist(),
            }
        )
    category = {"id": 1, "name": "fly", "keypoints": list(samples.skeleton.joints)}
    dataset = {"images": images, "categories": [category], "annotations": annotations}
    (root / "coco" / "annotations" / "all.json").write_text(json.dumps(dataset))


@needs_pycocotools
def test_a_work_directory_with_coco_data(
    tmp_path: Path, toy_recipe: Recipe, toy_samples: SampleSet
) -> None:
    written = toy_samples.take(list(range(8)))
    write_coco_dataset(tmp_path, written)
    settings = {
        "data.reader": "coco",
        "data.root": tmp_path,
        "data.coco.train": "all.json",
        "data.coco.test": "all.json",
        "data.coco.train_images": "images",
        "data.coco.test_images": "images",
        "data.coco.sigmas": [0.5] * 14,
        "data.validation": 0.3,
        "teacher.epochs": 1,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    recipe = apply_overrides(toy_recipe.model_dump(mode="json"), overrides)
    samples = load(recipe.data, "test")
    assert samples.joints_NK2 == pytest.approx(written.joints_NK2, nan_ok=True)
    assert samples.center_N2 == pytest.approx(written.center_N2)
    assert samples.skeleton.flip_indices == written.skeleton.flip_indices
    work = WorkDir(tmp_path / "work")
    work.create()
    teacher.run(work, recipe, torch.device("cpu"))
    report = evaluate.run(work, recipe, torch.device("cpu"))
    row = report["models"]["teacher"]
    assert row["metric"] == "PCK(box)@0.2"
    assert 0 <= row["oks"]["AP"] <= row["oks"]["AP50"] <= 1 and row["oks"]["AP50"] > 0
    assert "AP75" in describe(report)
