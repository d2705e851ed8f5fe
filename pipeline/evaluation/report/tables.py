"""The tables and lists of the report: models, provenance, the numbers of charts, the store.

Records may come from other machines, and some of their fields are optional: a missing field is
reported as `MISSING`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...runtime.text import format_bytes, format_duration, pluralize
from ..agreement import MIN_PEAK
from ..oks import STATISTICS
from .scores import TEACHER, number_or_dash, percent

MISSING = "not recorded"

MAX_HISTORY_ROWS = 60
"""Epochs in the table of a training curve; of longer trainings, every n-th epoch and the last."""

Rows = Mapping[str, Mapping[str, Any]]
Histories = Mapping[str, Sequence[Mapping[str, Any]]]
Facts = list[tuple[str, str]]
"""(name, value) pairs."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and the value to sort by (None: last)."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table with a caption, a header, and rows whose first cell is their heading."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]


def models_table(rows: Rows) -> Table:
    """Scores and cost of the models, side by side."""
    first = next(iter(rows.values()))
    # The columns that matter most come first: on a phone, the others are scrolled to.
    header = ["model", "mean", "AUC", "params, M", "GMACs", "ms/image", *first["groups"]]
    header += ["unweighted", "training"]
    return Table(
        f"{first['metric']} in percent, {pluralize(first['samples'], 'sample')}",
        header,
        [[Cell(name, name), *_cells(row)] for name, row in rows.items()],
    )


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    groups = [Cell(percent(share), share) for share in row["groups"].values()]
    unweighted = row["mean_unweighted"]
    seconds = at(row, "record.result.seconds")
    millions = None if row["parameters"] is None else row["parameters"] / 1e6
    return [
        Cell(percent(row["mean"]), row["mean"]),
        Cell(percent(row["auc"]), row["auc"]),
        Cell(number_or_dash(millions, "{:.2f}"), millions),
        Cell(number_or_dash(row["gmacs"], "{:.3f}"), row["gmacs"]),
        Cell(number_or_dash(row["ms_per_image"], "{:.1f}"), row["ms_per_image"]),
        *groups,
        Cell(percent(unweighted), unweighted),
        Cell(format_duration(seconds), seconds) if is_number(seconds) else Cell("-"),
    ]


def oks_table(rows: Rows) -> Table | None:
    """COCO's OKS statistics; None if no model has them."""
    scored = {name: row["oks"] for name, row in rows.items() if row.get("oks")}
    if not scored:
        return None
    return Table(
        "OKS in percent, with the labels' boxes",
        ["model", *STATISTICS],
        [
            [Cell(name, name), *(Cell(percent(oks[key]), oks[key]) for key in STATISTICS)]
            for name, oks in scored.items()
        ],
    )


def agreement_table(rows: Rows) -> Table | None:
    """The models' distances from the teacher; None where there are labels to score against."""
    compared = {name: row["agreement"] for name, row in rows.items() if row.get("agreement")}
    if not compared:
        return None
    first = next(iter(compared.values()))
    return Table(
        f"agreement with the teacher, not accuracy: {first['joints']} of {first['of']} joints, "
        f"those with a teacher's peak of {MIN_PEAK:g} or more; in percent of the longer side of "
        "the person's box",
        ["model", "mean distance", *(f"within {100 * float(t):g}" for t in first["within"])],
        [
            [
                Cell(name, name),
                Cell(f"{100 * values['mean_distance']:.1f}", values["mean_distance"]),
                *(Cell(f"{percent(share)} %", share) for share in values["within"].values()),
            ]
            for name, values in compared.items()
        ],
    )


