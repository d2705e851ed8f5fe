"""The model card: metadata that the hub reads, facts, text that is escaped, lines that run."""

from __future__ import annotations

import copy
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from torch.export import ExportedProgram

from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.evaluation.model_card import model_card
from fpd.pipeline.models.export import openvino_file, registry
from fpd.pipeline.models.export.registry import Kind
from fpd.pipeline.prediction.people import BOX_MARGIN
from fpd.pipeline.runtime.files import read_json
from fpd.pipeline.workdir import WorkDir
from fpd.stages import export

SHA = "5a" * 32


@pytest.fixture
def report(toy_onnx: Path) -> dict[str, Any]:
    return read_json(toy_onnx.with_name("student.onnx.json")) | {"name": "mine"}


@pytest.fixture
def record(toy_work: Path) -> dict[str, Any]:
    """As of a student of another teacher."""
    record = WorkDir(toy_work).teacher.record()
    record["identity"]["inputs"]["teacher"] = {
        "model": {"name": "hourglass", "stages": 8},
        "sha256": SHA,
    }
    record["identity"]["settings"]["training"]["alpha"] = 1.0
    return record


@pytest.fixture
def evaluation(report: dict[str, Any]) -> dict[str, Any]:
    def row(mean: float, sha256: str) -> dict[str, Any]:
        weights = {"result": {"weights_sha256": sha256}}
        return {"metric": "PCK@0.2", "mean": mean, "samples": 997, "record": weights}

    rows = {"teacher": row(0.663, SHA), "mine": row(0.5, report["weights_sha256"])}
    one_pass = {"flip_test": False, "scales": [1.0]}
    return {"dataset": {"name": "lsp/test"}, "models": rows, "evaluation": one_pass}


def test_the_hub_reads_the_metadata(
    report: dict[str, Any], record: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    data = ModelCard(model_card(report, record, evaluation, "cc-by-nc-4.0")).data
    assert (data.license, data.library_name) == ("cc-by-nc-4.0", "onnx")
    assert data.pipeline_tag == "keypoint-detection" and data.datasets == ["synthetic"]
    (result,) = data.eval_results
    assert (result.metric_name, result.metric_value) == ("PCK@0.2 (%)", 50.0)
    assert (result.dataset_name, result.task_type) == ("lsp/test", "keypoint-detection")
    assert data.model_name == report["name"]


def test_the_card_has_the_facts(
    report: dict[str, Any], record: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    text = model_card(report, record, evaluation, None)
    assert "License: not stated" in text and "\nlicense" not in text
    assert "| data | synthetic/train, 18 samples |" in text
    assert "| trained on | teacher heatmaps only |" in text
    assert (
        "| teacher | hourglass (stages 8), trained with fpd (SHA-256 of its weights: 5a5a" in text
    )
    assert "5a5a); PCK@0.2 66.3 % |" in text
    assert "| PCK@0.2 | 50.0 % (lsp/test, 997 samples) |" in text
    assert f"| parameters | {report['parameters']:,} |" in text
    assert "| `joints` | float32 (batch, 14, 2) | x, y in crop pixels" in text
    assert "neck, head top." in text


def test_a_score_of_several_passes_is_not_the_files(
    report: dict[str, Any], record: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    record["result"]["validation_pck"] = 0.25
    evaluation["evaluation"]["flip_test"] = True
    text = model_card(report, record, evaluation, None)
    assert "50.0 %" not in text and "| PCK | 25.0 %" in text


def test_without_an_evaluation_the_validation_counts_or_nothing_was_measured(
    report: dict[str, Any], record: dict[str, Any]
) -> None:
    record["result"]["validation_pck"] = 0.25
    assert "| PCK | 25.0 % (synthetic/train, validation samples) |" in model_card(
        report, record, {}, None
    )
    record["result"]["validation_pck"] = None
    text = model_card(report, record, {"models": {"a": "no row"}}, None)
    assert "| PCK | not measured |" in text and "model-index" not in text


def test_a_quantized_file_has_its_own_score(
    report: dict[str, Any], record: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    costs = {"metric": "PCK@0.2", "dataset": "lsp/test", "people": 997, "int8": {"pck": 0.48}}
    text = model_card(report | {"quantized": costs}, record, evaluation, None)
    assert "| PCK@0.2 | 48.0 % (lsp/test, 997 samples) |" in text and "50.0 %" not in text


def test_an_external_teacher_is_named(
    report: dict[str, Any], record: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    entry = {"teachers": [{"kind": "vitpose", "sha256": SHA}], "sha256": SHA}
    record["identity"]["inputs"]["teacher"] = entry
    evaluation["models"]["teacher"] = {"metric": "PCK@0.2", "mean": 0.8, "teacher": entry}
    text = model_card(report, record, evaluation, None)
    assert "| teacher | vitpose (SHA-256 5a5a" in text and "); PCK@0.2 80.0 % |" in text


@pytest.mark.parametrize("text", ["a\n---\n# b", "<script>x</script>", "a | b", "[a](http://b)"])
def test_text_of_a_record_stays_text(
    text: str, report: dict[str, Any], record: dict[str, Any], evaluation: dict[str, Any]
) -> None:
    changed = copy.deepcopy(report)
    changed["joints"][0] = changed["skeleton"] = changed["name"] = text
    record["identity"]["inputs"]["dataset"]["name"] = text
    evaluation["dataset"]["name"] = text
    card = model_card(changed, record, evaluation, None)
    body = card.split("\n---\n", 1)[1]
    for sign in ("\n---\n", "<script", "[a", "| b"):
        assert not re.search(rf"(?<!\\){re.escape(sign)}", body)
    assert ModelCard(card).data.model_name.startswith(text.split("\n")[0])


def test_a_license_that_the_hub_has_no_identifier_of_has_a_name(
    report: dict[str, Any], record: dict[str, Any]
) -> None:
    text = model_card(report, record, {}, "Ours, v2 | *")
    data = ModelCard(text).data
    assert (data.license, data.license_name) == ("other", "Ours, v2 | *")
    assert "\nLicense: Ours, v2 \\| \\*.\n" in text


def test_the_margin_is_that_of_predict() -> None:
    assert BOX_MARGIN == 1.25  # as the card's text has it


@pytest.mark.parametrize(
    ("kind", "package"),
    [
        ("onnx", "onnxruntime"),
        ("torch-export", "torch"),
        ("openvino", "openvino"),
        pytest.param("tflite", "litert_torch", marks=pytest.mark.slow),
    ],
)
def test_the_lines_of_use_run(
    kind: Kind,
    package: str,
    toy_work: Path,
    toy_recipe: Recipe,
    toy_program: ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the folder of the file and of a photo."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    for module in (registry, openvino_file):
        monkeypatch.setattr(module, "export_program", lambda _: toy_program)
    out = tmp_path / f"student{registry.FORMATS[kind].suffixes[0]}"
    export.run(WorkDir(toy_work), toy_recipe, "teacher", kind=kind, out=out)
    Image.new("RGB", (200, 200)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", Path(f"{out}.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == (1 if kind == "openvino" else 2)
    for block in blocks:
        found: dict[str, Any] = {}
        exec(block, found)
        assert tuple(found["joints"].shape[1:]) == (14, 2)
