"""TFLite files, for LiteRT on phones and small boards, made by litert-torch.

Their batch size is 1: litert-torch 0.10 cannot convert a dynamic one.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoint import TrainedModel
from .deployable import INPUT, OUTPUTS, ModelOutput, ModelRunner
from .formats import DESCRIPTION, contiguous, import_or_explain

BATCH = 1


def litert_packages() -> list[ModuleType]:
    """Import litert-torch, LiteRT's schema, and flatbuffers, which packs a file.

    Raises:
        ValueError: one of them is not installed.
    """
    names = ("litert_torch", "ai_edge_litert.schema_py_generated", "flatbuffers")
    with _quiet():
        return import_or_explain(names, "TFLite", "litert")


class _Named(nn.Module):
    """The deployable network with its outputs by name, which litert-torch keeps."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        return dict(zip(OUTPUTS, self.module(crops), strict=True))


def tflite_bytes(trained: TrainedModel, description: dict[str, Any]) -> bytes:
    """The content of a TFLite file with one signature: `crops` to the outputs by name."""
    litert_torch = litert_packages()[0]
    side = trained.geometry.crop_px
    example = torch.zeros(BATCH, side, side, 3, dtype=torch.uint8)
    module = _Named(contiguous(trained)).eval()
    with _quiet():
        converted = litert_torch.convert(module, sample_kwargs={INPUT: example})
        return _with_description(converted.model_content(), description)


def _with_description(content: bytes, description: dict[str, Any]) -> bytes:
    """Add the description to the metadata of a TFLite file."""
    _, schema, flatbuffers = litert_packages()
    model = schema.ModelT.InitFromPackedBuf(content)
    text = schema.BufferT()
    text.data = np.frombuffer(json.dumps(description).encode(), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = DESCRIPTION, len(model.buffers)
    model.buffers.append(text)
    model.metadata = [*(model.metadata or ()), entry]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def open_tflite(content: bytes, outputs: Mapping[str, int] | None = None) -> ModelRunner:
    """Run the content of a TFLite file in LiteRT on the CPU, crop by crop.

    Args:
        outputs: tensors of the outputs by name; None: those of the file's signature.
    """
    (litert,) = import_or_explain(("ai_edge_litert.interpreter",), "TFLite", "tflite")
    interpreter = litert.Interpreter(model_content=content, num_threads=torch.get_num_threads())
    interpreter.allocate_tensors()
    [crops] = interpreter.get_input_details()
    if outputs is None:
        signature = interpreter.get_signature_runner()
        outputs = {n: d["index"] for n, d in signature.get_output_details().items()}

    def run_one(crop_SS3: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        interpreter.set_tensor(crops["index"], crop_SS3[None])
        interpreter.invoke()
        return [interpreter.get_tensor(outputs[name]) for name in OUTPUTS]

    def run(crops_BSS3: NDArray[np.uint8]) -> ModelOutput:
        columns = zip(*map(run_one, crops_BSS3), strict=True)
        return ModelOutput(*map(np.concatenate, columns))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence litert-torch, which prints its steps, and what it imports: that warns a lot."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