def chart_tables(rows: Rows, histories: Histories) -> dict[str, Table]:
    """The numbers of each chart; training metrics without any epoch have no table."""
    names = list(rows)
    first = rows[names[0]]
    tables = {
        "curves": Table(
            "Correct joints by threshold, in percent",
            ["threshold", *names],
            [
                [Cell(f"{threshold:.2f}")]
                + [Cell(percent(rows[name]["curve"]["pck"][step])) for name in names]
                for step, threshold in enumerate(first["curve"]["thresholds"])
            ],
        ),
        "bars": Table(
            "Correct joints, in percent",
            ["joint", *names],
            [
                [Cell(joint), *(Cell(percent(rows[name]["per_joint"][joint])) for name in names)]
                for joint, share in first["per_joint"].items()
                if share is not None
            ],
        ),
    }
    for metric, caption in TRAINING_METRICS.items():
        table = _training_table(histories, names, metric, caption)
        if table.rows:
            tables[metric] = table
    return tables


TRAINING_METRICS = {
    "loss": "Mean loss of each epoch",
    "validation_pck": "PCK of the validation samples after each epoch, in percent",
    "learning_rate": "Learning rate at the end of each epoch",
}


def _training_table(histories: Histories, names: Sequence[str], metric: str, caption: str) -> Table:
    by_epoch = {
        name: {
            row["epoch"]: row[metric]
            for row in histories.get(name, ())
            if isinstance(row.get("epoch"), int) and is_number(row.get(metric))
        }
        for name in names
    }
    trained = [name for name in names if by_epoch[name]]
    epochs = sorted({epoch for values in by_epoch.values() for epoch in values})
    step = -(-len(epochs) // MAX_HISTORY_ROWS) if epochs else 1
    shown_epochs = sorted({*epochs[::step], *epochs[-1:]})
    scale = 100 if metric == "validation_pck" else 1
    return Table(
        caption,
        ["epoch", *trained],
        [
            [Cell(str(epoch))]
            + [
                Cell(f"{scale * by_epoch[name][epoch]:.4g}" if epoch in by_epoch[name] else "-")
                for name in trained
            ]
            for epoch in shown_epochs
        ],
    )


def model_facts(rows: Rows) -> dict[str, Facts]:
    """For each model, its settings, training data and digests."""
    return {name: _facts(name, row) for name, row in rows.items()}


def _facts(name: str, row: Mapping[str, Any]) -> Facts:
    if "teacher" in row:
        return _external_teacher_facts(row["teacher"])
    if "exported" in row:
        return _exported_file_facts(row["exported"])
    return _trained_model_facts(name, row.get("record", {}))


def _exported_file_facts(entry: Mapping[str, Any]) -> Facts:
    return [
        ("file", f"{entry['file']}, run as it is shipped"),
        ("exported from", entry["name"]),
        ("crop", f"{entry['crop_px']} pixels"),
        ("SHA-256 of the file", entry["file_sha256"]),
        ("SHA-256 of the weights", entry["weights_sha256"]),
    ]


def _external_teacher_facts(entry: Mapping[str, Any]) -> Facts:
    """Of teachers trained elsewhere: their entry in a store's manifest."""
    facts = [("covered joints", ", ".join(entry["covered_joints"]))]
    for teacher in entry["teachers"]:
        facts += [
            ("kind", teacher["kind"]),
            ("SHA-256", teacher["sha256"]),
            ("input and output", _settings(teacher["spec"], ("joints",))),
        ]
    return facts


def _trained_model_facts(name: str, record: Mapping[str, Any]) -> Facts:
    inputs, settings = "identity.inputs", "identity.settings"
    facts = [
        ("supervision", supervision(name, record)),
        ("network", _settings(at(record, "model"))),
        ("geometry", _settings(at(record, "geometry"))),
        *_dataset_facts("training data", at(record, f"{inputs}.dataset")),
        ("epochs", f"{at(record, 'result.epochs')}, best {at(record, 'result.best_epoch')}"),
        ("training settings", _settings(at(record, f"{settings}.training"), ("model", "epochs"))),
        ("targets", _settings(at(record, f"{settings}.targets"))),
        ("augmentation", _settings(at(record, f"{settings}.augmentation"))),
    ]
    if isinstance(at(record, f"{inputs}.store"), Mapping):
        facts += [
            ("heatmap store", _settings(at(record, f"{inputs}.store"))),
            ("SHA-256 of the teacher", str(at(record, f"{inputs}.teacher.sha256"))),
        ]
    if at(record, f"{inputs}.init_from") != MISSING:
        facts.append(("SHA-256 of the initial weights", str(at(record, f"{inputs}.init_from"))))
    validation = at(record, "result.validation_pck")
    return [
        *facts,
        ("validation PCK", percent(validation) if is_number(validation) else "none"),
        ("SHA-256 of the weights", str(at(record, "result.weights_sha256"))),
        ("device", str(at(record, "device"))),
        ("processes", str(at(record, "processes"))),
        ("versions", _settings(at(record, "versions"))),
    ]


def _dataset_facts(name: str, fingerprint: Any) -> Facts:
    """A data set's name, size, and digests; `fingerprint` may be `MISSING`."""
    return [
        (name, f"{at(fingerprint, 'name')}, {at(fingerprint, 'samples')} samples"),
        *(
            (f"SHA-256 of the {part}", str(at(fingerprint, part)))
            for part in ("ids", "images", "labels")
        ),
    ]


def supervision(name: str, record: Mapping[str, Any]) -> str:
    """What a model was trained on."""
    alpha = at(record, "identity.settings.training.alpha")
    if name == TEACHER or not is_number(alpha):
        return "labels"
    if alpha == 0:
        return "labels only"
    if alpha < 1:
        return f"teacher heatmaps (alpha = {alpha:g}) and labels"
    return "teacher heatmaps only"


def _settings(values: Any, omitted: Sequence[str] = ()) -> str:
    """A group of settings on one line, without those that are None."""
    if not isinstance(values, Mapping):
        return MISSING
    shown = {key: v for key, v in values.items() if key not in omitted and v is not None}
    return ", ".join(f"{key} {_plain(value)}" for key, value in shown.items()) or MISSING


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def store_facts(store: Mapping[str, Any] | None) -> Facts:
    """The store's size, its teacher passes, and its manifest; empty without a store."""
    if not store:
        return []
    views = store["views"] * store["samples"]
    samples = pluralize(store["samples"], "sample")
    facts = [("views", f"{store['views']} of each of {samples}")]
    if store["bytes"]:
        ratio = store["float16_bytes"] / store["bytes"]
        bytes_per_view = f"{store['bytes'] / max(1, views):,.0f} bytes per view"
        facts += [
            ("size", f"{format_bytes(store['bytes'])}, {bytes_per_view}"),
            ("as raw float16", f"{format_bytes(store['float16_bytes'])}, {ratio:.1f} x as much"),
        ]
    facts += [
        ("teacher passes to fill the store", f"{store['teacher_passes']:,}"),
        (
            "teacher passes of online distillation",
            f"{store['teacher_passes_online']:,}, for the epochs of "
            f"{pluralize(store['distilled_students'], 'distilled student')}",
        ),
    ]
    manifest = store.get("manifest")
    return facts + (_manifest_facts(manifest) if isinstance(manifest, Mapping) else [])


def _manifest_facts(manifest: Mapping[str, Any]) -> Facts:
    datasets = manifest.get("datasets")
    fingerprint = datasets[-1] if isinstance(datasets, list) and datasets else None
    measured = at(manifest, "encoding_error.max_error")
    measured_text = f"; measured {100 * measured:.2f} %" if is_number(measured) else ""
    bound = at(manifest, "max_error")
    bound_text = f"{100 * bound:g} % of a heatmap's peak{measured_text}"
    return [
        ("error bound", bound_text if is_number(bound) else MISSING),
        ("flip-averaged", _plain(at(manifest, "flip_averaged"))),
        ("seed of the views", _plain(at(manifest, "seed"))),
        ("augmentation", _settings(at(manifest, "augmentation"))),
        *_dataset_facts("samples", fingerprint),
        ("SHA-256 of the teacher", str(at(manifest, "teacher.sha256"))),
        ("versions", _settings(at(manifest, "versions"))),
    ]


def at(tree: Any, path: str) -> Any:
    """A value in nested JSON by its dotted path; `MISSING` if it is absent or None."""
    for key in path.split("."):
        if not isinstance(tree, Mapping) or tree.get(key) is None:
            return MISSING
        tree = tree[key]
    return tree


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
