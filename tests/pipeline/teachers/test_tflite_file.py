"""TFLite files: the outputs that LiteRT computes, and files that are refused unloaded."""

from __future__ import annotations

import hashlib
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fpd.pipeline.teachers.tflite_file import load, read_checked

from .network_files import (
    HEIGHT,
    WIDTH,
    convolution,
    tflite_bytes,
    tflite_model,
    write_spec,
    write_tflite,
)

pytest.importorskip("ai_edge_litert", reason="TFLite teachers need ai-edge-litert")

JOINTS = ("neck", "head top")
BLAZEPOSE = Path(__file__).parents[4] / "shared" / "data" / "teachers"


def saved(folder: Path, head: str = "logits") -> Path:
    path = write_tflite(folder / "model.tflite", len(JOINTS), head)
    return write_spec(path, JOINTS, head=head)


def test_heatmaps_of_a_batch(tmp_path: Path) -> None:
    """One by one: the file has a batch of one. TFLite's padding is at the end if it is odd."""
    kernels = torch.from_numpy(convolution(len(JOINTS)))
    crops = torch.rand(3, 3, HEIGHT, WIDTH)
    padded = torch.nn.functional.pad(crops, (1, 2, 1, 2))
    maps = torch.nn.functional.conv2d(padded, kernels, stride=4)
    logits = load(saved(tmp_path, "logits"))
    assert (logits.spec.layout, logits.spec.input) == ("NHWC", (HEIGHT, WIDTH))
    assert logits.spec.stride_px == 4 and logits.names == ("Identity",)
    torch.testing.assert_close(logits(crops), maps, atol=1e-4, rtol=1e-4)
    heatmaps = load(saved(tmp_path, "heatmaps"))
    torch.testing.assert_close(heatmaps(crops), maps.sigmoid(), atol=1e-4, rtol=1e-4)


def test_the_digest_is_the_files(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert load(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "ai_edge_litert"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"needs ai-edge-litert.*\[tflite\]"):
        load(path)


def edited(folder: Path, edit: Callable[[Any], None]) -> Path:
    path = saved(folder)
    model = tflite_model(len(JOINTS))
    edit(model)
    path.write_bytes(tflite_bytes(model))
    return path


def setting(*attributes: str | int, value: Any) -> Callable[[Any], None]:
    """Sets the attribute at the end of a path of attributes and indices."""

    def edit(model: Any) -> None:
        at = model
        for attribute in attributes[:-1]:
            at = at[attribute] if isinstance(attribute, int) else getattr(at, attribute)
        setattr(at, str(attributes[-1]), value)

    return edit


GRAPH = ("subgraphs", 0)


def custom(model: Any) -> None:
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = 32
    code.customCode = b"Evil"


def builtin(number: int) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)

    return edit


def described(model: Any, buffer: int | None = None, text: bytes = b"{}") -> None:
    """Adds metadata, and a signature with the name of an output and that of no output."""
    from ai_edge_litert import schema_py_generated as schema

    entry, content, signature = schema.MetadataT(), schema.BufferT(), schema.SignatureDefT()
    content.data = np.frombuffer(text, np.uint8)
    entry.name, entry.buffer = b"fpd.json", len(model.buffers) if buffer is None else buffer
    model.buffers.append(content)
    model.metadata = [entry]
    names = {b"maps": int(model.subgraphs[0].outputs[0]), b"other": 1 << 20}
    signature.outputs, signature.inputs = [], []
    for name, index in names.items():
        named = schema.TensorMapT()
        named.name, named.tensorIndex = name, index
        signature.outputs.append(named)
    model.signatureDefs = [signature]


def integers(*values: int) -> Any:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (custom, "the operator CUSTOM Evil"),
        (builtin(119), "the operator WHILE"),
        (builtin(148), "the operator RANDOM_UNIFORM"),
        (builtin(9999), "the operator CUSTOM"),
        (lambda m: m.subgraphs.append(m.subgraphs[0]), "has 2 graphs"),
        (lambda m: m.subgraphs.clear(), "has 0 graphs"),
        (
            setting(*GRAPH, "operators", 0, "inputs", value=integers(0, 99, 2)),
            "that it does not have",
        ),
        (setting(*GRAPH, "operators", 0, "outputs", value=integers(-1)), "that it does not have"),
        (setting(*GRAPH, "operators", 0, "opcodeIndex", value=7), "that it does not have"),
        (setting(*GRAPH, "tensors", 1, "buffer", value=9), "that it does not have"),
        (setting(*GRAPH, "outputs", value=integers(1000)), "that it does not have"),
        (setting(*GRAPH, "tensors", 1, "shape", value=integers(2, 70, 7, 3)), "of another size"),
        (setting(*GRAPH, "tensors", 3, "shape", value=integers(1, 1 << 20, 1 << 20)), "1024 MiB"),
        (setting(*GRAPH, "tensors", 3, "shape", value=integers(-1, 3)), "1024 MiB"),
        (setting(*GRAPH, "tensors", 3, "shape", value=integers(*[1] * 20)), "more than 8 axes"),
        (setting(*GRAPH, "tensors", 3, "type", value=5), "type other than"),
        (setting(*GRAPH, "tensors", 3, "isVariable", value=True), "variables"),
        (setting("buffers", 1, "offset", value=1 << 40), "outside of its tables"),
        (
            setting(*GRAPH, "operators", 0, "builtinOptions", "strideW", value=0),
            "an operator with strideW 0",
        ),
        (
            setting(*GRAPH, "operators", 0, "customOptions", value=integers(1).view(np.uint8)),
            "custom operators",
        ),
        (setting(*GRAPH, "operators", 0, "inputs", value=integers(0, -1, 2)), "CONV_2D without"),
        (setting(*GRAPH, "operators", 0, "outputs", value=integers(1)), "written twice"),
        (setting(*GRAPH, "operators", 0, "inputs", value=integers(3, 1, 2)), "before they are"),
        (setting(*GRAPH, "outputs", value=integers(3, 0)), "expected the name of the output"),
        (setting(*GRAPH, "inputs", value=integers()), "has no input"),
        (setting(*GRAPH, "inputs", value=integers(1)), "weights as its input"),
        (lambda m: m.subgraphs[0].operators.clear(), "an output that no operator writes"),
        (lambda m: described(m, buffer=99), "that it does not have"),
    ],
)
def test_hostile_files_are_refused(
    tmp_path: Path, edit: Callable[[Any], None], message: str
) -> None:
    path = edited(tmp_path, edit)
    with pytest.raises(ValueError, match=message) as raised:
        load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_an_edited_file_without_a_change_is_accepted(tmp_path: Path) -> None:
    """So the refusals above are due to their changes alone."""
    assert load(edited(tmp_path, lambda model: None)).spec.joints == JOINTS


