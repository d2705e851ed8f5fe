"""Quantizing an ONNX file with onnxruntime."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from fpd.pipeline.models.export.formats import open_onnx
from fpd.pipeline.models.export.quantize import quantize


def test_dynamic_quantization_has_integer_weights(toy_onnx: Path) -> None:
    content = toy_onnx.read_bytes()
    quantized = quantize(content, "dynamic", {"name": "x"})
    operators = [node.op_type for node in onnx.load_from_string(quantized).graph.node]
    assert operators.count("ConvInteger") > 20
    assert operators.count("Conv") == 1  # the one that computes the heatmaps
    crops = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    expected, output = open_onnx(content)(crops).heatmaps, open_onnx(quantized)(crops).heatmaps
    assert 0 < np.abs(expected - output).max() < 0.1 * np.abs(expected).max() + 0.01


def test_too_little_space_for_temporary_files_is_refused(
    toy_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"temporary files, found 1\.0 kB: .* TMPDIR="):
        quantize(toy_onnx.read_bytes(), "dynamic", {"name": "x"})
