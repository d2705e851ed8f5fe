"""The model card of an exported file: Markdown with the metadata of the Hugging Face hub.

Its facts are those of the file's own report, of the model's record and, if the model was evaluated,
of `evaluation/report.json`. Records may come from other machines: all their text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..config.sections import TestTimeAugmentation
from ..runtime.cards import describe_teacher, escape, license_fields, quote, table
from ..runtime.text import format_bytes, pluralize, printable
from .report.scores import percent
from .report.tables import MISSING, at, is_number, supervision

TASK = "keypoint-detection"
"""The hub's name of the task."""

LIBRARIES = {
    "onnx": "onnx",
    "torch-export": "pytorch",
    "openvino": "openvino",
    "tflite": "tflite",
}
"""The hub's names of what runs each format."""

NO_LICENSE = "not stated; ask the owner before you use this model"

FPD_USE = """\
With `fpd`, from a photo and people's boxes (left edge, top edge, width, height, in pixels):

```python
import fpd
model = fpd.load({file})
joints = model.predict("photo.jpg", boxes=[(40, 20, 120, 160)]).joints  # in pixels of the photo
```

Alone, from crops:

"""
"""How a file is used that `fpd.load` reads."""

READ_BY_FPD = ("onnx", "torch-export", "tflite")

USES = {
    "onnx": """\
```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession({file})
crops = np.zeros((2, {side}, {side}, 3), np.uint8)
joints, peaks = session.run(["joints", "peaks"], {{"crops": crops}})
```""",
    "torch-export": """\
```python
import torch
model = torch.export.load({file}).module()
joints, peaks, heatmaps = model(torch.zeros(2, {side}, {side}, 3, dtype=torch.uint8))
```""",
    "openvino": """\
```python
import numpy as np, openvino
model = openvino.compile_model({file}, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
joints = model({{"crops": np.zeros((2, {side}, {side}, 3), np.uint8)}})["joints"]
```""",
    "tflite": """\
```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
model = Interpreter({file}).get_signature_runner()
joints = model(crops=np.zeros((1, {side}, {side}, 3), np.uint8))["joints"]
```""",
}
"""How a file is used without `fpd`, by format; a test runs these lines and those above."""


class Score(NamedTuple):
    """A PCK.

    Attributes:
        metric: such as "PCK@0.2".
        share: 0 to 1.
        dataset: what it was measured on.
        samples: how many; None: not recorded.
    """

    metric: str
    share: float
    dataset: str
    samples: int | None


def model_card(
    report: Mapping[str, Any],
    record: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    license_name: str | None,
) -> str:
    """The card of an exported file.

    Args:
        report: the content of the file's JSON.
        record: the model's `record.json`.
        evaluation: the content of `evaluation/report.json`; empty: there is none.
        license_name: an identifier, such as "apache-2.0", or a name; None: the card says that none
            is stated.
    """
    scores = list(_scores(report, record, evaluation))
    metadata = _metadata(report, record, scores)
    name = next(iter(report["files"]))
    licenses = license_fields(license_name) if license_name else {}
    license_yaml = "".join(f"{key}: {value}\n" for key, value in licenses.items())
    kind = report["format"]
    use = ((FPD_USE if kind in READ_BY_FPD else "") + USES[kind]).format(
        file=json.dumps(printable(name), ensure_ascii=False), side=report["crop_px"]
    )
    rows = _facts(report, record, evaluation, scores)
    joints = ", ".join(escape(joint) for joint in report["joints"])
    parts = [
        f"---\n{license_yaml}{_yaml(metadata)}---",
        f"# {escape(report['name'])}",
        f"Finds {pluralize(len(report['joints']), 'joint')} of one person in a crop. Normalization "
        "and the decoding of heatmaps are part of the file.",
        f"License: {escape(license_name) if license_name else NO_LICENSE}.",
        table([["", ""], *([key, value] for key, value in rows)]),
        "## Use",
        use,
        "A crop is a square, 1.25 times the longer side of the person's box, around the box's "
        f"center, resized to {report['crop_px']} x {report['crop_px']} pixels.",
        "## Input and outputs",
        _tensors(report),
        f"Joints (skeleton {escape(report['skeleton'])}), in order: {joints}.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(
    report: Mapping[str, Any], record: Mapping[str, Any], scores: list[Score]
) -> dict[str, Any]:
    """The card's front matter but for the license, as the hub documents it."""
    metadata: dict[str, Any] = {
        "library_name": LIBRARIES[report["format"]],
        "pipeline_tag": TASK,
        "tags": ["pose-estimation", "knowledge-distillation", "fpd"],
    }
    dataset = at(record, "identity.inputs.dataset.name")
    if dataset != MISSING:
        metadata["datasets"] = [str(dataset).partition("/")[0]]
    if not scores:
        return metadata
    results = [
        {
            "task": {"type": TASK},
            "dataset": {"name": score.dataset, "type": score.dataset.partition("/")[0]},
            "metrics": [
                {"type": "pck", "name": f"{score.metric} (%)", "value": round(100 * score.share, 2)}
            ],
        }
        for score in scores
    ]
    return metadata | {
        "metrics": ["pck"],
        "model-index": [{"name": report["name"], "results": results}],
    }


