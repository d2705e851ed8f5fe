"""An evaluation in numbers: JSON, and the table in the terminal."""

from __future__ import annotations

import math
from typing import Any

from ....data.skeletons import Skeleton
from ...runtime.text import align, pluralize
from ..pck import Pck, group_means


def shares(pck: Pck, skeleton: Skeleton) -> dict[str, Any]:
    """A score as JSON holds it: shares in 0..1, None for that of which nothing counts."""
    names = skeleton.joints
    per_joint = dict(zip(names, map(_number, pck.per_joint_K), strict=True))
    groups = {name: _number(share) for name, share in group_means(pck, skeleton).items()}
    return {
        "metric": pck.metric,
        "mean": _number(pck.mean),
        "mean_unweighted": _number(pck.mean_unweighted),
        "auc": _number(pck.auc),
        "per_joint": per_joint,
        "groups": groups,
        "joints": pck.joints,
        "counts": dict(zip(names, pck.counts_K.tolist(), strict=True)),
        "not_finite": pck.not_finite,
        "curve": {
            "thresholds": pck.thresholds_T.tolist(),
            "pck": [_number(share) for share in pck.curve_T.tolist()],
        },
    }


def _number(share: float) -> float | None:
    return None if math.isnan(share) else float(share)


def table(report: dict[str, Any]) -> str:
    """The models side by side, in percent, in the columns of the field's tables."""
    models: dict[str, dict[str, Any]] = report["models"]
    first = next(iter(models.values()))
    header = [
        "model",
        *first["groups"],
        "mean",
        "unweighted",
        "AUC",
        "params",
        "GMACs",
        "ms/image",
    ]
    rows = [[name, *_cells(row)] for name, row in models.items()]
    people = pluralize(first["people"], "person", "people")
    heading = f"{first['metric']} in percent, {people}{_passes(report['testing'])}"
    return "\n".join([heading, align([header, *rows]), *_unknown(models), *_bill(report["store"])])


def _unknown(models: dict[str, dict[str, Any]]) -> list[str]:
    """Which models' scores are of fewer joints than the others'."""
    return [
        f"{name} is scored on the joints that it knows: it has no {', '.join(row['unknown'])}"
        for name, row in models.items()
        if row.get("unknown")
    ]


def _passes(evaluation: dict[str, Any]) -> str:
    """How the models were asked, where that was not once a person."""
    flip = ", flip test" if evaluation["flip_test"] else ""
    scales = ", ".join(f"{scale:g}" for scale in evaluation["scales"])
    return flip + (f", scales {scales}" if len(evaluation["scales"]) > 1 else "")


def _bill(store: dict[str, Any] | None) -> list[str]:
    if not store or not store["bytes"]:
        return []
    smaller = store["float16_bytes"] / store["bytes"]
    return [
        f"store: {pluralize(store['views'], 'view')} of "
        f"{pluralize(store['samples'], 'person', 'people')} in "
        f"{store['bytes'] / 1e6:.1f} MB; raw float16 would take "
        f"{store['float16_bytes'] / 1e6:.1f} MB, {smaller:.1f} x as much",
        f"teacher passes: {store['teacher_passes']} to fill it; online, "
        f"{pluralize(store['distilled_students'], 'distilled student')} would have taken "
        f"{store['teacher_passes_online']}",
    ]


def percent(share: float | None) -> str:
    """A share for a table; None is a dash."""
    return "-" if share is None else f"{100 * share:.1f}"


def _cells(row: dict[str, Any]) -> list[str]:
    found = [*row["groups"].values(), row["mean"], row["mean_unweighted"], row["auc"]]
    million = None if row["parameters"] is None else row["parameters"] / 1e6
    return [
        *map(percent, found),
        shown(million, "{:.2f} M"),
        shown(row["gmacs"], "{:.3f}"),
        shown(row["ms_per_image"], "{:.1f}"),
    ]


def shown(number: float | None, form: str) -> str:
    """A number for a table; None is a dash."""
    return "-" if number is None else form.format(number)
