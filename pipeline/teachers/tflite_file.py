"""A teacher in a TFLite file (MediaPipe and others), run by LiteRT on the CPU.

    fpd cache-heatmaps --teacher models/pose_landmark_full.tflite

LiteRT is not made for hostile files, so the file is read once, and refused unless it holds one
graph of built-in operators without control flow, state or randomness, whose indices and sizes are
within bounds. LiteRT gets a new file with the parts that were checked.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.io.files import read_bytes
from .network_file import FileTeacher, Network, Port, find_spec, first_line

MAX_FILE_BYTES = 1 << 30
MAX_TENSORS = 50_000
MAX_TENSOR_BYTES = 1 << 30
MAX_RANK = 8
MAX_METADATA_BYTES = 1 << 20
METADATA = "fpd.json"
"""The metadata that is read (`export.formats.DESCRIPTION`)."""

IDENTIFIER = b"TFL3"

INPUTS = {
    (1, 1): "RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU ELU GELU HARD_SWISH LOGISTIC TANH "
    "SOFTMAX LOG_SOFTMAX EXP LOG SQRT RSQRT SQUARE NEG ABS SIN COS FLOOR CEIL ROUND SIGN CAST "
    "QUANTIZE DEQUANTIZE AVERAGE_POOL_2D MAX_POOL_2D L2_POOL_2D L2_NORMALIZATION DEPTH_TO_SPACE "
    "SPACE_TO_DEPTH SQUEEZE SHAPE RANK ZEROS_LIKE UNPACK LOGICAL_NOT",
    (1, 2): "RESHAPE",
    (2, 2): "ADD SUB MUL DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM POW SQUARED_DIFFERENCE LESS "
    "LESS_EQUAL GREATER GREATER_EQUAL EQUAL NOT_EQUAL LOGICAL_AND LOGICAL_OR RESIZE_BILINEAR "
    "RESIZE_NEAREST_NEIGHBOR PAD MIRROR_PAD MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD TRANSPOSE "
    "GATHER GATHER_ND PRELU BATCH_MATMUL EXPAND_DIMS SPLIT TILE BROADCAST_TO ARG_MAX ARG_MIN "
    "TOPK_V2",
    (3, 3): "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED SLICE PADV2 SELECT SELECT_V2 SPLIT_V "
    "BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND",
    (3, 4): "TRANSPOSE_CONV",
    (4, 4): "STRIDED_SLICE",
    (1, 256): "CONCATENATION PACK ADD_N",
}
OPERATORS = {name: counts for counts, names in INPUTS.items() for name in names.split()}
"""The operators that a network may have, with their least and largest number of inputs, which not
all of LiteRT's kernels check. Custom operators, and those that call other graphs, keep a state or
are random, are not among them."""

SEVERAL_OUTPUTS = ("SPLIT", "SPLIT_V", "UNPACK", "TOPK_V2")

SIZES = re.compile(r"RESIZE_.*|PAD|PADV2|MIRROR_PAD|TILE|BROADCAST_TO|SPACE_TO_BATCH_ND|RESHAPE")
"""Operators whose constants decide the size of their output."""

MAX_GROWTH = 1 << 26
"""Limit of the product of such constants, each plus one."""

POSITIVE = re.compile(
    r"(stride|dilation|filter)(W|H|D|Width|Height)(Factor)?|blockSize|depthMultip.*"
)
"""Options of operators by which LiteRT divides, or that its loops depend on."""

MAX_OPTION = 4096


class TFLiteNetwork(Network):
    """A vetted model in LiteRT."""

    def __init__(self, content: bytes) -> None:
        interpreter = packages().interpreter.Interpreter(
            model_content=content, num_threads=torch.get_num_threads()
        )
        interpreter.allocate_tensors()
        self._interpreter = interpreter
        self.inputs = interpreter.get_input_details()
        self._outputs = {detail["name"]: detail for detail in interpreter.get_output_details()}

    @property
    def input(self) -> Port:
        return _port(self.inputs[0])

    @property
    def outputs(self) -> Sequence[Port]:
        return [_port(detail) for detail in self._outputs.values()]

    def to(self, device: torch.device) -> None:
        """No effect: LiteRT runs on the CPU."""

    def run(self, batch: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[np.float32]]:
        self._interpreter.set_tensor(self.inputs[0]["index"], batch)
        self._interpreter.invoke()
        outputs = [self._outputs[name]["index"] for name in names]
        return [np.array(self._interpreter.get_tensor(index), np.float32) for index in outputs]


def _port(detail: Any) -> Port:
    # LiteRT runs the shape that the file states: a free batch (-1 in the signature) is 1 there.
    return Port(detail["name"], tuple(int(size) for size in detail["shape"]))


def packages() -> Any:
    """Import LiteRT: its modules `interpreter` and `schema_py_generated`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import ai_edge_litert
        import ai_edge_litert.interpreter
        import ai_edge_litert.schema_py_generated
    except ImportError as error:
        raise ValueError(
            f"a TFLite file needs ai-edge-litert, which is not installed ({error}): "
            "pip install 'fast-pose-distillation[tflite]'"
        ) from None
    return ai_edge_litert


