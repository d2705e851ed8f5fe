"""Deployed files: ONNX, for onnxruntime, and PyTorch's own exported programs.

Both hold the model's description (`describe`) inside.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from .... import __version__
from ..checkpoint import TrainedModel
from .deployable import INPUT, OUTPUTS, Answer, Deployable, ModelRunner, in_pytorch

EXAMPLE_BATCH = 2  # not 1: PyTorch takes a dimension of 1 for one that stays 1
MOST_CROPS = 4096
DESCRIPTION = "fpd.json"
"""The key of the description in a file's own metadata."""


def onnx_packages() -> tuple[ModuleType, ModuleType]:
    """The modules onnx and onnxruntime, with PyTorch's exporter's onnxscript beside them.

    Raises:
        ValueError: not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"ONNX needs {error.name}, which is not installed: pip install 'fast-pose-distillation[onnx]'"
        ) from None
    return onnx, onnxruntime


def describe(trained: TrainedModel) -> dict[str, Any]:
    """What a user of a deployed file has to know, as JSON holds it."""
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
        "input": {"name": INPUT, "dtype": "uint8", "shape": ["batch", side, side, 3], "is": "RGB"},
        "outputs": {
            "joints": {
                "dtype": "float32",
                "shape": ["batch", joints, 2],
                "is": "x, y in crop pixels; the center of the top-left pixel is (0, 0)",
            },
            "peaks": {
                "dtype": "float32",
                "shape": ["batch", joints],
                "is": "height of each heatmap's highest pixel: how sure the network is",
            },
            "heatmaps": {"dtype": "float32", "shape": ["batch", joints, map_side, map_side]},
        },
    }


def export_program(trained: TrainedModel) -> ExportedProgram:
    """The deployable network, on the CPU, as PyTorch's exported program; its batch size is open."""
    side = trained.geometry.crop_px
    example = torch.zeros(EXAMPLE_BATCH, side, side, 3, dtype=torch.uint8)
    # A copy, in the order in which files hold weights: PyTorch warns of saving another.
    module = copy.deepcopy(Deployable(trained)).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    program = torch.export.export(
        module,
        (example,),
        dynamic_shapes={INPUT: {0: Dim("batch", min=1, max=MOST_CROPS)}},
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # half of a small file, and paths of this machine
    return program


def program_bytes(program: ExportedProgram, description: dict[str, Any]) -> bytes:
    """A `.pt2` file; `torch.export.load` reads it."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(description)})
    return content.getvalue()


def onnx_bytes(program: ExportedProgram, description: dict[str, Any]) -> bytes:
    """An ONNX file, weights inside."""
    onnx_packages()
    with _quiet():
        made = torch.onnx.export(
            program, input_names=[INPUT], output_names=OUTPUTS, dynamo=True, verbose=False
        )
    assert made is not None
    model = made.model_proto
    _strip(model)
    return with_description(model, description)


def with_description(model: Any, description: dict[str, Any]) -> bytes:
    """An `onnx.ModelProto` with the description among its metadata, serialized."""
    onnx, _ = onnx_packages()
    onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(description)})
    content: bytes = model.SerializeToString()
    return content


def _strip(model: Any) -> None:
    """Take out the exporter's notes on each node: they are half of a small student's file."""
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
    """PyTorch 2.13's exporter warns of PyTorch itself, and logs that torchvision is absent."""
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
    """A `.pt2` file's content as an `ModelRunner`."""
    program = torch.export.load(io.BytesIO(content))
    return in_pytorch(program.module())


def open_onnx(content: bytes, threads: int | None = None) -> ModelRunner:
    """An ONNX file's content as an `ModelRunner`, run by onnxruntime on the CPU.

    Args:
        threads: of one operation; none given: PyTorch's number.
    """
    _, runtime = onnx_packages()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def answer(crops_BSS3: NDArray[np.uint8]) -> Answer:
        return Answer(*session.run(list(OUTPUTS), {INPUT: crops_BSS3}))

    return answer
