"""Beside the stages: score predictions in COCO's results format by COCO's own evaluator.

    fpd evaluate --predictions results.json --ground-truth person_keypoints_val2017.json

In: two files. Out: a table, and the same in full precision. docs/scores.md has the conventions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.readers import coco
from ..pipeline import oks
from ..pipeline.report.scores import align, percent
from ..pipeline.workdir import check_output, sha256, write_json


def is_coco(ground_truth: Path) -> bool:
    """Whether a file of labels is for this stage: MPII's and LSP's are .mat files."""
    return ground_truth.suffix.lower() == ".json"


def run(
    predictions: Path,
    ground_truth: Path,
    settings: coco.Coco | None = None,
    json_path: Path | None = None,
) -> dict[str, Any]:
    """Score a file of predictions.

    Args:
        settings: the category, and the sigmas of a skeleton that isn't COCO's.
        json_path: where to write what is returned.

    Returns:
        "oks" (see `oks.score`), how many people were labelled and predicted, and the two files.

    Raises:
        ValueError: a file cannot be used, the skeleton has no sigmas, pycocotools is missing, or
            there is nowhere to write to.
    """
    settings = settings or coco.Coco()
    check_output(json_path, (predictions, ground_truth))
    dataset = coco.read(ground_truth)
    category, skeleton = coco.choose(ground_truth, dataset, settings)
    if not skeleton.sigmas:
        raise ValueError(
            f"{ground_truth}: {skeleton.name} has {skeleton.num_joints} joints of its own: OKS "
            "needs a tolerance for each, --sigmas 0.05,0.05,..."
        )
    images = {image.get("id") for image in dataset["images"]}
    found = oks.read_results(predictions, skeleton.num_joints, images, category["id"])
    people = [a for a in dataset["annotations"] if a.get("category_id") == category["id"]]
    report = {
        "metric": "OKS",
        "oks": oks.score(ground_truth, dataset, category["id"], found, skeleton.sigmas),
        "people": len(people),
        "people_predicted": len(found),
        "skeleton": skeleton.name,
        "sigmas": list(skeleton.sigmas),
        "predictions": {"path": str(predictions), "sha256": sha256(predictions)},
        "ground_truth": {"path": str(ground_truth), "sha256": sha256(ground_truth)},
    }
    if json_path is not None:
        write_json(json_path, report)
    return report


def describe(report: dict[str, Any]) -> str:
    """The scores in percent."""
    name = Path(report["predictions"]["path"]).name
    row = [name, *(percent(report["oks"][key]) for key in oks.STATISTICS)]
    return "\n".join(
        [
            f"OKS in percent, {report['people_predicted']} predictions of {report['people']} "
            f"labelled {report['skeleton']}s",
            align([["", *oks.STATISTICS], row]),
        ]
    )
