"""OpenVINO's format: a graph in XML beside its weights, made from the program as ONNX.

OpenVINO's own converter for PyTorch renames inputs and outputs, and forgets the size of the crops;
its reader of ONNX keeps both.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..checkpoint import TrainedModel
from .deployable import INPUT, OUTPUTS, ModelOutput, ModelRunner
from .formats import DESCRIPTION, export_program, import_or_explain, onnx_model

TELEMETRY = "openvino_telemetry"


def openvino_package() -> ModuleType:
    """Import OpenVINO, and check for the packages that PyTorch's exporter to ONNX needs.

    Raises:
        ValueError: one of them is not installed.
    """
    names = ("openvino", "onnx", "onnxscript")
    with _without_telemetry():
        return import_or_explain(names, "OpenVINO's format", "openvino")[0]


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Have OpenVINO use its stub: importing it would report each use to its makers otherwise."""
    before = sys.modules.get(TELEMETRY)
    sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        del sys.modules[TELEMETRY]
        if before is not None:
            sys.modules[TELEMETRY] = before


def openvino_bytes(trained: TrainedModel, description: dict[str, Any]) -> tuple[bytes, bytes]:
    """The contents of an `.xml` file and of the `.bin` file beside it, in float32.

    The description is in the graph's runtime information.
    """
    openvino = openvino_package()
    content = onnx_model(export_program(trained)).SerializeToString()
    model = openvino.Core().read_model(content)
    model.set_rt_info(json.dumps(description), [DESCRIPTION])
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "model.xml")
        openvino.save_model(model, graph, compress_to_fp16=False)
        return graph.read_bytes(), graph.with_suffix(".bin").read_bytes()


def open_openvino(graph: bytes, weights: bytes) -> ModelRunner:
    """Run the contents of both files in OpenVINO on the CPU, in float32."""
    core = openvino_package().Core()
    options = {
        # Otherwise CPUs with bfloat16 compute in it.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = core.compile_model(core.read_model(graph, weights), "CPU", options)

    def run(crops_BSS3: NDArray[np.uint8]) -> ModelOutput:
        outputs = compiled({INPUT: crops_BSS3})
        return ModelOutput(*(np.array(outputs[name]) for name in OUTPUTS))

    return run
