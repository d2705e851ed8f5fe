"""`fpd export`: one file that says what the model in its folder says."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from torch.export import ExportedProgram

from fpd import __version__
from fpd.cli import main
from fpd.data.augmentation import Augmentation
from fpd.data.datasets import load
from fpd.data.heatmap_codec import decode
from fpd.data.views import CENTER_CROP, Views
from fpd.pipeline import workdir
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.evaluation.inference import score
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.export.deployable import Answer
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.runtime.files import read_json
from fpd.pipeline.workdir import WorkDir
from fpd.stages import export as exporting

CPU = torch.device("cpu")


def fpd(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def assert_refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert len([line for line in result.output.splitlines() if line.startswith("Error: ")]) == 1
    for part in parts:
        assert part in result.output


@pytest.fixture(scope="module")
def crops(toy_recipe: Recipe) -> NDArray[np.uint8]:
    """Plain crops of the toy test people: uint8 (8, 64, 64, 3)."""
    people = load(toy_recipe.data, "test")
    views = Views(people, toy_recipe.geometry, Augmentation(), 0)
    return np.stack([views[i, CENTER_CROP]["crop"] for i in range(len(people))])


@pytest.fixture(scope="module")
def expected(toy_work: Path, toy_recipe: Recipe, crops: NDArray[np.uint8]) -> Answer:
    """By the road that evaluation takes."""
    trained = load_model(WorkDir(toy_work).teacher, CPU)
    with torch.inference_mode():
        heatmaps = trained.network(normalize(torch.from_numpy(crops), CPU))[-1]
        joints, peaks = decode(heatmaps)
    in_crop = toy_recipe.geometry.to_crop(joints.double().numpy()).astype(np.float32)
    assert in_crop.std(axis=0).max() > 1  # the people are not all alike
    return Answer(in_crop, peaks.numpy(), heatmaps.numpy())


@pytest.fixture
def quick(toy_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes seconds: the file that was made before does."""
    monkeypatch.setattr(exporting, "export_program", lambda _: None)
    monkeypatch.setattr(exporting, "onnx_bytes", lambda *_: toy_onnx.read_bytes())


def assert_same(found: Answer, expected: Answer) -> None:
    np.testing.assert_allclose(found.heatmaps, expected.heatmaps, atol=1e-5)
    np.testing.assert_allclose(found.peaks, expected.peaks, atol=1e-5)
    np.testing.assert_allclose(found.joints, expected.joints, atol=1e-2)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_onnx_says_what_evaluation_says(
    toy_onnx: Path, crops: NDArray[np.uint8], expected: Answer, batch: int
) -> None:
    session = onnxruntime.InferenceSession(toy_onnx, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape[1:]) == ("crops", "tensor(uint8)", [64, 64, 3])
    assert [output.name for output in session.get_outputs()] == ["joints", "peaks", "heatmaps"]
    found = session.run(None, {"crops": crops[:batch]})
    assert_same(Answer(*found), Answer(*(part[:batch] for part in expected)))


def test_the_file_tells_what_it_is(toy_onnx: Path, toy_work: Path) -> None:
    model = onnx.load(toy_onnx)
    onnx.checker.check_model(model, full_check=True)
    inside = json.loads({entry.key: entry.value for entry in model.metadata_props}["fpd.json"])
    beside = read_json(toy_onnx.with_name("student.onnx.json"))
    record = WorkDir(toy_work).teacher.record()
    for description in (inside, beside):
        assert description["weights_sha256"] == record["result"]["weights_sha256"]
        assert description["fpd"] == __version__ and description["crop_px"] == 64
        assert description["joints"][13] == "head top" and len(description["joints"]) == 14
    assert beside["file_sha256"] == hashlib.sha256(toy_onnx.read_bytes()).hexdigest()
    assert beside["bytes"] == toy_onnx.stat().st_size
    assert beside["compared"]["crops"] == 32
    assert str(Path(exporting.__file__).parent.parent).encode() not in toy_onnx.read_bytes()


def test_pytorchs_own_program(
    toy_work: Path,
    toy_program: ExportedProgram,
    crops: NDArray[np.uint8],
    expected: Answer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "export_program", lambda _: toy_program)
    out = tmp_path / "student.pt2"
    result = fpd("-w", toy_work, "--name", "teacher", "--format", "torch-export", "-o", out)
    assert result.exit_code == 0, result.output
    assert "against PyTorch" in result.output and str(out) in result.output
    extra = {"fpd.json": ""}
    program = torch.export.load(out, extra_files=extra)
    assert json.loads(extra["fpd.json"])["skeleton"] == "lsp"
    for batch in (1, 3):
        with torch.inference_mode():
            found = program.module()(torch.from_numpy(crops[:batch]))
        assert_same(
            Answer(*(part.numpy() for part in found)), Answer(*(part[:batch] for part in expected))
        )
    assert read_json(tmp_path / "student.pt2.json")["format"] == "torch-export"


