"""Published costs and scores, which the report shows beside the models."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A published result, for the chart of cost and accuracy.

    Attributes:
        name: of the model.
        gflops: as published; two floating-point operations per multiply-accumulate.
        million_parameters: as published.
        score: percent.
        measured_on: data set and metric.
        marker: matplotlib's marker.
    """

    name: str
    gflops: float
    million_parameters: float
    score: float
    measured_on: str
    marker: str

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates, 10^9."""
        return self.gflops / 2


_VALIDATION = "MPII validation, PCKh@0.5"
PUBLISHED = (
    Published("FPD, 4 x 128", 9, 3, 91.1, "MPII test, PCKh@0.5", "o"),
    Published("FPD, 4 x 128", 9, 3, 90.8, "LSP test, PCK@0.2", "s"),
    Published("hourglass, 8 x 256", 55, 26, 90.5, _VALIDATION, "^"),
)
"""Costs and scores on test sets are from the paper (Zhang, Zhu & Ye, CVPR 2019); scores on MPII
validation are from its authors' code (github.com/ilovepose/fast-human-pose-estimation.pytorch)."""

PUBLISHED_ON_MPII = (
    Published("hourglass, 4 x 128, labels only", 9, 3, 87.9, _VALIDATION, "v"),
    Published("FPD, 4 x 128, from the trained student", 9, 3, 89.0, _VALIDATION, "D"),
)
"""From the same code; shown for MPII only."""


def published_results(dataset: str) -> tuple[Published, ...]:
    """The published results to show beside scores on `dataset`."""
    return PUBLISHED + (PUBLISHED_ON_MPII if dataset.startswith("mpii") else ())


def comparability(dataset: str) -> str:
    """A sentence on whether scores on `dataset` are comparable with the published ones."""
    if dataset.startswith("mpii"):
        return (
            "Those measured on MPII validation are for the samples that are usually scored here; "
            "MPII test is another set, and LSP another data set."
        )
    if dataset.startswith("lsp"):
        return (
            "The one measured on LSP is for nearly the same test samples, with a model trained at "
            "256 pixels for 70 epochs. The others are on another data set and are not comparable."
        )
    return f"They were measured on other data than {dataset}, so the scores are not comparable."
