"""Tiny networks as ONNX and TFLite files, with every head, for these tests and those of the stages.

Each is a convolution that shrinks the crop, and what its head needs; weights are from a seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

HEIGHT, WIDTH, STRIDE, RATIO = 64, 48, 4, 2
KERNEL = 7


def write_spec(path: Path, joints: tuple[str, ...], **keys: Any) -> Path:
    """Write `FILE.json` beside a file, and return the file's path."""
    spec = {"joints": joints, **keys}
    path.with_name(path.name + ".json").write_text(json.dumps(spec))
    return path


def weights(shape: tuple[int, ...], seed: int = 0, scale: float = 0.1) -> Any:
    values = np.random.default_rng(seed).normal(0, scale, shape)
    return values.astype(np.float32)


def convolution(joints: int) -> Any:
    return weights((joints, 3, KERNEL, KERNEL))


def onnx_model(head: str, joints: int, *, batch: int | str = "batch", nhwc: bool = False) -> Any:
    """A model with the input `image` and, by its head, the outputs of a teacher, as a proto."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rows, columns = HEIGHT // STRIDE, WIDTH // STRIDE
    float32 = TensorProto.FLOAT
    initializers = {"weights": convolution(joints)}
    nodes = []
    if nhwc:
        nodes.append(helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
    nodes.append(
        helper.make_node(
            "Conv",
            ["planes" if nhwc else "image", "weights"],
            ["maps"],
            strides=[STRIDE, STRIDE],
            pads=[KERNEL // 2] * 4,
        )
    )
    outputs: dict[str, list[int | str]] = {}
    if head in ("heatmaps", "logits"):
        last = "maps"
        if head == "heatmaps":
            nodes.append(helper.make_node("Sigmoid", ["maps"], ["heatmaps"]))
            last = "heatmaps"
        if nhwc:
            nodes.append(helper.make_node("Transpose", [last], ["last"], perm=[0, 2, 3, 1]))
            outputs["last"] = [batch, rows, columns, joints]
        else:
            outputs[last] = [batch, joints, rows, columns]
    elif head == "simcc":
        initializers["axes_y"], initializers["axes_x"] = np.array([3]), np.array([2])
        for axis, size in (("x", columns), ("y", rows)):
            initializers[f"spread_{axis}"] = weights((size, size * STRIDE * RATIO), scale=0.4)
            nodes += [
                helper.make_node("ReduceMean", ["maps", f"axes_{axis}"], [axis], keepdims=0),
                helper.make_node("MatMul", [axis, f"spread_{axis}"], [f"simcc_{axis}"]),
            ]
            outputs[f"simcc_{axis}"] = [batch, joints, size * STRIDE * RATIO]
    else:  # landmarks: x, y in 0..1 and a confidence
        initializers["flat"] = np.array([0, joints, rows * columns])
        initializers["spread"] = weights((rows * columns, 3))
        nodes += [
            helper.make_node("Reshape", ["maps", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "spread"], ["values"]),
            helper.make_node("Sigmoid", ["values"], ["landmarks"]),
        ]
        outputs["landmarks"] = [batch, joints, 3]
    shape = [batch, HEIGHT, WIDTH, 3] if nhwc else [batch, 3, HEIGHT, WIDTH]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", float32, shape)],
        [helper.make_tensor_value_info(name, float32, size) for name, size in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def write_onnx(path: Path, head: str, joints: int, **options: Any) -> Path:
    path.write_bytes(onnx_model(head, joints, **options).SerializeToString())
    return path


def tflite_model(joints: int, head: str = "logits") -> Any:
    """A convolution as TFLite's tables (`ModelT`): NHWC, a batch of one, the output `Identity`."""
    from ai_edge_litert import schema_py_generated as schema

    rows, columns = HEIGHT // STRIDE, WIDTH // STRIDE
    kernels = np.ascontiguousarray(convolution(joints).transpose(0, 2, 3, 1))
    bias = np.zeros(joints, np.float32)

    def tensor(name: str, shape: tuple[int, ...], buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.buffer, made.shape = name.encode(), buffer, np.array(shape, np.int32)
        made.type = schema.TensorType.FLOAT32
        made.quantization = None
        return made

    def buffer(array: Any = None) -> Any:
        made = schema.BufferT()
        made.data = None if array is None else np.frombuffer(array.tobytes(), np.uint8)
        return made

    def operator(code: int, inputs: list[int], outputs: list[int]) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex = code
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        return made

    def operator_code(code: int) -> Any:
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = code
        made.version = 1
        return made

    graph = schema.SubGraphT()
    graph.name = b"main"
    graph.tensors = [
        tensor("image", (1, HEIGHT, WIDTH, 3), 0),
        tensor("weights", kernels.shape, 1),
        tensor("bias", bias.shape, 2),
        tensor("maps" if head == "heatmaps" else "Identity", (1, rows, columns, joints), 0),
    ]
    options = schema.Conv2DOptionsT()
    options.strideW = options.strideH = STRIDE
    options.padding = schema.Padding.SAME
    graph.operators = [operator(0, [0, 1, 2], [3])]
    graph.operators[0].builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    graph.operators[0].builtinOptions = options
    codes = [operator_code(schema.BuiltinOperator.CONV_2D)]
    if head == "heatmaps":
        graph.tensors.append(tensor("Identity", (1, rows, columns, joints), 0))
        graph.operators.append(operator(1, [3], [4]))
        codes.append(operator_code(schema.BuiltinOperator.LOGISTIC))
    graph.inputs = np.array([0], np.int32)
    graph.outputs = np.array([len(graph.tensors) - 1], np.int32)
    model = schema.ModelT()
    model.version, model.description = 3, b"tiny"
    model.operatorCodes, model.subgraphs = codes, [graph]
    model.buffers = [buffer(), buffer(kernels), buffer(bias)]
    return model


def tflite_bytes(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def write_tflite(path: Path, joints: int, head: str = "logits") -> Path:
    path.write_bytes(tflite_bytes(tflite_model(joints, head)))
    return path
