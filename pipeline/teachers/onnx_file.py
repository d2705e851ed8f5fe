"""A teacher in an ONNX file, run by onnxruntime.

    fpd cache-heatmaps --teacher models/rtmpose-m.onnx

Neither ONNX nor onnxruntime is made for hostile files, so the file is read once, and refused unless
it holds only known operators without side effects, plain tensors, and activations of bounded size.
External data are read here, from files beside the model or in folders below. onnxruntime gets a new
serialization of what was checked, with the data inside, never the file.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...data.io.files import read_bytes
from .network_file import FileTeacher, Network, Port, find_spec, first_line

log = logging.getLogger(__name__)

MAX_FILE_BYTES = (1 << 31) - 1
"""Limit of a model with its external data, which protocol buffers have as well."""

MAX_NODES = 100_000
MAX_DEPTH = 4
"""Levels of graphs within the branches of `If`."""

MAX_TENSOR_BYTES = 2 << 30
"""Limit of an activation, where the file determines its shape, for a batch of one."""

MAX_FREE_SIZE = 2048
"""What a free size counts as, except in the batch: the largest side of a teacher's input."""

REFUSED = {
    "Loop": "a loop",
    "Scan": "a loop",
    "SequenceMap": "a loop",
    "RandomNormal": "random numbers",
    "RandomNormalLike": "random numbers",
    "RandomUniform": "random numbers",
    "RandomUniformLike": "random numbers",
    "Multinomial": "random numbers",
    "Bernoulli": "random numbers",
}
"""Operators of ONNX that a pose network does not need: loops may never end, and heatmaps that are
different each time cannot be verified."""

MICROSOFT = re.compile(
    r"Attention|BiasGelu|BiasSplitGelu|DequantizeLinear|DynamicQuantizeMatMul|FastGelu"
    r"|FusedConv|FusedGemm|FusedMatMul|Gelu|MatMulIntegerToFloat|MultiHeadAttention"
    r"|NhwcFusedConv|NhwcMaxPool|QAttention|QGemm|QLinearAdd|QLinearAveragePool|QLinearConcat"
    r"|QLinearConv|QLinearGlobalAveragePool|QLinearLeakyRelu|QLinearMul|QLinearReduceMean"
    r"|QLinearSigmoid|QLinearSoftmax|QuantizeLinear|QuickGelu|SkipLayerNormalization"
)
"""Operators of onnxruntime's own (com.microsoft) that its optimizer and its quantizer write; others
read files (EPContext) or call Python (PythonOp)."""


class OnnxNetwork(Network):
    """A vetted model in onnxruntime."""

    def __init__(self, content: bytes, input: Port, outputs: Sequence[Port], dtype: Any) -> None:
        self._content, self._input, self._outputs, self._dtype = content, input, outputs, dtype
        self._session = self._open(["CPUExecutionProvider"])

    @property
    def input(self) -> Port:
        return self._input

    @property
    def outputs(self) -> Sequence[Port]:
        return self._outputs

    def to(self, device: torch.device) -> None:
        if device.type != "cuda":
            return
        _, runtime = packages()
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            log.warning(
                "the ONNX teacher runs on the CPU: this onnxruntime has no CUDA provider "
                "(pip uninstall onnxruntime; pip install onnxruntime-gpu)"
            )
            return
        cuda = ("CUDAExecutionProvider", {"device_id": device.index or 0})
        self._session = self._open([cuda, "CPUExecutionProvider"])

    def _open(self, providers: list[Any]) -> Any:
        _, runtime = packages()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; they are raised as well
        return runtime.InferenceSession(self._content, options, providers=providers)

    def run(self, batch: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[np.float32]]:
        outputs = self._session.run(list(names), {self._input.name: batch.astype(self._dtype)})
        return [np.asarray(output, dtype=np.float32) for output in outputs]


