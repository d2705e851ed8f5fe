"""What the page says in words and tables: models, their origin, the store's bill, what is missing.

Records of older versions may lack anything but the model's own settings: what is not there is said
to be so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...runtime.text import pluralize
from ..oks import STATISTICS
from .gallery import TEACHER, Gallery
from .scores import percent, shown

MISSING = "not recorded"
LONGEST_HISTORY = 60
"""Epochs in a table under a chart; of longer trainings every n-th."""

Rows = Mapping[str, Mapping[str, Any]]
Histories = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, and what it is sorted by (None: last)."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table with a caption, a header, and rows whose first cell names them."""

    caption: str
    header: list[str]
    rows: list[list[Cell]]


def models_table(rows: Rows) -> Table:
    """Cost and accuracy of the models, side by side."""
    first = next(iter(rows.values()))
    header = ["model", *first["groups"], "mean", "unweighted", "AUC", "params, M", "GMACs"]
    header += ["ms/image", "training"]
    return Table(
        f"{first['metric']} in percent, of {pluralize(first['people'], 'person', 'people')}",
        header,
        [[Cell(name, name), *_cells(row)] for name, row in rows.items()],
    )


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    shares = [*row["groups"].values(), row["mean"], row["mean_unweighted"], row["auc"]]
    seconds = at(row, "record.result.seconds")
    million = None if row["parameters"] is None else row["parameters"] / 1e6
    return [
        *(Cell(percent(share), share) for share in shares),
        Cell(shown(million, "{:.2f}"), million),
        Cell(shown(row["gmacs"], "{:.3f}"), row["gmacs"]),
        Cell(shown(row["ms_per_image"], "{:.1f}"), row["ms_per_image"]),
        Cell(duration(seconds), seconds) if _is_number(seconds) else Cell("-"),
    ]


def oks_table(rows: Rows) -> Table | None:
    """COCO's scores, where they were worked out."""
    scored = {name: row["oks"] for name, row in rows.items() if row.get("oks")}
    if not scored:
        return None
    return Table(
        "OKS in percent, on the labels' boxes",
        ["model", *STATISTICS],
        [
            [Cell(name, name), *(Cell(percent(oks[key]), oks[key]) for key in STATISTICS)]
            for name, oks in scored.items()
        ],
    )


def chart_tables(rows: Rows, histories: Histories) -> dict[str, Table]:
    """The numbers of the charts, for those who do not see them; no epochs, no table."""
    names = list(rows)
    first = rows[names[0]]
    steps = range(len(first["curve"]["thresholds"]))
    tables = {
        "curves": Table(
            "Joints found within each threshold, in percent",
            ["threshold", *names],
            [
                [Cell(f"{first['curve']['thresholds'][step]:.2f}")]
                + [Cell(percent(rows[name]["curve"]["pck"][step])) for name in names]
                for step in steps
            ],
        ),
        "bars": Table(
            "Joints found, in percent",
            ["joint", *names],
            [
                [Cell(joint), *(Cell(percent(rows[name]["per_joint"][joint])) for name in names)]
                for joint, share in first["per_joint"].items()
                if share is not None
            ],
        ),
    }
    for key, caption in _TRAINING.items():
        table = _training_table(histories, names, key, caption)
        if table.rows:
            tables[key] = table
    return tables


_TRAINING = {
    "loss": "Mean loss of each epoch",
    "validation_pck": "PCK of the validation people after each epoch, in percent",
    "learning_rate": "Learning rate at the end of each epoch",
}


