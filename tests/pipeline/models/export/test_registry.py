"""Every format's file computes what PyTorch computes, and describes itself."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from fpd.cli import main
from fpd.pipeline.evaluation.model_card import LIBRARIES, READ_BY_FPD, USES
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.export import openvino_file, registry
from fpd.pipeline.models.export.deployable import Deployable, in_pytorch
from fpd.pipeline.models.export.formats import DESCRIPTION, describe
from fpd.pipeline.models.export.parity import compare
from fpd.pipeline.models.export.registry import FORMATS, Kind
from fpd.pipeline.prediction.exported import READERS as EXPORTED_READERS
from fpd.pipeline.prediction.exported import read_exported
from fpd.pipeline.workdir import WorkDir

PACKAGES = {"openvino": "openvino", "tflite": "litert_torch"}


def read_openvino(graph: bytes, weights: bytes) -> str:
    model = openvino_file.openvino_package().Core().read_model(graph, weights)
    return str(model.get_rt_info([DESCRIPTION]).value)


def read_tflite(content: bytes) -> str:
    from ai_edge_litert.schema_py_generated import ModelT

    model = ModelT.InitFromPackedBuf(content)
    (entry,) = [entry for entry in model.metadata if entry.name.decode() == DESCRIPTION]
    return bytes(model.buffers[entry.buffer].data).decode()


READERS: dict[str, Callable[..., str]] = {"openvino": read_openvino, "tflite": read_tflite}


def need(kind: str) -> None:
    package = PACKAGES[kind]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize(
    "kind", ["openvino", pytest.param("tflite", marks=pytest.mark.slow)]
)  # ONNX and .pt2: tests/stages/test_export.py
def test_a_converted_file_computes_what_pytorch_computes(
    kind: Kind,
    toy_work: Path,
    toy_program: ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    need(kind)
    monkeypatch.setattr(openvino_file, "export_program", lambda _: toy_program)
    trained = load_model(WorkDir(toy_work).teacher, torch.device("cpu"))
    form = FORMATS[kind]
    description = describe(trained, form.batch) | {"name": "<&\"'> é"}
    contents = form.write(trained, description)
    assert len(contents) == len(form.suffixes)
    assert json.loads(READERS[kind](*contents)) == description
    assert not any(str(Path(registry.__file__).parents[3]).encode() in part for part in contents)
    crops = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    difference = compare(in_pytorch(Deployable(trained)), form.open(*contents), crops)
    difference.check()
    assert difference.joints_compared > 0
    if kind == "tflite":
        assert_read_back(contents[0], crops, description, tmp_path / "student.tflite")


def assert_read_back(
    content: bytes, crops: NDArray[np.uint8], description: dict[str, Any], path: Path
) -> None:
    """`fpd predict --model FILE` computes the same, from the parts that are checked."""
    path.write_bytes(content)
    model, expected = read_exported(path), FORMATS["tflite"].open(content)(crops)
    assert model.sha256 == hashlib.sha256(content).hexdigest()
    assert list(model.skeleton.joints) == description["joints"]
    found = model.run(crops)
    np.testing.assert_array_equal(found.joints, expected.joints)
    np.testing.assert_array_equal(found.peaks, expected.peaks)


@pytest.mark.parametrize(("kind", "package"), [("openvino", "openvino"), ("tflite", "litert")])
def test_a_missing_package_is_named_with_its_extra(
    kind: Kind, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[kind], None)
    with pytest.raises(ValueError, match=rf"not installed: pip install '.*\[{package}\]'"):
        FORMATS[kind].check()


def test_openvino_is_imported_without_its_telemetry() -> None:
    need("openvino")
    before = sys.modules.get(openvino_file.TELEMETRY)
    openvino_file.openvino_package()
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules
    assert sys.modules.get(openvino_file.TELEMETRY) is before


def test_the_command_and_the_card_know_all_formats() -> None:
    (option,) = [p for p in main.commands["export"].params if p.name == "kind"]
    assert list(option.type.choices) == list(FORMATS) == list(USES) == list(LIBRARIES)


def test_the_card_tells_to_load_what_can_be_read() -> None:
    assert {FORMATS[kind].suffixes[0] for kind in READ_BY_FPD} == set(EXPORTED_READERS)