def packages() -> tuple[Any, Any]:
    """Import onnx and onnxruntime.

    Raises:
        ValueError: one of them is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"an ONNX file needs {error.name}, which is not installed: "
            "pip install 'fast-pose-distillation[onnx]'"
        ) from None
    return onnx, onnxruntime


def load(path: Path, name: str | None = None, *, root: Path | None = None) -> FileTeacher:
    """Load an ONNX file.

    Args:
        name: the teacher's name, in which a known network is looked for; None: the file's path.
        root: the folder that files of external data may not leave; None: the file's own.

    Raises:
        ValueError: a package is missing, the file is damaged, has no spec, or holds more than plain
            tensors and known operators.
    """
    network, digest = load_network(path, root=root)
    spec = find_spec(path, name or str(path.absolute()), digest, network)
    return FileTeacher(path, network, spec, digest)


def load_network(path: Path, *, root: Path | None = None) -> tuple[OnnxNetwork, str]:
    """Load the network of an ONNX file, whatever it computes, and its digest.

    Args:
        root: as of `load`.

    Raises:
        ValueError: a package is missing, the file is damaged, or holds more than plain tensors and
            known operators.
    """
    model, digests, _ = read_checked(path, root=root)
    return _open(path, model), digest_of(path, digests)


class CheckedFile(NamedTuple):
    """An ONNX file that was read once and checked.

    Attributes:
        model: the `onnx.ModelProto`, with external data inside and without metadata.
        digests: SHA-256 of each file that was read.
        metadata: the texts in the file, by key.
    """

    model: Any
    digests: dict[str, str]
    metadata: dict[str, str]


def read_checked(path: Path, *, root: Path | None = None) -> CheckedFile:
    """Read an ONNX file of unknown origin.

    Args:
        root: see `load`.

    Raises:
        ValueError: see `load`.
    """
    onnx, _ = packages()
    content = read_bytes(path, MAX_FILE_BYTES, "an ONNX file")
    model = _parse(path, content)
    digests = {path.name: hashlib.sha256(content).hexdigest()}
    try:
        metadata = {str(entry.key): str(entry.value) for entry in model.metadata_props}
        check(path, model)  # removes them
        external = read_external(path, model, MAX_FILE_BYTES - len(content), root)
    except (TypeError, UnicodeError) as error:  # texts that are not UTF-8
        raise ValueError(f"{path} cannot be read as an ONNX file: {first_line(error)}") from None
    digests |= {file: hashlib.sha256(data).hexdigest() for file, data in external.items()}
    del content, external  # may be large
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # of several types
        raise ValueError(f"{path} cannot be read as an ONNX file: {first_line(error)}") from None
    check_sizes(path, model)
    return CheckedFile(model, digests, metadata)


def digest(path: Path) -> str:
    """SHA-256 of a file or, if it has external data, of the digests of all its files.

    Raises:
        ValueError: a file cannot be read.
    """
    content = read_bytes(path, MAX_FILE_BYTES, "an ONNX file")
    digests = {path.name: hashlib.sha256(content).hexdigest()}
    try:
        model = _parse(path, content)
    except ValueError:  # damaged, or onnx is not installed
        return digests[path.name]
    try:
        files = sorted({_location(path, tensor) for tensor in _external_tensors(model)})
    except TypeError:  # texts that are not UTF-8
        return digests[path.name]
    for file in files:
        data = read_bytes(path.parent / file, MAX_FILE_BYTES, "external data")
        digests[file] = hashlib.sha256(data).hexdigest()
    return digest_of(path, digests)


def digest_of(path: Path, digests: dict[str, str]) -> str:
    """The digest of a file and of its external data, given those of each."""
    main = digests[path.name]
    rest = sorted((file, sum_) for file, sum_ in digests.items() if file != path.name)
    if not rest:
        return main
    return hashlib.sha256(json.dumps([main, *rest]).encode()).hexdigest()


def _parse(path: Path, content: bytes) -> Any:
    """The model, without its external data."""
    onnx, _ = packages()
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # google.protobuf.message.DecodeError, which is no dependency
        raise ValueError(f"{path} cannot be read as an ONNX file: {first_line(error)}") from None
    if not model.graph.node:
        raise ValueError(f"{path} cannot be read as an ONNX file: it has no operators")
    return model


def check(path: Path, model: Any) -> None:
    """Refuse operators that are unknown, loop, or have side effects, and data in other places than
    the main graph's initializers.

    Raises:
        ValueError: naming what was found.
    """
    onnx, _ = packages()
    domains = {"", "ai.onnx"}
    for count, (node, depth) in enumerate(_nodes(model.graph)):
        if count >= MAX_NODES or depth > MAX_DEPTH:
            raise _refused(path, f"has more than {MAX_NODES} operators or {MAX_DEPTH} levels")
        operator = f"{node.domain}.{node.op_type}".lstrip(".")
        known = node.domain in domains and onnx.defs.has(node.op_type)
        if not known and not (node.domain == "com.microsoft" and MICROSOFT.fullmatch(node.op_type)):
            raise _refused(path, f"has the custom operator {operator:.80}")
        if known and node.op_type in REFUSED:
            raise _refused(path, f"has {REFUSED[node.op_type]} ({operator})")
        for attribute in node.attribute:
            tensors = [attribute.t, *attribute.tensors]
            if any(t.data_location == onnx.TensorProto.EXTERNAL for t in tensors):
                raise _refused(path, f"has external data in an operator ({operator})")
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise _refused(path, f"has a sparse tensor in an operator ({operator})")
            graphs = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
            for graph in graphs:
                if graph.sparse_initializer or any(_external(t) for t in graph.initializer):
                    raise _refused(path, "has external data or sparse tensors in a branch")
    if model.graph.sparse_initializer or model.training_info:
        raise _refused(path, "has sparse tensors, or steps of training")
    # Functions that no operator calls; a call would be a custom operator.
    del model.functions[:], model.metadata_props[:]


def _nodes(graph: Any) -> Iterator[tuple[Any, int]]:
    """All nodes of a graph and of the graphs within, with their level; the deepest graph is two
    levels below the limit, which `check` then refuses.
    """
    pending = [(graph, 0)]
    while pending:
        current, depth = pending.pop()
        for node in current.node:
            yield node, depth
            for attribute in node.attribute:
                inner = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                pending += [(each, depth + 1) for each in inner]


def _refused(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} {reason}: expected a network of ONNX's own operators and plain tensors, as "
        "torch.onnx.export writes; for others, use --teacher package.module:factory "
        "(docs/teachers.md)"
    )


def _external(tensor: Any) -> bool:
    onnx, _ = packages()
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _external_tensors(model: Any) -> list[Any]:
    return [tensor for tensor in model.graph.initializer if _external(tensor)]


def _location(path: Path, tensor: Any) -> str:
    """The file of a tensor's data, relative to the model's folder.

    Raises:
        ValueError: it would leave that folder.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    file = PurePosixPath(location)
    if not location or "\\" in location or "\0" in location or file.is_absolute():
        raise _refused(path, f"has external data in {location[:80]!r}, not beside the file")
    if ".." in file.parts or file.name == path.name:
        raise _refused(path, f"has external data in {location[:80]!r}, not beside the file")
    return str(file)


