"""An evaluation without training: synthetic samples, and predictions with a known error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fpd.data.datasets import load
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import apply_overrides
from fpd.pipeline.evaluation.inference import PredictedJoints
from fpd.pipeline.evaluation.pck import pck
from fpd.pipeline.evaluation.report.page import render
from fpd.pipeline.evaluation.report.scores import pck_fields

NOISE = {"teacher": 0.1, "labels-only": 0.3, "student": 0.2}
"""Standard deviation of each model's errors, in units of length."""


def make_samples(count: int = 40) -> SampleSet:
    overrides = ["data.reader=synthetic", f"data.synthetic.test={count}"]
    return load(apply_overrides({}, overrides).data, "test")


def make_predicted(
    samples: SampleSet, noise: dict[str, float] = NOISE
) -> dict[str, PredictedJoints]:
    random = np.random.default_rng(0)
    shape = samples.joints_NK2.shape
    return {
        name: PredictedJoints(
            samples.joints_NK2
            + deviation * samples.normalizer_N[:, None, None] * random.standard_normal(shape),
            random.random(shape[:2]),
        )
        for name, deviation in noise.items()
    }


def make_record(name: str, alpha: float | None) -> dict[str, Any]:
    training: dict[str, Any] = {"model": {"name": "hourglass", "stages": 1}, "seed": 7}
    inputs: dict[str, Any] = {"dataset": {"name": "figures/train", "samples": 99, "ids": "1d5"}}
    if alpha is not None:
        training["alpha"] = alpha
    if alpha:
        inputs |= {"teacher": {"sha256": "sha-of-teacher"}, "store": {"views": 3}}
    return {
        "model": training["model"],
        "geometry": {"crop_px": 64, "stride_px": 4},
        "identity": {"settings": {"training": training}, "inputs": inputs},
        "result": {"weights_sha256": f"sha-of-{name}", "seconds": 83.4, "epochs": 3},
        "device": "cpu",
    }


def make_report(samples: SampleSet, predicted: dict[str, PredictedJoints]) -> dict[str, Any]:
    rows = {}
    alphas = {"teacher": None, "labels-only": 0.0}
    for number, (name, model) in enumerate(predicted.items()):
        score = pck(model.joints_NK2, samples.joints_NK2, samples.normalizer_N, samples.skeleton)
        rows[name] = pck_fields(score, samples.skeleton) | {
            "samples": len(samples),
            "parameters": 60_000 * (number + 1),
            "gmacs": 0.1 / (number + 1),
            "ms_per_image": 3.0 + number,
            "record": make_record(name, alphas.get(name, 0.5)),
        }
    store = {
        "views": 3,
        "samples": 99,
        "bytes": 30_000,
        "float16_bytes": 300_000,
        "teacher_passes": 594,
        "teacher_passes_online": 891,
        "distilled_students": 1,
        "manifest": {"max_error": 0.1, "seed": 5, "teacher": {"sha256": "sha-of-teacher"}},
    }
    return {
        "dataset": samples.fingerprint(),
        "models": rows,
        "evaluation": {"flip_test": False, "scales": [1.0]},
        "store": store,
        "device": "cpu",
        "versions": {"fpd": "0"},
    }


def make_history(epochs: int = 3) -> list[dict[str, Any]]:
    return [
        {"epoch": n, "loss": 4.5 / n, "validation_pck": 0.1 * n, "learning_rate": 0.001 / n}
        for n in range(1, epochs + 1)
    ]


@pytest.fixture(scope="session")
def samples() -> SampleSet:
    return make_samples()


@pytest.fixture(scope="session")
def predicted(samples: SampleSet) -> dict[str, PredictedJoints]:
    return make_predicted(samples)


@pytest.fixture(scope="session")
def report(samples: SampleSet, predicted: dict[str, PredictedJoints]) -> dict[str, Any]:
    return make_report(samples, predicted)


@pytest.fixture(scope="session")
def page(report: dict[str, Any], samples: SampleSet, predicted: dict[str, PredictedJoints]) -> str:
    return render(report, samples, predicted, {name: make_history() for name in predicted})


@pytest.fixture(scope="session")
def build() -> Callable[..., str]:
    """Render a page of synthetic samples, with changes by keyword."""

    def render_page(
        count: int = 40,
        noise: dict[str, float] = NOISE,
        rename_id: Callable[[str], str] = str,
        change: Callable[[dict[str, Any]], None] = lambda report: None,
        labeled: bool = True,
        joints: tuple[str, ...] = (),
    ) -> str:
        samples = make_samples(count)
        samples = replace(samples, ids=tuple(map(rename_id, samples.ids)))
        names = (*joints, *samples.skeleton.joints[len(joints) :])
        samples = replace(samples, skeleton=replace(samples.skeleton, joints=names))
        predicted = make_predicted(samples, noise)
        report = make_report(samples, predicted)
        change(report)
        if not labeled:
            samples = replace(samples, joints_NK2=np.full_like(samples.joints_NK2, np.nan))
        histories = {name: make_history() for name in predicted}
        return render(report, samples, predicted, histories)

    return render_page
