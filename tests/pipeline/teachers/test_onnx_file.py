"""ONNX files: the outputs that onnxruntime computes, and files that are refused unloaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fpd.data.skeletons import COCO
from fpd.pipeline.teachers.onnx_file import digest, load

from .network_files import HEIGHT, WIDTH, convolution, onnx_model, write_onnx, write_spec

onnx = pytest.importorskip("onnx", reason="ONNX teachers need onnx")
pytest.importorskip("onnxruntime", reason="ONNX teachers need onnxruntime")

JOINTS = ("neck", "head top")


def saved(folder: Path, head: str = "logits", **options: Any) -> Path:
    """A model for `JOINTS` with its spec beside it."""
    path = write_onnx(folder / "model.onnx", head, len(JOINTS), **options)
    return write_spec(path, JOINTS, head=head)


def reference(crops: torch.Tensor) -> torch.Tensor:
    """The maps of the models' convolution."""
    kernels = torch.from_numpy(convolution(len(JOINTS)))
    return torch.nn.functional.conv2d(crops, kernels, stride=4, padding=3)


@pytest.mark.parametrize("batch", ["batch", 1])
@pytest.mark.parametrize("nhwc", [False, True])
def test_heatmaps_for_any_batch_size_and_layout(
    tmp_path: Path, batch: int | str, nhwc: bool
) -> None:
    teacher = load(saved(tmp_path, batch=batch, nhwc=nhwc))
    assert teacher.spec.input == (HEIGHT, WIDTH) and teacher.spec.stride_px == 4
    assert teacher.spec.layout == ("NHWC" if nhwc else "NCHW")
    for size in (1, 5):
        crops = torch.rand(size, 3, HEIGHT, WIDTH)
        torch.testing.assert_close(teacher(crops), reference(crops), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", ["batch", 1])
def test_simcc_and_landmarks(tmp_path: Path, batch: int | str) -> None:
    crops = torch.rand(3, 3, HEIGHT, WIDTH)
    x, y = load(saved(tmp_path, "simcc", batch=batch))(crops)
    assert (x.shape, y.shape) == ((3, 2, 96), (3, 2, 128))
    landmarks = load(saved(tmp_path, "landmarks", batch=batch))(crops)
    assert isinstance(landmarks, torch.Tensor) and landmarks.shape == (3, 2, 3)


def test_the_digest_is_the_files_and_needs_no_session(tmp_path: Path) -> None:
    path = saved(tmp_path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(path).digest == digest(path) == expected
    path.write_bytes(b"damaged")
    assert digest(path) == hashlib.sha256(b"damaged").hexdigest()


def test_keys_beside_the_file_override_its_shapes(tmp_path: Path) -> None:
    path = saved(tmp_path)
    write_spec(path, JOINTS, head="logits", mean_rgb=[0, 0, 0], grid="origin")
    spec = load(path).spec
    assert (spec.mean_rgb, spec.grid, spec.input) == ((0, 0, 0), "origin", (HEIGHT, WIDTH))
    write_spec(path, JOINTS, input=[64, 64])
    with pytest.raises(ValueError, match=r"1 x 3 x 64 x 64 .*found image \(\? x 3 x 64 x 48\)"):
        load(path)
    write_spec(path, JOINTS, output="heat")
    with pytest.raises(ValueError, match=r"\['heat'\]: the file has maps \(\? x 2 x 16 x 12\)"):
        load(path)


def test_an_unknown_network_needs_a_spec(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", "heatmaps", 2)
    with pytest.raises(ValueError, match=r"model\.onnx\.json, found none.*heatmaps \(\? x 2 x 16"):
        load(path)


def test_a_fixed_batch_of_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a batch of one or a free one.*found image \(2 x 3"):
        load(saved(tmp_path, batch=2))


def test_published_networks_need_no_spec(tmp_path: Path) -> None:
    for name, head in (("rtmpose/end2end.onnx", "simcc"), ("vitpose-b.onnx", "heatmaps")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        spec = load(write_onnx(path, head, 17)).spec
        assert (spec.joints, spec.head) == (COCO.joints, head)


def edited(tmp_path: Path, edit: Callable[[Any], None], **options: Any) -> Path:
    path = saved(tmp_path, **options)
    model = onnx_model("logits", len(JOINTS))
    edit(model)
    path.write_bytes(model.SerializeToString())
    return path


def node(operator: str, domain: str = "", **attributes: Any) -> Callable[[Any], None]:
    """Appends an operator whose output is not used."""

    def edit(model: Any) -> None:
        made = onnx.helper.make_node(operator, ["maps"], ["other"], domain=domain, **attributes)
        model.graph.node.append(made)

    return edit


def nested(levels: int) -> Any:
    """A graph of branches in branches."""
    identity = onnx.helper.make_node("Identity", ["maps"], ["out"])
    value = onnx.helper.make_tensor_value_info("out", 1, None)
    graph = onnx.helper.make_graph([identity], "leaf", [], [value])
    for _ in range(levels):
        branch = onnx.helper.make_node(
            "If", ["condition"], ["out"], then_branch=graph, else_branch=graph
        )
        graph = onnx.helper.make_graph([branch], "branch", [], [value])
    return graph


def external_tensor(**entries: str) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return edit


def sparse(model: Any) -> None:
    model.graph.sparse_initializer.add().dims.extend([1 << 40])


def external_constant(model: Any) -> None:
    value = onnx.numpy_helper.from_array(np.zeros(3, np.float32))
    value.data_location = onnx.TensorProto.EXTERNAL
    node("Constant", value=value)(model)


def huge(model: Any) -> None:
    """An activation of 4 TB."""
    shape = onnx.numpy_helper.from_array(np.array([1, 1 << 20, 1 << 20]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(onnx.helper.make_node("ConstantOfShape", ["shape"], ["other"]))


def second_input(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("second", 1, [1]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (node("Relu", "mine"), r"the custom operator mine\.Relu"),
        (node("NoSuchOperator"), "the custom operator NoSuchOperator"),
        (node("EPContext", "com.microsoft"), r"com\.microsoft\.EPContext"),
        (node("PythonOp", "com.microsoft"), r"com\.microsoft\.PythonOp"),
        (node("TreeEnsemble", "ai.onnx.ml"), r"ai\.onnx\.ml\.TreeEnsemble"),
        (node("RandomNormalLike"), "random numbers"),
        (lambda m: node("Loop", body=nested(0))(m), "a loop"),
        (lambda m: node("If", then_branch=nested(0), else_branch=nested(6))(m), "4 levels"),
        (sparse, "sparse"),
        (external_constant, "external data in an operator"),
        (huge, "more than 2 GiB"),
        (external_tensor(location="../weights"), r"'\.\./weights', not beside"),
        (external_tensor(location="/etc/passwd"), "'/etc/passwd', not beside"),
        (external_tensor(location="a/../../b"), "not beside"),
        (external_tensor(location="..\\weights"), "not beside"),
        (external_tensor(), "not beside"),
        (external_tensor(location="link"), "a link to elsewhere"),
        (external_tensor(location="folder/weights"), "link to elsewhere"),
        (external_tensor(location="absent"), "No such file"),
        (external_tensor(location="short"), r"expected \d+ bytes|cannot be read as an ONNX"),
        (external_tensor(location="short", length="999"), "expected 999 bytes, found 4"),
        (external_tensor(location="short", offset="-1"), "damaged"),
        (external_tensor(location="short", offset="x"), "without a place"),
        (lambda m: m.graph.ClearField("node"), "no operators"),
        (second_input, "expected one input"),
        (lambda m: m.graph.node[0].ClearField("input"), "cannot be read as an ONNX"),
    ],
)
def test_hostile_files_are_refused(
    tmp_path: Path, edit: Callable[[Any], None], message: str
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    outside = tmp_path / "weights"
    outside.write_bytes(bytes(4 * 2 * 3 * 7 * 7))
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    (folder / "short").write_bytes(bytes(4))
    path = edited(folder, edit)
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert str(path.parent) in str(raised.value) and "\n" not in str(raised.value)


def test_texts_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"Conv", b"C\xffnv"))
    with pytest.raises(ValueError, match=r"cannot be read as an ONNX file|custom operator"):
        load(path)


def test_a_damaged_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    for damaged in (b"", b"no model", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.onnx cannot be"):
            load(path)
    monkeypatch.setattr("fpd.pipeline.teachers.onnx_file.MAX_FILE_BYTES", 1000)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        load(path)


def test_external_data_beside_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path)
    crops = torch.rand(2, 3, HEIGHT, WIDTH)
    expected = load(path)(crops)
    model = onnx_model("logits", len(JOINTS))
    (tmp_path / "data").mkdir()
    for tensor in model.graph.initializer:
        (tmp_path / "data" / tensor.name).write_bytes(bytes(16) + tensor.raw_data)
        name, length = tensor.name, len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": f"data/{name}", "offset": "16", "length": str(length)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    before = Path.cwd()
    try:
        os.chdir("/")  # onnxruntime would look for the data in the working directory
        teacher = load(path)
    finally:
        os.chdir(before)
    torch.testing.assert_close(teacher(crops), expected)
    assert teacher.digest == digest(path) != hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "data" / "weights").write_bytes(bytes(16 + 4 * 2 * 3 * 7 * 7))
    assert digest(path) != teacher.digest


def test_functions_that_are_not_called_are_dropped(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        body = [onnx.helper.make_node("Relu", ["x"], ["y"])]
        opset = onnx.helper.make_opsetid("", 18)
        function = onnx.helper.make_function("mine", "Relu", ["x"], ["y"], body, [opset])
        model.functions.append(function)
        model.metadata_props.add(key="note", value="x")

    assert load(edited(tmp_path, edit)).spec.joints == JOINTS


def test_an_exporters_file_runs(tmp_path: Path) -> None:
    """A network that PyTorch exports has no operators but ONNX's own."""
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.BatchNorm2d(8),
        torch.nn.GELU(),
        torch.nn.Conv2d(8, 8, 3, 2, 1),
        torch.nn.LayerNorm([8, 16, 12]),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        torch.nn.Conv2d(8, 2, 3, 2, 1),
    ).eval()
    crops = torch.rand(2, 3, HEIGHT, WIDTH)
    batch = ({0: torch.export.Dim("batch")},)
    from fpd.pipeline.models.export.formats import _quiet

    with _quiet():
        exported = torch.onnx.export(
            torch.export.export(network, (crops,), dynamic_shapes=batch), dynamo=True, verbose=False
        )
    assert exported is not None
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.model_proto.SerializeToString())
    path.with_name("model.onnx.json").write_text(json.dumps({"joints": JOINTS}))
    with torch.inference_mode():
        torch.testing.assert_close(load(path)(crops), network(crops), atol=1e-4, rtol=1e-4)
