"""ONNX files, for onnxruntime and others, and PyTorch's exported programs; what any file says.

Both contain the model's description (`describe`) as metadata. `registry` has all formats.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim, ExportedProgram

from .... import __version__
from ..checkpoint import TrainedModel
from .deployable import INPUT, OUTPUTS, Deployable, ModelOutput, ModelRunner, in_pytorch

EXAMPLE_BATCH = 2  # torch.export specializes dimensions of size 1, even dynamic ones
MAX_BATCH = 4096
DESCRIPTION = "fpd.json"
"""The key of the description in a file's metadata."""


def import_or_explain(names: Sequence[str], what: str, extra: str) -> list[ModuleType]:
    """Import packages of an extra.

    Args:
        what: what needs them, for the message.
        extra: the extra of this package that installs them.

    Raises:
        ValueError: one of them is not installed.
    """
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ValueError(
            f"{what} needs {error.name or names[0]}, which is not installed: "
            f"pip install 'fast-pose-distillation[{extra}]'"
        ) from None


def onnx_packages() -> tuple[ModuleType, ModuleType]:
    """Import onnx and onnxruntime, and check for onnxscript, which PyTorch's exporter needs.

    Raises:
        ValueError: one of them is not installed.
    """
    onnx, runtime, _ = import_or_explain(("onnx", "onnxruntime", "onnxscript"), "ONNX", "onnx")
    return onnx, runtime


def describe(trained: TrainedModel, batch: int | None = None) -> dict[str, Any]:
    """What a user of an exported file needs to know, as a JSON-serializable dictionary.

    Args:
        batch: the file's batch size; None: any.
    """
    size = batch or "batch"
    side, map_side = trained.geometry.crop_px, trained.geometry.heatmap_px
    joints = len(trained.skeleton.joints)
    return {
        "fpd": __version__,
        "name": trained.name,
        "weights_sha256": trained.weights_sha256,
        "crop_px": side,
        "skeleton": trained.skeleton.name,
        "joints": list(trained.skeleton.joints),
        "limbs": [list(pair) for pair in trained.skeleton.limbs],
        "mirror": list(trained.skeleton.flip_indices),
        "input": {"name": INPUT, "dtype": "uint8", "shape": [size, side, side, 3], "is": "RGB"},
        "outputs": {
            "joints": {
                "dtype": "float32",
                "shape": [size, joints, 2],
                "is": "x, y in crop pixels; the center of the top-left pixel is (0, 0)",
            },
            "peaks": {
                "dtype": "float32",
                "shape": [size, joints],
                "is": "height of each heatmap's highest pixel: the network's confidence",
            },
            "heatmaps": {"dtype": "float32", "shape": [size, joints, map_side, map_side]},
        },
    }


def export_program(trained: TrainedModel) -> ExportedProgram:
    """The deployable network, on the CPU, as an exported program with a dynamic batch size."""
    side = trained.geometry.crop_px
    example = torch.zeros(EXAMPLE_BATCH, side, side, 3, dtype=torch.uint8)
    program = torch.export.export(
        contiguous(trained),
        (example,),
        dynamic_shapes={INPUT: {0: Dim("batch", min=1, max=MAX_BATCH)}},
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # half of a small file, with local paths
    return program


def contiguous(trained: TrainedModel) -> nn.Module:
    """A copy of the deployable network whose weights are in the contiguous memory format.

    PyTorch warns when weights in another memory format are saved, and litert-torch 0.10 converts
    them to wrong ones.
    """
    module: nn.Module = copy.deepcopy(Deployable(trained))
    return module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload,no-any-return]


def program_bytes(program: ExportedProgram, description: dict[str, Any]) -> bytes:
    """The content of a `.pt2` file, which `torch.export.load` reads."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(description)})
    return content.getvalue()


def onnx_bytes(program: ExportedProgram, description: dict[str, Any]) -> bytes:
    """The content of an ONNX file, including the weights."""
    return with_description(onnx_model(program), description)


def onnx_model(program: ExportedProgram) -> Any:
    """The program as an `onnx.ModelProto`, including the weights."""
    with _quiet():
        exported = torch.onnx.export(
            program, input_names=[INPUT], output_names=OUTPUTS, dynamo=True, verbose=False
        )
    assert exported is not None
    model = exported.model_proto
    _strip(model)
    return model


def with_description(model: Any, description: dict[str, Any]) -> bytes:
    """Add the description to the metadata of an `onnx.ModelProto`, and serialize it."""
    onnx, _ = onnx_packages()
    onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(description)})
    content: bytes = model.SerializeToString()
    return content


def _strip(model: Any) -> None:
    """Remove the exporter's notes on each node: half of a small student's file."""
    model.graph.doc_string = ""
    for part in (model.graph.node, model.graph.value_info, model.graph.initializer):
        for entry in part:
            del entry.metadata_props[:]
            entry.doc_string = ""
    for entry in (*model.graph.input, *model.graph.output):
        del entry.metadata_props[:]
    del model.graph.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence PyTorch 2.13's exporter: it warns of its own deprecations and missing torchvision."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        log.setLevel(level)


def open_program(content: bytes) -> ModelRunner:
    """Run the content of a `.pt2` file in PyTorch on the CPU."""
    program = torch.export.load(io.BytesIO(content))
    return in_pytorch(program.module())


def open_onnx(content: bytes, threads: int | None = None) -> ModelRunner:
    """Run the content of an ONNX file in onnxruntime on the CPU.

    Args:
        threads: number of threads within one operation; None: PyTorch's number.
    """
    _, runtime = onnx_packages()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(crops_BSS3: NDArray[np.uint8]) -> ModelOutput:
        return ModelOutput(*session.run(list(OUTPUTS), {INPUT: crops_BSS3}))

    return run
