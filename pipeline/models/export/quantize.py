"""Eight-bit integers, by onnxruntime: what may be won in size and time, and what it costs in PCK.

PyTorch's own way, torch.ao.quantization, is deprecated (its functions say so since PyTorch 2.9),
and its successor torchao is another package; onnxruntime quantizes the file that is shipped.
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

QUANTizED = ("Conv", "Add", "MaxPool", "Relu", "Resize")
"""What static quantization covers of an hourglass: so that integers stay integers from one
convolution to the next. (Batch normalization that no convolution precedes stays float32.)"""

CALIBRATION_BATCH = 32

DISK_FACTOR = 4
"""Room for the files in between, in sizes of the model: 2.3 were seen at most, of the demo's."""


def quantize(
    content: bytes,
    method: Method,
    description: dict[str, Any],
    calibration_NSS3: NDArray[np.uint8] | None = None,
) -> bytes:
    """A float32 ONNX file, as `formats.onnx_bytes` makes it, in eight-bit integers.

    What follows the heatmaps, and the convolution that makes them, stays float32: its outputs are
    few, and decoding looks at their differences.

    Args:
        method: "static": weights and activations, ranges by calibration; "dynamic": ranges are
            found anew with every crop.
        calibration_NSS3: uint8 crops (N, S, S, 3), for "static".

    Raises:
        ValueError: onnxruntime has no room for its files.
    """
    onnx, _ = onnx_packages()
    _check_room(DISK_FACTOR * len(content))
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        prepared = _prepare(content, source)
        kept = _from_heatmaps_on(prepared)
        if method == "dynamic":
            _dynamic(source, target, kept)
        else:
            assert calibration_NSS3 is not None
            _static(source, target, kept, calibration_NSS3)
        return with_description(onnx.load(target), description)


def _check_room(expected: int) -> None:
    """Onnxruntime works in files; what a full disk leaves of them ends in errors of its parser."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < expected:
        raise ValueError(
            f"{folder}: expected {format_bytes(expected)} of room for temporary files, found "
            f"{format_bytes(free)}: name another folder with TMPDIR=FOLDER before the command"
        )


def _prepare(content: bytes, path: Path) -> Any:
    """The model with onnxruntime's own simplifications and with shapes, written and returned."""
    onnx, _ = onnx_packages()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # The symbolic part does not know all of decoding's operators, and an hourglass needs none.
    path.write_bytes(content)
    quant_pre_process(path, path, skip_symbolic_shape=True)
    return onnx.load(path)


def _from_heatmaps_on(model: Any) -> list[str]:
    """Names of the nodes that make the heatmaps, and of all that come after."""
    reached, names = {"heatmaps"}, []
    for node in model.graph.node:  # in an order in which they can be computed
        if reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
        elif "heatmaps" in node.output:
            names.append(node.name)
    return names


def _dynamic(source: Path, target: Path, kept: list[str]) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(source, target, op_types_to_quantize=["Conv"], nodes_to_exclude=kept)


def _static(source: Path, target: Path, kept: list[str], crops_NSS3: NDArray[np.uint8]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Crops(CalibrationDataReader):  # type: ignore[misc]
        """Brings crops in batches, and then None."""

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
        op_types_to_quantize=list(QUANTizED),
        nodes_to_exclude=kept,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # Seven bits of weight: CPUs without VNNI add pairs of products in 16 bits, which overflow
        # with eight (onnxruntime's documentation, "Quantize ONNX models").
        reduce_range=True,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Onnxruntime logs to the root logger that it would rather have prepared the model itself."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