def read_external(path: Path, model: Any, limit: int, root: Path | None) -> dict[str, bytes]:
    """Move external data into the model.

    Args:
        limit: the largest number of bytes that all its files may have.
        root: the folder that they may not leave, not even by links; None: that of `path`.

    Returns:
        The content of each file, by its location.

    Raises:
        ValueError: a file is missing, outside of the folder, or shorter than the model states.
    """
    onnx, _ = packages()
    inside = (root or path.parent).resolve()
    contents: dict[str, bytes] = {}
    for tensor in _external_tensors(model):
        location = _location(path, tensor)
        if location not in contents:
            file = path.parent / location
            if not file.resolve().is_relative_to(inside):
                raise _refused(path, f"has external data in {location:.80}, a link to elsewhere")
            what = f"the external data of {path.name}"
            contents[location] = read_bytes(file, limit, what)
            limit -= len(contents[location])
        entries = {entry.key: entry.value for entry in tensor.external_data}
        data = contents[location]
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", str(len(data) - offset)))
        except ValueError:
            raise _refused(path, "has external data without a place in their file") from None
        if not 0 <= offset <= offset + length <= len(data):
            raise ValueError(
                f"{path.parent / location} is damaged: expected {offset + length} bytes, found "
                f"{len(data)}: copy it again"
            )
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.raw_data = data[offset : offset + length]
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MAX_FILE_BYTES:
        raise _refused(path, f"has more than {MAX_FILE_BYTES} bytes of weights")
    return contents


def check_sizes(path: Path, model: Any) -> None:
    """Refuse activations that would need too much memory, as far as the file determines them.

    Raises:
        ValueError: naming the limit.
    """
    onnx, _ = packages()
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for tensor in plain.graph.initializer:
        if len(tensor.raw_data) > 4096:  # weights; small ones may be shapes
            tensor.ClearField("raw_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True).graph
    except Exception as error:  # onnx.shape_inference.InferenceError, and others
        raise ValueError(f"{path} cannot be read as an ONNX file: {first_line(error)}") from None
    for value in (*inferred.value_info, *inferred.output, *inferred.input):
        dims = value.type.tensor_type.shape.dim
        size = 8
        for axis, dim in enumerate(dims):
            free = 1 if axis == 0 else MAX_FREE_SIZE if len(dims) == 4 and axis > 1 else 1
            size *= dim.dim_value if dim.HasField("dim_value") else free
        if size > MAX_TENSOR_BYTES:
            raise _refused(path, f"has activations of more than {MAX_TENSOR_BYTES >> 30} GiB")


def _open(path: Path, model: Any) -> OnnxNetwork:
    onnx, _ = packages()
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    dtypes = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.FLOAT16: np.float16}
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in dtypes:
        found = ", ".join(value.name[:80] for value in inputs[:8]) or "none"
        raise ValueError(
            f"{path}: expected one input, of float32 or float16, found {found}: export the network "
            "so that its only input is the normalized crop"
        )
    dtype = dtypes[inputs[0].type.tensor_type.elem_type]
    outputs = [_port(value) for value in model.graph.output]
    try:
        return OnnxNetwork(model.SerializeToString(), _port(inputs[0]), outputs, dtype)
    except Exception as error:  # of many types
        raise ValueError(f"{path} cannot be run by onnxruntime: {first_line(error)}") from None


def _port(value: Any) -> Port:
    dims = value.type.tensor_type.shape.dim
    sizes = (dim.dim_value if dim.HasField("dim_value") else 0 for dim in dims)
    return Port(value.name, tuple(size if size > 0 else None for size in sizes))