def load(path: Path, name: str | None = None) -> FileTeacher:
    """Load a TFLite file.

    Args:
        name: the teacher's name, in which a known network is looked for; None: the file's path.

    Raises:
        ValueError: LiteRT is not installed, the file is damaged, has no spec, or holds more than
            one graph of built-in operators.
    """
    file = read_checked(path)
    try:
        network = TFLiteNetwork(file.content)
    except Exception as error:  # of several types
        raise ValueError(f"{path} cannot be run by LiteRT: {first_line(error)}") from None
    details = network.inputs
    if len(details) != 1 or details[0]["dtype"] is not np.float32:
        found = ", ".join(f"{d['name']:.80} ({np.dtype(d['dtype'])})" for d in details[:8])
        raise ValueError(
            f"{path}: expected one input, of float32, found {found}: use the file in floating "
            "point, not a quantized one"
        )
    spec = find_spec(path, name or str(path.absolute()), file.sha256, network)
    return FileTeacher(path, network, spec, file.sha256)


class CheckedFile(NamedTuple):
    """What was checked of a file.

    Attributes:
        content: a new file with its network alone.
        sha256: of the file, in hexadecimal.
        description: what `fpd export` wrote into its metadata; empty in other files.
        outputs: the tensors of its signature's outputs, by name; empty without a signature.
    """

    content: bytes
    sha256: str
    description: bytes
    outputs: dict[str, int]


def read_checked(path: Path) -> CheckedFile:
    """Read a file, and check that it holds one graph of built-in operators.

    Raises:
        ValueError: LiteRT is not installed, or the file is missing, damaged, or holds more.
    """
    content = read_bytes(path, MAX_FILE_BYTES, "a TFLite file")
    schema = packages().schema_py_generated
    import flatbuffers  # LiteRT requires it

    if content[4:8] != IDENTIFIER:
        raise ValueError(
            f"{path} cannot be read as a TFLite file: expected {IDENTIFIER.decode()} in its head"
        )
    try:
        _check_counts(schema.Model.GetRootAs(content, 0))
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        _check(model, schema)
        description, outputs = _metadata(model, METADATA), _outputs(model)
        model.metadata = model.metadataBuffer = model.signatureDefs = None
        builder = flatbuffers.Builder(len(content))
        builder.Finish(model.Pack(builder), IDENTIFIER)
        digest = hashlib.sha256(content).hexdigest()
        return CheckedFile(bytes(builder.Output()), digest, description, outputs)
    except _Refused as error:
        raise ValueError(f"{path} {error}") from None
    except Exception as error:  # of many types, for offsets and numbers outside of the file
        raise ValueError(f"{path} cannot be read as a TFLite file: {first_line(error)}") from None


