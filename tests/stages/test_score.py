"""`fpd evaluate --predictions`: other tools' joints by the field's books, and one-line refusals."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fpd.cli import main
from fpd.data.readers.mpii import GROUND_TRUTH_JOINTS
from fpd.stages import score as scoring

PEOPLE = 6
Array = NDArray[np.float64]


def mpii_content() -> dict[str, Any]:
    """Six people, one of them without a head box, a tenth of their joints missing."""
    rng = np.random.default_rng(3)
    names = np.empty((1, 16), object)
    names[0, :] = GROUND_TRUTH_JOINTS
    heads = np.stack([np.full((2, PEOPLE), 50.0), 50 + rng.uniform(20, 60, (2, PEOPLE))])
    heads[1, :, 4] = heads[0, :, 4]
    return {
        "dataset_joints": names,
        "jnt_missing": (rng.random((16, PEOPLE)) < 0.1).astype(np.uint8),
        "pos_gt_src": rng.uniform(-3, 400, (16, 2, PEOPLE)),
        "headboxes_src": heads,
    }


def one_based_predictions() -> Array:
    """N x K x 2, some pixels off; one joint that counts is NaN."""
    rng = np.random.default_rng(4)
    exact = mpii_content()["pos_gt_src"].transpose(2, 0, 1)
    predicted: Array = exact + rng.normal(0, 12, exact.shape)
    pluralize = np.argwhere(mpii_content()["jnt_missing"].T[0, :6] == 0)[0, 0]
    predicted[0, pluralize] = np.nan
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
    """PCKh from the arrays as shipped, in plain loops; see HRNet's lib/dataset/mpii.py."""
    content, predicted = mpii_content(), one_based_predictions()
    shares: dict[int, float] = {}
    counts: dict[int, int] = {}
    for k in range(16):
        right = count = 0
        for n in range(PEOPLE):
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
def test_mpii_scores_are_hrnets(truth: Path, predictions: Path, tau: float | None) -> None:
    report = scoring.run(predictions, truth, tau)
    for key, value in hrnet_by_loops(0.5 if tau is None else tau).items():
        assert report[key] == pytest.approx(value, rel=1e-12), key
    assert report["metric"] == ("PCKh@0.5" if tau is None else "PCKh@0.1")
    assert report["tau"] == (0.5 if tau is None else 0.1)
    assert report["per_joint"]["pelvis"] is None and report["counts"]["thorax"] == 0
    assert (report["people"], report["people_without_unit"], report["not_finite"]) == (6, 1, 1)
    assert len(report["curve"]["pck"]) == 51
    # The area is HRNet's pckAll summed by trapezia.
    curve = [hrnet_by_loops(0.01 * step)["mean"] for step in range(51)]
    assert report["auc"] == pytest.approx((sum(curve) - (curve[0] + curve[-1]) / 2) / 50)


