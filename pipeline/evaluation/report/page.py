"""The report as a single HTML file, which opens from disk and makes no network requests.

Jinja escapes everything that comes from users and data sets: names, ids and settings. The page's
content security policy forbids all requests, and all scripts except its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from .... import __version__
from ....data.samples import SampleSet
from ....data.skeletons import Skeleton
from ...runtime.palette import DARK, LABEL, LIGHT
from ..inference import PredictedJoints
from . import charts
from .cost import published_inside
from .gallery import CROP_PX, MOST_DISAGREEING, PER_JOINT, PER_RANKING, build_gallery
from .notes import notes
from .published import Published, comparability, published_results
from .scores import TEACHER, percent
from .svg import css_variables
from .tables import (
    Table,
    agreement_table,
    chart_tables,
    model_facts,
    models_table,
    oks_table,
    store_facts,
)

History = Sequence[Mapping[str, Any]]


def render(
    report: Mapping[str, Any],
    samples: SampleSet,
    predicted: Mapping[str, PredictedJoints],
    histories: Mapping[str, History],
) -> str:
    """The report as HTML.

    Args:
        report: the content of `report.json`; models are shown in its order.
        samples: the test set; only the images of samples in the gallery are read.
        predicted: by model, for all test samples.
        histories: by model, the rows of its `metrics.jsonl`.
    """
    rows = report["models"]
    metric = str(next(iter(rows.values()))["metric"])
    dataset = str(report["dataset"]["name"])
    published = published_results(dataset)
    gallery = build_gallery(samples, predicted)
    script = _template("report.js")
    return (
        _environment()
        .from_string(_template("report.html"))
        .render(
            version=__version__,
            policy=_content_security_policy(script),
            script=Markup(script),  # noqa: S704 - our own file
            style=Markup(_style()),  # noqa: S704 - our own file
            report=report,
            rows=rows,
            metric=metric,
            unit=_unit(samples.skeleton),
            threshold=_threshold(metric),
            joints=samples.skeleton.joints,
            table=models_table(rows),
            oks=oks_table(rows),
            agreement=agreement_table(rows),
            charts=_charts(rows, published, histories),
            symbols=_symbols(rows, published),
            published=published,
            published_in_chart=_published_in_chart(rows, published),
            comparability=comparability(dataset),
            store=store_facts(report["store"]),
            gallery=gallery,
            initial_model=_initial_model(list(rows)),
            photo_colors=len(DARK.series),
            teacher=list(rows).index(TEACHER) if TEACHER in rows else None,
            rule={
                "per_ranking": PER_RANKING,
                "most_disagreeing": MOST_DISAGREEING,
                "per_joint": PER_JOINT,
            },
            crop_px=CROP_PX,
            facts=model_facts(rows),
            records={name: _record(row) for name, row in rows.items()},
            list_scores=partial(_list_scores, rows),
            list_costs=_list_costs(rows),
            notes=notes(report, histories, gallery),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment


def _record(row: Mapping[str, Any]) -> str:
    entry = next((row[key] for key in ("teacher", "exported", "record") if key in row), None)
    return json.dumps(entry, indent=2)


def _template(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text("utf-8")


def _style() -> str:
    """The style sheet, with the colors as CSS variables, those of skeletons included."""
    # Skeletons are drawn over photographs, in the colors that models have on a dark background.
    photo = {f"--photo-{number}": color for number, color in enumerate(DARK.series)}
    light = css_variables(LIGHT) | photo | {"--label": LABEL}
    dark = f":root {{ {_declarations(css_variables(DARK))} }}"
    return (
        f":root {{ {_declarations(light)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ {dark} }}\n{_template('report.css')}"
    )


def _declarations(variables: Mapping[str, str]) -> str:
    return " ".join(f"{name}: {color};" for name, color in variables.items())


def _content_security_policy(script: str) -> str:
    """Allow inline styles, embedded images, and the one script with this hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _unit(skeleton: Skeleton) -> str:
    """A sample's unit of length, in words."""
    if skeleton.metric == "PCKh":
        return "0.6 times the diagonal of its head box"
    if skeleton.normalizer is None:  # COCO's format, see `data.readers.coco`
        return "the longer side of its box"
    first, second = (skeleton.joints[joint] for joint in skeleton.normalizer)
    return f"the distance from its {first} to its {second}"


def _threshold(metric: str) -> float:
    """The threshold of the means, from the name of the metric, such as PCK@0.2."""
    return float(metric.rpartition("@")[2])


def _list_scores(rows: Mapping[str, Any], key: str) -> str:
    """One of each model's scores, for those who cannot see the chart."""
    return ", ".join(f"{name} {percent(row[key])}" for name, row in rows.items())


def _list_costs(rows: Mapping[str, Any]) -> str:
    """The points of the cost chart, for those who cannot see it."""
    return ", ".join(
        f"{name} {gmacs:.3g} GMACs {score:.1f}"
        for name, (gmacs, score) in charts.costs_and_scores(rows).items()
    )


def _initial_model(names: Sequence[str]) -> int:
    """The index of the model whose predictions the gallery shows first: a student, if any."""
    students = [number for number, name in enumerate(names) if name != TEACHER]
    default_student = [number for number in students if names[number] == "student"]
    return next(iter(default_student or students), 0)


def _symbols(rows: Mapping[str, Any], published: Sequence[Published]) -> list[Markup]:
    """SVG symbols for the legends."""
    series = [
        charts.series_symbol(style, f"series-{number}")
        for number, style in enumerate(charts.series_styles(list(rows)).values())
    ]
    hollow = [
        charts.published_symbol(result.marker, f"published-{number}")
        for number, result in enumerate(published)
    ]
    return [Markup(symbol) for symbol in (*series, *hollow)]  # noqa: S704 - matplotlib's


def _published_in_chart(rows: Mapping[str, Any], published: Sequence[Published]) -> int:
    """The number of published results within the cost chart."""
    models = [*charts.costs_and_scores(rows).values()]
    return len(published_inside(models, published)) if models else 0


def _charts(
    rows: Mapping[str, Any], published: Sequence[Published], histories: Mapping[str, History]
) -> dict[str, dict[str, Any]]:
    """The charts: each as SVG, and as a table with the same numbers."""
    tables = chart_tables(rows, histories)
    drawn = {}
    if any(row["mean"] is not None for row in rows.values()):
        drawn = {"curves": charts.pck_curves(rows), "bars": charts.joint_bars(rows)}
    labels = {
        "loss": "loss",
        "validation_pck": "validation PCK, %",
        "learning_rate": "learning rate",
    }
    for metric, label in labels.items():
        if metric in tables:
            drawn[metric] = charts.training_curves(histories, list(rows), metric, label)
    if charts.costs_and_scores(rows):
        drawn["cost"] = charts.cost_chart(rows, published)
    return {
        name: {"svg": Markup(svg), "table": tables.get(name, Table("", [], []))}  # noqa: S704 - matplotlib's
        for name, svg in drawn.items()
    }