def _training_table(histories: Histories, names: Sequence[str], key: str, caption: str) -> Table:
    found = {
        name: {
            row["epoch"]: row[key]
            for row in histories.get(name, ())
            if isinstance(row.get("epoch"), int) and _is_number(row.get(key))
        }
        for name in names
    }
    trained = [name for name in names if found[name]]
    epochs = sorted({epoch for values in found.values() for epoch in values})
    step = -(-len(epochs) // LONGEST_HISTORY) if epochs else 1
    kept = sorted({*epochs[::step], *epochs[-1:]})
    scale = 100 if key == "validation_pck" else 1
    return Table(
        caption,
        ["epoch", *trained],
        [
            [Cell(str(epoch))]
            + [
                Cell(f"{scale * found[name][epoch]:.4g}" if epoch in found[name] else "-")
                for name in trained
            ]
            for epoch in kept
        ],
    )


def model_facts(rows: Rows) -> dict[str, list[tuple[str, str]]]:
    """What was trained on what, by model: (name of a fact, fact)."""
    return {
        name: _teacher_facts(row["teacher"])
        if "teacher" in row
        else _facts(name, row.get("record", {}))
        for name, row in rows.items()
    }


def _teacher_facts(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of teachers who were trained elsewhere: what the store's manifest would say of them."""
    facts = [("joints that it knows", ", ".join(entry["covered_joints"]))]
    for part in entry["teachers"]:
        facts += [
            ("kind", part["kind"]),
            ("SHA-256", part["sha256"]),
            ("takes and gives", _settings(part["spec"], ("joints",))),
        ]
    return facts


def _facts(name: str, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    training = "identity.settings.training"
    dataset = at(record, "identity.inputs.dataset")
    facts = [
        ("learned from", _role(name, record)),
        ("network", _settings(at(record, f"{training}.model"))),
        ("crops", _settings(at(record, "identity.settings.geometry"))),
        ("trained on", f"{at(dataset, 'name')}, {at(dataset, 'samples')} people"),
        *((f"SHA-256 of their {part}", str(at(dataset, part))) for part in _DIGESTS),
        ("epochs", f"{at(record, 'result.epochs')}, best {at(record, 'result.best_epoch')}"),
        ("training", _settings(at(record, training), _TOLD_APART)),
        ("targets", _settings(at(record, "identity.settings.targets"))),
        ("augmentation", _settings(at(record, "identity.settings.augmentation"))),
    ]
    if isinstance(at(record, "identity.inputs.store"), Mapping):
        facts += [
            ("heatmaps", _settings(at(record, "identity.inputs.store"))),
            ("SHA-256 of their teacher", str(at(record, "identity.inputs.teacher.sha256"))),
        ]
    if at(record, "identity.inputs.init_from") != MISSING:
        started = str(at(record, "identity.inputs.init_from"))
        facts.append(("SHA-256 of the weights it started from", started))
    validation = at(record, "result.validation_pck")
    return [
        *facts,
        ("validation PCK", percent(validation) if _is_number(validation) else "none"),
        ("SHA-256 of the weights", str(at(record, "result.weights_sha256"))),
        ("device", f"{at(record, 'device')}, {at(record, 'processes')} process(es)"),
        ("versions", _settings(at(record, "versions"))),
    ]


_DIGESTS = ("ids", "images", "labels")
_TOLD_APART = ("model", "epochs")
"""Settings of a training that have a line of their own."""


def _role(name: str, record: Mapping[str, Any]) -> str:
    alpha = at(record, "identity.settings.training.alpha")
    if name == TEACHER or not _is_number(alpha):
        return "labels"
    if alpha == 0:
        return "labels alone"
    return f"teacher's heatmaps (alpha = {alpha:g}) and labels" if alpha < 1 else "heatmaps alone"


def _settings(values: Any, without: Sequence[str] = ()) -> str:
    """A group of settings on one line; those that are None are left out."""
    if not isinstance(values, Mapping):
        return MISSING
    chosen = {k: v for k, v in values.items() if k not in without and v is not None}
    return ", ".join(f"{key} {_plain(value)}" for key, value in chosen.items()) or MISSING


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def store_facts(store: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The store's bill, and what its manifest says; empty where there is no store."""
    if not store:
        return []
    people = pluralize(store["samples"], "person", "people")
    facts = [("views", f"{store['views']} of each of {people}")]
    if store["bytes"]:
        times = store["float16_bytes"] / store["bytes"]
        facts += [
            ("size", f"{megabytes(store['bytes'])}, {_each(store)} bytes a view"),
            ("as raw float16", f"{megabytes(store['float16_bytes'])}, {times:.1f} x as much"),
        ]
    facts += [
        ("teacher passes to fill it", f"{store['teacher_passes']:,}"),
        (
            "teacher passes online",
            f"{store['teacher_passes_online']:,}, for the epochs of "
            f"{pluralize(store['distilled_students'], 'distilled student')}",
        ),
    ]
    manifest = store.get("manifest")
    return facts + (_manifest_facts(manifest) if isinstance(manifest, Mapping) else [])


def _manifest_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    datasets = manifest.get("datasets")
    dataset = datasets[-1] if isinstance(datasets, list) and datasets else None
    measured = at(manifest, "encoding_error.max_error")
    found = f"; measured {100 * measured:.2f} %" if _is_number(measured) else ""
    bound = at(manifest, "max_error")
    return [
        (
            "bound",
            f"{100 * bound:g} % of a heatmap's peak{found}" if _is_number(bound) else MISSING,
        ),
        ("flip-averaged", _plain(at(manifest, "flip_averaged"))),
        ("seed of the views", _plain(at(manifest, "seed"))),
        ("augmentation", _settings(at(manifest, "augmentation"))),
        ("made of", f"{at(dataset, 'name')}, {at(dataset, 'samples')} people"),
        *((f"SHA-256 of their {part}", str(at(dataset, part))) for part in _DIGESTS),
        ("SHA-256 of the teacher", str(at(manifest, "teacher.sha256"))),
        ("versions", _settings(at(manifest, "versions"))),
    ]


def _each(store: Mapping[str, Any]) -> str:
    return f"{store['bytes'] / max(1, store['views'] * store['samples']):,.0f}"


def remarks(report: Mapping[str, Any], histories: Histories, people: Gallery) -> list[str]:
    """What a reader would look for in vain, and what should make them wary."""
    rows: Rows = report["models"]
    found = []
    if TEACHER not in rows:
        found.append(
            "This work directory has no finished teacher: its predictions, and where it disagrees "
            "with the labels, are missing below."
        )
    if not report["store"]:
        found.append("There is no heatmap store, so there is no bill of it.")
    for name, row in rows.items():
        found += _remarks_on(name, row, histories.get(name, ()), report)
    if people.ranked == 0:
        found.append(
            "No test person has a label that counts: there are no scores, and people are shown in "
            "the order of the data set."
        )
    elif people.ranked < people.people:
        found.append(
            f"{people.people - people.ranked} of {people.people} test people without a joint that "
            "counts: not in the gallery."
        )
    return found


def _remarks_on(
    name: str, row: Mapping[str, Any], history: Sequence[Any], report: Mapping[str, Any]
) -> list[str]:
    found = []
    if "teacher" in row:
        if row["unknown"]:
            found.append(f"{name} has no {', '.join(row['unknown'])}: its means leave them out.")
    elif not history:
        found.append(f"{name} has no readable metrics.jsonl: its training curves are missing.")
    elif all(epoch.get("validation_pck") is None for epoch in history):
        found.append(f"{name} was trained without validation people: its last epoch was kept.")
    if row.get("oks_left_out"):
        found.append(f"OKS of {name} is left out: {row['oks_left_out']}")
    if row.get("not_finite"):
        wrong = pluralize(row["not_finite"], "predicted joint")
        found.append(f"{name}: {wrong} not finite, and so wrong.")
    taught = at(row, "record.identity.inputs.teacher.sha256")
    teacher = at(report, f"models.{TEACHER}.record.result.weights_sha256")
    if MISSING not in (taught, teacher) and taught != teacher:
        found.append(f"{name} learned from another teacher than this directory's.")
    return found


def at(tree: Any, path: str) -> Any:
    """A value in nested JSON, or `MISSING`."""
    for key in path.split("."):
        if not isinstance(tree, Mapping) or tree.get(key) is None:
            return MISSING
        tree = tree[key]
    return tree


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest of them."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def megabytes(size: float) -> str:
    """Bytes for a reader, decimal."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