@pytest.mark.parametrize("name", ["p.npy", "p.npz", "p.mat", "p.json"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("zero_based", [None, False, True])
def test_every_form_of_the_same_predictions_scores_the_same(
    truth: Path, predictions: Path, tmp_path: Path, name: str, axes: tuple[int, ...], zero_based
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
    usual, found = scoring.run(predictions, truth), scoring.run(path, truth, zero_based=zero_based)
    for key in ("mean", "mean_unweighted", "auc", "per_joint", "groups", "counts", "not_finite"):
        assert found[key] == usual[key], key
    assert found["predictions"]["first_pixel"] == (0 if zero_based else 1)


def test_the_other_base_is_another_score(truth: Path, tmp_path: Path) -> None:
    exact = mpii_content()["pos_gt_src"]
    heads = mpii_content()["headboxes_src"]
    heads[1] = heads[0] + [[1.0], [1.0]]  # a unit of 0.85 pixels: 1.41 pixels off is too far
    scipy.io.savemat(truth, mpii_content() | {"headboxes_src": heads})
    np.save(tmp_path / "p.npy", exact)
    assert scoring.run(tmp_path / "p.npy", truth)["mean"] == 1.0
    assert scoring.run(tmp_path / "p.npy", truth, zero_based=False)["mean"] == 1.0
    assert scoring.run(tmp_path / "p.npy", truth, zero_based=True)["mean"] == 0.0


def lsp_files(tmp_path: Path) -> tuple[Path, Array]:
    """LSP's joints.mat with random joints, and predictions of all 2000 that err on training."""
    rng = np.random.default_rng(5)
    labels = rng.uniform(1, 150, (3, 14, 2000))
    scipy.io.savemat(tmp_path / "joints.mat", {"joints": labels})
    predicted = labels[:2].transpose(2, 1, 0).copy()
    predicted[:1000] += 1000
    predicted[[1210, 1435, 1804]] += 1000  # in the training set: they must not count either
    predicted[1000:1500, 0, 0] += 1000
    return tmp_path / "joints.mat", predicted


@pytest.mark.parametrize("count", [2000, 1000, 997])
def test_lsp_scores_the_same_people_whoever_was_predicted(tmp_path: Path, count: int) -> None:
    truth, everyone = lsp_files(tmp_path)
    rows = np.arange(2000)[-1000:] if count != 2000 else np.arange(2000)
    if count == 997:
        rows = np.setdiff1d(rows, [1210, 1435, 1804])
    np.save(tmp_path / "p.npy", everyone[rows])
    report = scoring.run(tmp_path / "p.npy", truth)
    assert (report["metric"], report["people"]) == ("PCK@0.2", 997)
    wrong = 498 / 997  # images 1001 to 1500 without 1211 and 1436
    assert report["per_joint"]["right ankle"] == pytest.approx(1 - wrong)
    assert report["mean"] == pytest.approx(1 - wrong / 14)
    assert len(report["curve"]["pck"]) == 21


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_the_table_has_groups_joints_and_what_was_wrong(truth: Path, predictions: Path) -> None:
    result = fpd("--predictions", predictions, "--ground-truth", truth)
    assert result.exit_code == 0, result.output
    expected = hrnet_by_loops(0.5)
    title, header, row, *rest = result.output.splitlines()
    assert title == "PCKh@0.5 in percent, 6 people: all 6 of MPII's file"
    assert header.split()[-3:] == ["mean", "unweighted", "AUC"]
    shares = [*expected["groups"].values(), expected["mean"], expected["mean_unweighted"]]
    assert row.split()[:-1] == ["pred.mat", *(f"{100 * share:.1f}" for share in shares)]
    text = "\n".join(rest)
    assert "mean: weighted by joint count; unweighted: " in text
    assert re.search(r"^pelvis +- +0$", text, re.MULTILINE)
    assert re.search(r"^left wrist +\d+\.\d +\d$", text, re.MULTILINE)
    assert "predictions: N x K x 2, first pixel at 1" in text
    assert "1 person without a unit of length" in text
    assert f"1 of {expected['joints']} predicted joints NaN or infinite" in text


def test_the_json_is_in_full_precision(truth: Path, predictions: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    options = ["--predictions", predictions, "--ground-truth", truth, "--tau", "0.1"]
    result = fpd(*options, "--json", out)
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text()) == scoring.run(predictions, truth, 0.1)
    assert result.output.endswith(f"written to {out}\n")
    assert not list(tmp_path.glob(".*.tmp"))


def assert_refused(result: Result, sentence: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ") and result.output.count("\n") == 1
    assert sentence in result.output


def test_what_goes_together(truth: Path, predictions: Path, tmp_path: Path) -> None:
    both = ["--predictions", predictions, "--ground-truth", truth]
    together = "--predictions and --ground-truth go together"
    assert_refused(fpd("--predictions", predictions), together)
    assert_refused(fpd("--ground-truth", truth), together)
    assert_refused(fpd("--json", tmp_path / "o.json"), "go with --predictions")
    assert_refused(fpd("--zero-based"), "go with --predictions")
    assert_refused(fpd(*both, "-w", tmp_path), "--predictions are scored without --work")
    assert_refused(fpd(*both, "--set", "store.views=1"), "scored without --set")


def test_nowhere_to_write_is_said_first(truth: Path, predictions: Path, tmp_path: Path) -> None:
    both = ["--predictions", predictions, "--ground-truth", truth]
    assert_refused(fpd(*both, "--json", tmp_path / "no" / "o.json"), "found none")
    before = predictions.read_bytes()
    assert_refused(fpd(*both, "--json", predictions), "is one of the files to read")
    assert predictions.read_bytes() == before


def test_files_that_do_not_fit_are_one_sentence(truth: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.zeros((5, 16, 2)))
    result = fpd("--predictions", tmp_path / "p.npy", "--ground-truth", truth)
    assert_refused(result, "N being 6, found none that fits among: 5 x 16 x 2")
    result = fpd("--predictions", tmp_path / "none.npy", "--ground-truth", truth)
    assert_refused(result, "none.npy cannot be read as a .npy file (No such file or directory)")
    (tmp_path / "p.mat").write_bytes(b"nonsense")
    result = fpd("--predictions", tmp_path / "p.mat", "--ground-truth", truth)
    assert_refused(result, "p.mat cannot be read: ")
    result = fpd("--predictions", tmp_path / "p.npy", "--ground-truth", tmp_path / "p.npy")
    assert_refused(result, "expected MPII's gt_valid.mat")


def test_people_of_whom_nothing_counts_are_one_sentence(tmp_path: Path, predictions: Path) -> None:
    missing = np.ones((16, PEOPLE))
    scipy.io.savemat(tmp_path / "gt.mat", mpii_content() | {"jnt_missing": missing})
    result = fpd("--predictions", predictions, "--ground-truth", tmp_path / "gt.mat")
    assert_refused(result, "no labeled joint to score")


def test_it_runs_in_an_empty_folder(truth: Path, predictions: Path, tmp_path: Path) -> None:
    """No work directory is needed, and none is made."""
    place = tmp_path / "empty"
    place.mkdir()
    words = ["evaluate", "--predictions", predictions, "--ground-truth", truth]
    done = subprocess.run(
        [sys.executable, "-m", "fpd", *map(str, words)],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "PCKh@0.5" in done.stdout
    assert not list(place.iterdir())