def test_metadata_and_names_of_outputs_are_read(tmp_path: Path) -> None:
    file = read_checked(edited(tmp_path, described))
    assert file.description == b"{}"
    assert list(file.outputs) == ["maps"]


def test_large_metadata_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpd.pipeline.teachers.tflite_file.MAX_METADATA_BYTES", 4)
    assert not read_checked(edited(tmp_path, lambda m: described(m, text=b"12345"))).description


def test_other_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    content = path.read_bytes()
    for damaged in (b"", b"TFL3", b"\0\0\0\0TFL3", content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.tflite (cannot be|has|is)"):
            load(path)
    monkeypatch.setattr("fpd.pipeline.teachers.tflite_file.MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        load(path)


MUTATE = """
import sys
from pathlib import Path
from fpd.pipeline.teachers.tflite_file import load
import torch
refused = 0
for path in sorted(Path(sys.argv[1]).glob("*.tflite")):
    try:
        load(path)(torch.zeros(1, 3, 64, 48))
    except ValueError as error:
        refused += 1
print("refused", refused)
"""


def test_mutated_files_do_not_end_the_process(tmp_path: Path) -> None:
    """Bytes of the tables are changed; what is still loaded must run, or fail with a message."""
    content = saved(tmp_path).read_bytes()
    (tmp_path / "model.tflite").unlink()
    generator = random.Random(0)
    for number in range(150):
        changed = bytearray(content)
        for _ in range(generator.choice((1, 1, 2, 4))):
            value = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
            position = generator.randrange(len(changed))
            if generator.random() < 0.3:
                struct.pack_into("<i", changed, min(position, len(changed) - 4), -value)
            else:
                changed[position] = value
        path = tmp_path / f"{number}.tflite"
        path.write_bytes(changed)
        write_spec(path, JOINTS, head="logits")
    done = subprocess.run(
        [sys.executable, "-c", MUTATE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("refused ")


@pytest.mark.skipif(not BLAZEPOSE.is_dir(), reason="BlazePose is not in ../shared/data/teachers")
@pytest.mark.parametrize("size", ["lite", "full", "heavy"])
def test_blazepose_needs_no_spec(tmp_path: Path, size: str) -> None:
    """Found by its digest under another name, and by its name."""
    source = BLAZEPOSE / f"pose_landmark_{size}.tflite"
    path = tmp_path / "renamed.tflite"
    path.symlink_to(source)
    teacher = load(path)
    assert teacher.spec == load(source).spec
    assert (teacher.spec.head, len(teacher.spec.joints), teacher.spec.input) == (
        "logits",
        39,
        (256, 256),
    )
    output = teacher(torch.rand(2, 3, 256, 256))
    assert isinstance(output, torch.Tensor) and output.shape == (2, 39, 64, 64)


@pytest.mark.skipif(not BLAZEPOSE.is_dir(), reason="BlazePose is not in ../shared/data/teachers")
def test_blazeposes_landmarks_agree_with_its_heatmaps(tmp_path: Path) -> None:
    """Two heads of one network, by the spec's keys alone, on a drawn figure."""
    from fpd.data.geometry import Geometry
    from fpd.data.heatmap_codec import decode
    from fpd.pipeline.teachers.heads import make_head

    path = tmp_path / "landmarks.tflite"
    path.symlink_to(BLAZEPOSE / "pose_landmark_full.tflite")
    heatmaps = load(path)
    values = ("x", "y", "ignored", "confidence logit", "ignored")
    joints = heatmaps.spec.joints
    write_spec(path, joints, head="landmarks", output="Identity", values=values)
    landmarks = load(path)
    crops = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    every = torch.arange(len(joints))
    found = []
    for teacher in (heatmaps, landmarks):
        head = make_head(teacher.spec, Geometry(crop_px=256), torch.device("cpu"))
        output = teacher(crops)
        assert isinstance(output, torch.Tensor)
        drawn = head(output, every)
        assert drawn.shape == (1, 39, 64, 64) and drawn.max() <= 1
        found.append(decode(drawn)[0][0])
        peaks = drawn.amax((-2, -1))[0]
    expected = landmarks(crops)
    assert isinstance(expected, torch.Tensor)
    inside = ((expected[0, :, :2] > 8) & (expected[0, :, :2] < 248)).all(1)
    # On noise, some confidences are 0 in float32, and a map of zeros shows no position.
    inside &= peaks > 1e-6
    assert inside.sum() >= 10
    torch.testing.assert_close(
        found[1][inside], (expected[0, inside, :2] + 0.5) / 4 - 0.5, atol=0.01, rtol=0
    )
