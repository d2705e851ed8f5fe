"""The formats that a model is exported in: how a file is written, and how it is run again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..checkpoint import TrainedModel
from .deployable import ModelRunner
from .formats import (
    export_program,
    onnx_bytes,
    onnx_packages,
    open_onnx,
    open_program,
    program_bytes,
)
from .openvino_file import open_openvino, openvino_bytes, openvino_package
from .tflite_file import BATCH, litert_packages, open_tflite, tflite_bytes

Kind = Literal["onnx", "torch-export", "openvino", "tflite"]


@dataclass(frozen=True)
class ExportFormat:
    """One format.

    Attributes:
        suffixes: of its files; the first is that of the file that `-o` names.
        check: raises ValueError where a package is missing.
        write: the files' contents, from a model and its description (`formats.describe`).
        open: a runner of the model, from these contents.
        batch: the batch size of its files; None: any.
    """

    suffixes: tuple[str, ...]
    check: Callable[[], object]
    write: Callable[[TrainedModel, dict[str, Any]], tuple[bytes, ...]]
    open: Callable[..., ModelRunner]
    batch: int | None = None


FORMATS: dict[Kind, ExportFormat] = {
    "onnx": ExportFormat(
        suffixes=(".onnx",),
        check=onnx_packages,
        write=lambda trained, text: (onnx_bytes(export_program(trained), text),),
        open=open_onnx,
    ),
    "torch-export": ExportFormat(
        suffixes=(".pt2",),
        check=lambda: None,
        write=lambda trained, text: (program_bytes(export_program(trained), text),),
        open=open_program,
    ),
    "openvino": ExportFormat(
        suffixes=(".xml", ".bin"),
        check=openvino_package,
        write=openvino_bytes,
        open=open_openvino,
    ),
    "tflite": ExportFormat(
        suffixes=(".tflite",),
        check=litert_packages,
        write=lambda trained, text: (tflite_bytes(trained, text),),
        open=open_tflite,
        batch=BATCH,
    ),
}
