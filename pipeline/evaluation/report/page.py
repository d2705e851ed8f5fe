"""The page: an evaluation in one HTML file that opens from disk and asks nothing of a network.

What users and data sets bring (names, ids, settings) goes through Jinja's escaping; the page's
policy forbids every request, and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from .... import __version__
from ....data.samples import SampleSet
from ....data.skeletons import Skeleton
from ...runtime import palette
from ..inference import Predicted
from . import charts
from .gallery import CROP_PX, DISAGREEING, EACH, PER_JOINT, TEACHER, gallery
from .scores import percent
from .tables import Table, chart_tables, model_facts, models_table, oks_table, remarks, store_facts

History = Sequence[Mapping[str, Any]]


def render(
    report: Mapping[str, Any],
    samples: SampleSet,
    predicted: Mapping[str, Predicted],
    histories: Mapping[str, History],
) -> str:
    """The page as HTML.

    Args:
        report: what `report.json` holds, its models in the order to show them in.
        samples: the test people; the images of those in the gallery are read.
        predicted: what each model says of them.
        histories: rows of each model's `metrics.jsonl`.

    Raises:
        ModuleNotFoundError: Jinja is not installed.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    script = _template("report.js")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    rows, others = report["models"], charts.published(str(report["dataset"]["name"]))
    people = gallery(samples, predicted)
    return environment.from_string(_template("report.html")).render(
        version=__version__,
        policy=_policy(script),
        script=Markup(script),  # noqa: S704 - a file of ours
        style=Markup(_style()),  # noqa: S704 - a file of ours
        report=report,
        rows=rows,
        metric=next(iter(rows.values()))["metric"],
        unit=_unit(samples.skeleton),
        threshold=_threshold(rows),
        joints=samples.skeleton.joints,
        table=models_table(rows),
        oks=oks_table(rows),
        figures=_figures(rows, others, histories),
        symbols=[Markup(symbol) for symbol in _symbols(rows, others)],  # noqa: S704 - matplotlib's
        published=others,
        comparable=_comparable(str(report["dataset"]["name"])),
        store=store_facts(report["store"]),
        gallery=people,
        shown=_shown_first(list(rows)),
        teacher=list(rows).index(TEACHER) if TEACHER in rows else None,
        rule={"each": EACH, "disagreeing": DISAGREEING, "per_joint": PER_JOINT},
        crop_px=CROP_PX,
        facts=model_facts(rows),
        records={name: _record(row) for name, row in rows.items()},
        listed=lambda key: ", ".join(f"{name} {percent(row[key])}" for name, row in rows.items()),
        remarks=remarks(report, histories, people),
    )


def _record(row: Mapping[str, Any]) -> str:
    return json.dumps(row.get("teacher", row.get("record")), indent=2)


def _template(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text("utf-8")


def _style() -> str:
    roles = {
        "prediction": palette.PREDICTION,
        "label": palette.LABEL,
        "teacher": palette.TEACHER,
    }
    variables = " ".join(f"--{role}: {color};" for role, color in roles.items())
    return f":root {{ {variables} }}\n{_template('report.css')}"


def _policy(script: str) -> str:
    """What the page may do: show its own style and pictures, run the one script with this hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _unit(skeleton: Skeleton) -> str:
    """What an error is measured in."""
    if skeleton.metric == "PCKh":
        return "0.6 of the head box's diagonal"
    if skeleton.normalizer is None:
        return "the longer side of their box" if skeleton.name == "coco" else "what the labels say"
    first, second = (skeleton.joints[joint] for joint in skeleton.normalizer)
    return f"the distance from {first} to {second}"


def _threshold(rows: Mapping[str, Any]) -> float:
    """The means' threshold, in units, from the metric's name, such as PCK@0.2."""
    return float(next(iter(rows.values()))["metric"].rpartition("@")[2])


def _shown_first(names: Sequence[str]) -> int:
    """Whose predictions the gallery begins with: the first student's, if there is one."""
    students = [number for number, name in enumerate(names) if name != TEACHER]
    plain = [number for number in students if names[number] == "student"]
    return next(iter(plain or students), 0)


def _symbols(rows: Mapping[str, Any], others: Sequence[charts.Published]) -> list[str]:
    """What the legends are made of."""
    looks = charts.looks(list(rows)).values()
    return [charts.swatch(look, f"look-{number}") for number, look in enumerate(looks)] + [
        charts.hollow(other.marker, f"hollow-{number}") for number, other in enumerate(others)
    ]


def _figures(
    rows: Mapping[str, Any], others: Sequence[charts.Published], histories: Mapping[str, History]
) -> dict[str, Any]:
    """Each chart: its picture, and the table that says the same."""
    from markupsafe import Markup

    tables = chart_tables(rows, histories)
    pictures = {}
    if any(row["mean"] is not None for row in rows.values()):
        pictures = {"curves": charts.curves(rows), "bars": charts.bars(rows)}
    labels = {
        "loss": "loss",
        "validation_pck": "validation PCK, %",
        "learning_rate": "learning rate",
    }
    for key, label in labels.items():
        if key in tables:
            pictures[key] = charts.training(histories, list(rows), key, label)
    pictures["plane"] = charts.plane(rows, others)
    return {
        name: {"picture": Markup(svg), "table": tables.get(name, Table("", [], []))}  # noqa: S704 - matplotlib's
        for name, svg in pictures.items()
    }


def _comparable(dataset: str) -> str:
    """Whether this data set's scores may be held against the published ones."""
    if dataset.startswith("mpii"):
        return (
            "Of these, the ones measured on MPII validation are of the people that are usually "
            "scored here; MPII test is another set, LSP another data set."
        )
    if dataset.startswith("lsp"):
        return (
            "Of these, the one measured on LSP is of nearly the same test people; it was trained "
            "at 256 pixels, for 70 epochs. The others are of another data set and do not compare."
        )
    return f"They were measured on other data than {dataset}: the scores do not compare."