def _scores(
    report: Mapping[str, Any], record: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> Iterator[Score]:
    """The file's PCK: of its quantized weights, else as evaluated, else on validation samples.

    An evaluation that averaged several passes is left out, because the file makes one.
    """
    if "quantized" in report:
        costs = report["quantized"]
        yield Score(costs["metric"], costs["int8"]["pck"], costs["dataset"], costs["people"])
        return
    row = _row_of(evaluation, "record.result.weights_sha256", report["weights_sha256"])
    validation = at(record, "result.validation_pck")
    is_one_pass = at(evaluation, "evaluation") == TestTimeAugmentation().model_dump(mode="json")
    if is_one_pass and is_number(at(row, "mean")):
        dataset, metric = str(at(evaluation, "dataset.name")), str(at(row, "metric"))
        yield Score(metric, at(row, "mean"), dataset, _whole(at(row, "samples")))
    elif is_number(validation):
        dataset = str(at(record, "identity.inputs.dataset.name"))
        yield Score("PCK", validation, f"{dataset}, validation samples", None)


def _row_of(evaluation: Mapping[str, Any], path: str, value: Any) -> Any:
    """The row of `evaluation/report.json` that has a value; `MISSING` if there is none."""
    rows = at(evaluation, "models")
    found = rows.values() if isinstance(rows, Mapping) else ()
    return next((row for row in found if at(row, path) == value), MISSING)


def _facts(
    report: Mapping[str, Any],
    record: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    scores: list[Score],
) -> Iterator[tuple[str, str]]:
    """Data, teacher, scores and costs, as the rows of a table."""
    dataset = at(record, "identity.inputs.dataset")
    yield "data", f"{escape(at(dataset, 'name'))}, {escape(at(dataset, 'samples'))} samples"
    yield "trained on", escape(supervision(report["name"], record))
    teacher = at(record, "identity.inputs.teacher")
    if teacher != MISSING:
        yield "teacher", _teacher(teacher, evaluation)
    for score in scores:
        count = "" if score.samples is None else f", {pluralize(score.samples, 'sample')}"
        where = f"{escape(score.dataset)}{count}"
        yield escape(score.metric), f"{percent(score.share)} % ({where})"
    if not scores:
        yield "PCK", "not measured"
    yield "parameters", f"{report['parameters']:,}"
    yield "GMACs", f"{report['gmacs']:.3g} a crop"
    yield "size", format_bytes(report["bytes"])
    yield "time", _time(report)
    yield "made with", escape(f"fpd {report['fpd']}, torch {report['versions']['torch']}")


def _teacher(teacher: Any, evaluation: Mapping[str, Any]) -> str:
    """What the teacher is, and its PCK if it was evaluated on the same samples."""
    row = _row_of(evaluation, "record.result.weights_sha256", at(teacher, "sha256"))
    if row == MISSING:  # an external one
        row = _row_of(evaluation, "teacher.sha256", at(teacher, "sha256"))
    mean = at(row, "mean")
    score = f"; {at(row, 'metric')} {percent(mean)} %" if is_number(mean) else ""
    return describe_teacher(teacher) + escape(score)


def _time(report: Mapping[str, Any]) -> str:
    times = report["times"]
    return (
        f"{times['exported']['median_ms']:.3g} ms a crop at batch size 1, with "
        f"{pluralize(times['threads'], 'CPU thread')} of the machine that exported it (PyTorch: "
        f"{times['pytorch']['median_ms']:.3g} ms)"
    )


def _tensors(report: Mapping[str, Any]) -> str:
    tensors = {report["input"]["name"]: report["input"]} | report["outputs"]
    rows = [
        [
            f"`{name}`",
            f"{tensor['dtype']} ({', '.join(map(str, tensor['shape']))})",
            tensor.get("is", ""),
        ]
        for name, tensor in tensors.items()
    ]
    return table([["tensor", "type", "content"], *rows])


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _yaml(value: Any, indent: str = "") -> str:
    """Dictionaries and lists as YAML blocks; what they hold as JSON, which is YAML too."""
    items = value.items() if isinstance(value, Mapping) else ((None, item) for item in value)
    lines = []
    for key, item in items:
        start = f"{indent}- " if key is None else f"{indent}{key}:"
        if not isinstance(item, Mapping | list):
            shown = quote(item) if isinstance(item, str) else json.dumps(item)
            lines.append(f"{start.rstrip()} {shown}\n")
        elif key is None:
            lines.append(start + _yaml(item, f"{indent}  ").removeprefix(f"{indent}  "))
        else:
            lines.append(f"{start}\n{_yaml(item, f'{indent}  ')}")
    return "".join(lines)