@pytest.mark.parametrize("part", ["joints", "heatmaps", "nan"])
def test_a_file_that_differs_is_refused(
    toy_work: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    opened = exporting.open_onnx

    def open_wrong(content: bytes):
        answer = opened(content)

        def wrong(crops: NDArray[np.uint8]) -> Answer:
            found = answer(crops)
            if part == "joints":
                return found._replace(joints=found.joints + np.float32(0.2))
            return found._replace(
                heatmaps=found.heatmaps + np.float32("nan" if part == "nan" else 0.01)
            )

        return wrong

    monkeypatch.setattr(exporting, "open_onnx", open_wrong)
    result = fpd("-w", toy_work, "--name", "teacher", "-o", tmp_path / "student.onnx")
    assert_refused(result, "does not say what PyTorch's does", "no file was written")
    assert not list(tmp_path.iterdir())


def test_static_quantization_shows_its_price(
    toy_work: Path,
    toy_recipe: Recipe,
    quick: None,
    crops: NDArray[np.uint8],
    expected: Answer,
    tmp_path: Path,
) -> None:
    out = tmp_path / "int8.onnx"
    result = fpd("-w", toy_work, "--name", "teacher", "--quantize", "static", "-o", out)
    assert result.exit_code == 0, result.output
    costs = read_json(tmp_path / "int8.onnx.json")["quantized"]
    people = load(toy_recipe.data, "test")
    trained = load_model(WorkDir(toy_work).teacher, CPU)
    pck = score(trained.network, toy_recipe, people, CPU).mean
    assert costs["float32"]["pck"] == pytest.approx(pck)
    assert (costs["people"], costs["calibration_crops"]) == (8, 18)
    for kind in ("float32", "int8"):
        share = f"{100 * costs[kind]['pck']:.1f} %"
        assert any(kind in line and share in line for line in result.output.splitlines())
        assert costs[kind]["batch_1"]["lower_ms"] <= costs[kind]["batch_1"]["upper_ms"]
    model = onnx.load(out)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") > 20
    assert model.metadata_props[0].key == "fpd.json"
    found = onnxruntime.InferenceSession(out).run(None, {"crops": crops})
    off = np.abs(found[2] - expected.heatmaps).max() / np.abs(expected.heatmaps).max()
    assert 0 < off < 0.5  # another network it is not, nor the same


def test_dynamic_quantization_has_integer_weights(toy_onnx: Path) -> None:
    from fpd.pipeline.models.export.formats import open_onnx
    from fpd.pipeline.models.export.quantize import quantize

    content = toy_onnx.read_bytes()
    small = quantize(content, "dynamic", {"name": "x"})
    model = onnx.load_from_string(small)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("ConvInteger") > 20 and kinds.count("Conv") == 1  # the heatmaps' own
    crop = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    one, other = open_onnx(content)(crop), open_onnx(small)(crop)
    assert 0 < np.abs(one.heatmaps - other.heatmaps).max() < 0.1 * np.abs(one.heatmaps).max() + 0.01


def test_no_room_for_temporary_files_is_said_first(
    toy_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpd.pipeline.models.export.quantize import quantize

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ValueError, match=r"room for temporary files, found 1\.0 kB: .* TMPDIR="):
        quantize(toy_onnx.read_bytes(), "dynamic", {"name": "x"})


def test_the_data_set_need_not_be_there(
    toy_work: Path, toy_recipe: Recipe, quick: None, tmp_path: Path
) -> None:
    recipe = apply_overrides(
        toy_recipe.model_dump(mode="json"), ["data.reader=lsp", "data.root=nowhere"]
    )
    work = WorkDir(toy_work)
    report = exporting.run(work, recipe, "teacher", out=tmp_path / "a.onnx")
    assert report["compared"]["people"] == "figures/test"
    with pytest.raises(ValueError, match=r"joints\.mat is missing"):
        exporting.run(work, recipe, "teacher", out=tmp_path / "b.onnx", method="static")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.onnx.json"]


def test_what_a_user_may_get_wrong(
    toy_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ("-w", toy_work, "--name", "teacher")
    assert_refused(fpd("-w", toy_work), "no finished model 'student'", "finished: teacher")
    assert_refused(fpd(*teacher, "-o", tmp_path), "expected a file's name")
    assert_refused(fpd(*teacher, "-o", tmp_path / "no" / "a.onnx"), "expected a file's name")
    for name in ("weights.safetensors", "record", "a.pt2"):
        assert_refused(fpd(*teacher, "-o", tmp_path / name), "expected a name that ends in .onnx")
    if Path("/proc/version").exists():  # a folder in which not even root can write
        assert_refused(fpd(*teacher, "-o", "/proc/a.onnx"), "/proc cannot be written to", "with -o")
    wrong = ("--format", "torch-export", "--quantize", "static")
    assert_refused(fpd(*teacher, *wrong), "expected --format onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert_refused(fpd(*teacher), "ONNX needs onnxruntime", "pip install 'fpd[onnx]'")


def test_a_full_disk_leaves_the_earlier_file_and_its_json(
    toy_work: Path, toy_recipe: Recipe, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "a.onnx", WorkDir(toy_work)
    exporting.run(work, toy_recipe, "teacher", out=out)
    (tmp_path / "a.onnx").write_bytes(b"of an earlier run")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, step in ((workdir, "sync"), (Path, "write_text")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, full)
            with pytest.raises(OSError, match="No space left"):
                exporting.run(work, toy_recipe, "teacher", out=out)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
