"""Quantize an exported ONNX file to 8-bit integers with onnxruntime.

PyTorch's own torch.ao.quantization is deprecated (its functions warn since PyTorch 2.9), and its
successor, torchao, is a separate package; onnxruntime quantizes the exported file itself.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...runtime.text import format_bytes
from .deployable import INPUT
from .formats import onnx_packages, with_description

Method = Literal["dynamic", "static"]

QUANTIZED = ("Conv", "Add", "MaxPool", "Relu", "Resize")
"""Operators that static quantization covers, so that values stay integers between an hourglass's
convolutions. (Batch normalization that does not follow a convolution stays float32.)"""

CALIBRATION_BATCH = 32

DISK_FACTOR = 4
"""Space for temporary files, in multiples of the model's size; the demo's models need up to 2.3."""


def quantize(
    content: bytes,
    method: Method,
    description: dict[str, Any],
    calibration_NSS3: NDArray[np.uint8] | None = None,
) -> bytes:
    """Quantize a float32 ONNX file.

    The convolution that produces the heatmaps, and everything after it, stays float32: it is cheap,
    and decoding depends on small differences between pixels.

    Args:
        content: of an ONNX file made by `formats.onnx_bytes`.
        method: "static": the ranges of activations are determined by calibration; "dynamic": they
            are determined for every crop when the model runs.
        description: metadata of the quantized file.
        calibration_NSS3: uint8 RGB crops (N, S, S, 3), required for "static".

    Returns:
        The content of the quantized ONNX file.

    Raises:
        ValueError: there is not enough space for onnxruntime's temporary files.
    """
    onnx, _ = onnx_packages()
    _check_free_space(DISK_FACTOR * len(content))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        prepared = _prepare(content, source)
        excluded = _heatmap_nodes(prepared)
        if method == "dynamic":
            _dynamic(source, target, excluded)
        else:
            assert calibration_NSS3 is not None
            _static(source, target, excluded, calibration_NSS3)
        return with_description(onnx.load(target), description)


def _check_free_space(expected: int) -> None:
    """Check first: on a full disk, onnxruntime fails with parse errors of truncated files."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < expected:
        raise ValueError(
            f"{folder}: expected {format_bytes(expected)} free for temporary files, found "
            f"{format_bytes(free)}: name another folder with TMPDIR=FOLDER before the command"
        )


def _prepare(content: bytes, path: Path) -> Any:
    """Simplify the model and infer its shapes with onnxruntime; write it and return it."""
    onnx, _ = onnx_packages()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # Symbolic shape inference lacks some of decoding's operators, and is not needed here.
    path.write_bytes(content)
    quant_pre_process(path, path, skip_symbolic_shape=True)
    return onnx.load(path)


def _heatmap_nodes(model: Any) -> list[str]:
    """Names of the nodes that compute the heatmaps, and of all that depend on them."""
    reached, names = {"heatmaps"}, []
    for node in model.graph.node:  # in topological order
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
        elif "heatmaps" in node.output:
            names.append(node.name)
    return names


def _dynamic(source: Path, target: Path, excluded: list[str]) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target, op_types_to_quantize=["Conv"], nodes_to_exclude=excluded)


def _static(source: Path, target: Path, excluded: list[str], crops_NSS3: NDArray[np.uint8]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Crops(CalibrationDataReader):  # type: ignore[misc]
        """Yields the crops in batches, then None."""

        def __init__(self) -> None:
            self.batches: Iterator[NDArray[np.uint8]] = iter(
                crops_NSS3[i : i + CALIBRATION_BATCH]
                for i in range(0, len(crops_NSS3), CALIBRATION_BATCH)
            )

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    quantize_static(
        source,
        target,
        Crops(),
        op_types_to_quantize=list(QUANTIZED),
        nodes_to_exclude=excluded,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Seven-bit weights: CPUs without VNNI add pairs of products in 16 bits, which overflows
        # with eight-bit weights (onnxruntime's documentation, "Quantize ONNX models").
        reduce_range=True,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence onnxruntime's advice to pre-process the model, which goes to the root logger."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