def _metadata(model: Any, name: str) -> bytes:
    """The first entry of a name; b"" if there is none or it is above `MAX_METADATA_BYTES`."""
    entries = [e for e in model.metadata or () if (e.name or b"") == name.encode()][:1]
    _check_indices([entry.buffer for entry in entries], 0, len(model.buffers))
    for entry in entries:
        data = model.buffers[entry.buffer].data
        if data is not None and len(data) <= MAX_METADATA_BYTES:
            return np.asarray(data, np.uint8).tobytes()
    return b""


def _outputs(model: Any) -> dict[str, int]:
    """Names of tensors that are outputs of the graph; other names are left out."""
    [graph] = model.subgraphs
    signatures = model.signatureDefs or ()
    pairs = [(entry.name or b"", entry.tensorIndex) for s in signatures[:1] for entry in s.outputs]
    allowed = set(_list(graph.outputs))
    return {name.decode("utf-8", "replace"): index for name, index in pairs if index in allowed}


class _Refused(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}: expected one graph of TFLite's built-in operators; for others, use "
            "--teacher package.module:factory (docs/teachers.md)"
        )


def _check_counts(model: Any) -> None:
    """Before the file is parsed: a damaged count would take hours."""
    if model.SubgraphsLength() != 1:
        raise _Refused(f"has {model.SubgraphsLength()} graphs")
    graph = model.Subgraphs(0)
    counts = [
        model.OperatorCodesLength(),
        model.BuffersLength(),
        model.MetadataLength(),
        model.SignatureDefsLength(),
        graph.TensorsLength(),
        graph.OperatorsLength(),
        graph.InputsLength(),
        graph.OutputsLength(),
    ]
    for index in range(min(graph.OperatorsLength(), MAX_TENSORS)):
        operator = graph.Operators(index)
        counts += [operator.InputsLength(), operator.OutputsLength()]
    for index in range(min(graph.TensorsLength(), MAX_TENSORS)):
        tensor = graph.Tensors(index)
        counts += [tensor.VariantTensorsLength()]
        if tensor.ShapeLength() > MAX_RANK or tensor.ShapeSignatureLength() > MAX_RANK:
            raise _Refused(f"has tensors with more than {MAX_RANK} axes")
        if tensor.Sparsity() is not None:
            raise _Refused("has sparse tensors")
    if max(counts) > MAX_TENSORS:
        raise _Refused(f"has more than {MAX_TENSORS} tensors or operators")


def _check(model: Any, schema: Any) -> None:
    """Refuse what could make LiteRT read or write out of bounds, or run other code."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    for code in model.operatorCodes:
        name = names.get(max(code.deprecatedBuiltinCode, code.builtinCode), "CUSTOM")
        if name not in OPERATORS or code.customCode:
            custom = (code.customCode or b"").decode("utf-8", "replace")
            raise _Refused(f"has the operator {name} {custom:.80}".rstrip())
    if model.externalBuffers or model.externalBufferGroups:
        raise _Refused("has weights in other files")
    if any(buffer.offset or buffer.size for buffer in model.buffers):
        raise _Refused("has weights outside of its tables")
    [graph] = model.subgraphs
    for tensor in graph.tensors:
        _check_tensor(tensor, model.buffers, schema)
    builtins = [
        names[max(code.deprecatedBuiltinCode, code.builtinCode)] for code in model.operatorCodes
    ]
    for operator in graph.operators:
        _check_operator(operator, builtins, len(graph.tensors))
        _check_growth(operator, builtins[operator.opcodeIndex], graph, model.buffers)
    _check_flow(graph, model.buffers)


def _check_tensor(tensor: Any, buffers: Sequence[Any], schema: Any) -> None:
    shape = _list(tensor.shape)
    if min(shape, default=0) < 0 or math.prod(shape) * 8 > MAX_TENSOR_BYTES * 2:
        raise _Refused(f"has tensors of more than {MAX_TENSOR_BYTES >> 20} MiB")
    _check_indices([tensor.buffer], 0, len(buffers))
    if tensor.isVariable or tensor.externalBuffer or tensor.variantTensors:
        raise _Refused("has variables, or weights in other files")
    types = schema.TensorType
    widths = {types.FLOAT32: 4, types.FLOAT16: 2, types.INT32: 4, types.INT64: 8, types.INT16: 2}
    widths |= {types.INT8: 1, types.UINT8: 1, types.BOOL: 1}
    if tensor.type not in widths:
        raise _Refused("has tensors of a type other than float32, float16, integer or bool")
    data = buffers[tensor.buffer].data
    if data is not None and len(data) not in (0, math.prod(shape) * widths[tensor.type]):
        raise _Refused("has weights of another size than their shape")


OPTIONAL = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
"""The input that an operator may lack (-1): its bias."""


def _check_operator(operator: Any, builtins: Sequence[str], tensors: int) -> None:
    _check_indices([operator.opcodeIndex], 0, len(builtins))
    name = builtins[operator.opcodeIndex]
    inputs, outputs = _list(operator.inputs), _list(operator.outputs)
    _check_indices(inputs, -1, tensors)
    _check_indices(outputs, 0, tensors)
    least, most = OPERATORS[name]
    optional = OPTIONAL.get(name)
    missing = any(index == -1 and place != optional for place, index in enumerate(inputs))
    if missing or not least <= len(inputs) <= most:
        raise _Refused(f"has the operator {name} without an input, or with others")
    if not outputs or (len(outputs) > 1 and name not in SEVERAL_OUTPUTS):
        raise _Refused(f"has the operator {name} with {len(outputs)} outputs")
    if operator.customOptions is not None or operator.largeCustomOptionsSize:
        raise _Refused("has options of custom operators")
    if _list(operator.intermediates) or any(operator.mutatingVariableInputs or ()):
        raise _Refused("has operators with a state")
    for key, value in getattr(operator.builtinOptions, "__dict__", {}).items():
        if POSITIVE.fullmatch(key) and not 0 < value <= MAX_OPTION:
            raise _Refused(f"has an operator with {key} {value}")


def _check_growth(operator: Any, name: str, graph: Any, buffers: Sequence[Any]) -> None:
    """Refuse constants that would make an output too large."""
    if not SIZES.fullmatch(name):
        return
    for index in _list(operator.inputs)[1:]:
        data = None if index == -1 else buffers[graph.tensors[index].buffer].data
        if data is None or len(data) > 256 or len(data) % 4:
            continue
        values = np.asarray(data, np.uint8).view(np.int32).tolist()
        if math.prod(1 + abs(value) for value in values) > MAX_GROWTH:
            raise _Refused(f"has the operator {name} with sizes of {values}")


def _check_flow(graph: Any, buffers: Sequence[Any]) -> None:
    """Every tensor is written once, before it is read; constants never are."""
    count = len(graph.tensors)
    inputs = _list(graph.inputs)
    _check_indices([*inputs, *_list(graph.outputs)], 0, count)
    written = {
        index
        for index, tensor in enumerate(graph.tensors)
        if _size(buffers[tensor.buffer].data) or 0 in _list(tensor.shape)
    }
    if not inputs or written & set(inputs):
        raise _Refused("has no input, or weights as its input")
    written |= set(inputs)
    for operator in graph.operators:
        reads = {index for index in _list(operator.inputs) if index != -1}
        writes = _list(operator.outputs)
        if not reads <= written or written & set(writes) or len(set(writes)) < len(writes):
            raise _Refused("has tensors that are read before they are written, or written twice")
        written |= set(writes)
    if not set(_list(graph.outputs)) <= written:
        raise _Refused("has an output that no operator writes")


def _size(data: Any) -> int:
    return 0 if data is None else len(data)


def _list(values: Any) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _check_indices(indices: Sequence[int], low: int, high: int) -> None:
    if not all(low <= index < high for index in indices):
        raise _Refused("is damaged: it numbers a tensor, buffer or operator that it does not have")
