"""`fpd export`: one file with the same output as the model in its folder."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

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
from fpd.data.datasets import load
from fpd.data.heatmap_codec import decode
from fpd.data.sections import Augmentation
from fpd.data.views import CENTER_CROP, Views
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.evaluation.inference import score
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.export import registry
from fpd.pipeline.models.export.deployable import ModelOutput, ModelRunner
from fpd.pipeline.models.export.registry import FORMATS
from fpd.pipeline.models.export.upload import HubTarget
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.runtime import files
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
    """Unaugmented crops of the toy test samples: uint8 (8, 64, 64, 3)."""
    samples = load(toy_recipe.data, "test")
    views = Views(samples, toy_recipe.geometry, Augmentation(), 0)
    return np.stack([views[i, CENTER_CROP]["crop"] for i in range(len(samples))])


@pytest.fixture(scope="module")
def expected(toy_work: Path, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Heatmaps computed as in evaluation: float32 (8, 14, 16, 16)."""
    network = load_model(WorkDir(toy_work).teacher, CPU).network
    with torch.inference_mode():
        heatmaps = network(normalize(torch.from_numpy(crops), CPU))[-1].numpy()
    assert heatmaps.std(axis=0).max() > 1e-3  # they depend on the crop
    return np.asarray(heatmaps)


@pytest.fixture
def quick(toy_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting takes seconds: use the file that was exported before."""
    written = replace(FORMATS["onnx"], write=lambda *_: (toy_onnx.read_bytes(),))
    monkeypatch.setitem(FORMATS, "onnx", written)


def assert_output(output: ModelOutput, heatmaps: NDArray[np.float32], recipe: Recipe) -> None:
    """Heatmaps are the expected ones, joints and peaks are those of the output's own heatmaps.

    Joints of `heatmaps` could differ by any distance: rounding decides which of two nearly equal
    pixels is the highest.
    """
    np.testing.assert_allclose(output.heatmaps, heatmaps, atol=1e-5)
    joints, peaks = decode(torch.from_numpy(output.heatmaps))
    np.testing.assert_allclose(output.peaks, peaks.numpy(), rtol=1e-6)
    in_crop = recipe.geometry.to_crop(joints.double().numpy())
    np.testing.assert_allclose(output.joints, in_crop, atol=1e-2)


def test_an_onnx_file_computes_what_evaluation_computes(
    toy_onnx: Path, toy_recipe: Recipe, crops: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    session = onnxruntime.InferenceSession(toy_onnx, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert (entry.name, entry.type, entry.shape[1:]) == ("crops", "tensor(uint8)", [64, 64, 3])
    assert [output.name for output in session.get_outputs()] == ["joints", "peaks", "heatmaps"]
    for batch_size in (1, 3, 8):
        output = session.run(None, {"crops": crops[:batch_size]})
        assert_output(ModelOutput(*output), expected[:batch_size], toy_recipe)


def test_a_file_describes_itself(toy_onnx: Path, toy_work: Path) -> None:
    model = onnx.load(toy_onnx)
    onnx.checker.check_model(model, full_check=True)
    embedded = json.loads({entry.key: entry.value for entry in model.metadata_props}["fpd.json"])
    report = read_json(toy_onnx.with_name("student.onnx.json"))
    record = WorkDir(toy_work).teacher.record()
    for description in (embedded, report):
        assert description["weights_sha256"] == record["result"]["weights_sha256"]
        assert description["fpd"] == __version__ and description["crop_px"] == 64
        assert description["joints"][13] == "head top" and len(description["joints"]) == 14
    size, digest = toy_onnx.stat().st_size, hashlib.sha256(toy_onnx.read_bytes()).hexdigest()
    assert report["files"] == {"student.onnx": {"bytes": size, "sha256": digest}}
    assert report["bytes"] == size and report["parameters"] > 1000 and report["gmacs"] > 0
    assert report["times"]["exported"]["median_ms"] > 0 < report["times"]["pytorch"]["median_ms"]
    compared = report["compared"]
    assert (compared["crops"], compared["joints"]) == (32, 32 * 14)
    assert 0 < compared["joints_compared"] <= 32 * 14
    assert compared["joint_px"] <= compared["joint_tolerance_px"]
    assert str(Path(exporting.__file__).parent.parent).encode() not in toy_onnx.read_bytes()


def test_a_torch_export_file_computes_what_evaluation_computes(
    toy_work: Path,
    toy_recipe: Recipe,
    toy_program: ExportedProgram,
    crops: NDArray[np.uint8],
    expected: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "export_program", lambda _: toy_program)
    out = tmp_path / "student.pt2"
    result = fpd("-w", toy_work, "--name", "teacher", "--format", "torch-export", "-o", out)
    assert result.exit_code == 0, result.output
    assert "against PyTorch" in result.output and str(out) in result.output
    assert "of 448 have an unambiguous peak" in result.output
    extra = {"fpd.json": ""}
    program = torch.export.load(out, extra_files=extra)
    assert json.loads(extra["fpd.json"])["skeleton"] == "lsp"
    for batch_size in (1, 3):
        with torch.inference_mode():
            tensors = program.module()(torch.from_numpy(crops[:batch_size]))
        output = ModelOutput(*(tensor.numpy() for tensor in tensors))
        assert_output(output, expected[:batch_size], toy_recipe)
    assert read_json(tmp_path / "student.pt2.json")["format"] == "torch-export"


def test_what_is_uploaded_is_what_was_written(
    toy_work: Path, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed: dict[str, bytes] = {}

    def upload(target: HubTarget, files: Mapping[str, Path]) -> str:
        assert target == HubTarget("team/student", private=True)
        pushed.update({name: path.read_bytes() for name, path in files.items()})
        return "https://huggingface.co/team/student"

    monkeypatch.setattr(exporting, "check_target", lambda _: None)
    monkeypatch.setattr(exporting, "upload", upload)
    out = tmp_path / "student.onnx"
    options = ("-o", out, "--push-to-hub", "team/student", "--private", "--license", "MIT")
    result = fpd("-w", toy_work, "--name", "teacher", *options)
    assert result.exit_code == 0, result.output
    assert "uploaded to https://huggingface.co/team/student" in result.output
    assert list(pushed) == ["student.onnx", "student.onnx.json", "README.md"]
    assert pushed["README.md"] == (tmp_path / "student.onnx.md").read_bytes()
    assert pushed["README.md"].startswith(b"---\nlicense: mit\n")
    assert pushed["student.onnx"] == out.read_bytes()


@pytest.mark.parametrize(("part", "error"), [("joints", 0.2), ("heatmaps", 0.01)])
def test_a_file_whose_output_differs_is_refused(
    toy_work: Path,
    quick: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    error: float,
) -> None:
    exact = FORMATS["onnx"]

    def open_wrong(content: bytes) -> ModelRunner:
        runner = exact.open(content)

        def run(crops: NDArray[np.uint8]) -> ModelOutput:
            output = runner(crops)
            return output._replace(**{part: getattr(output, part) + np.float32(error)})

        return run

    monkeypatch.setitem(FORMATS, "onnx", replace(exact, open=open_wrong))
    pushed: list[object] = []
    monkeypatch.setattr(exporting, "check_target", lambda _: None)
    monkeypatch.setattr(exporting, "upload", lambda *arguments: pushed.append(arguments))
    out = ("-o", tmp_path / "student.onnx", "--push-to-hub", "team/student")
    result = fpd("-w", toy_work, "--name", "teacher", *out)
    assert not pushed
    assert_refused(result, "differs from PyTorch's", "--format")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_static_quantization_reports_its_costs(
    toy_work: Path,
    toy_recipe: Recipe,
    quick: None,
    crops: NDArray[np.uint8],
    expected: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    out = tmp_path / "int8.onnx"
    result = fpd("-w", toy_work, "--name", "teacher", "--quantize", "static", "-o", out)
    assert result.exit_code == 0, result.output
    costs = read_json(tmp_path / "int8.onnx.json")["quantized"]
    samples = load(toy_recipe.data, "test")
    trained = load_model(WorkDir(toy_work).teacher, CPU)
    pck = score(trained.network, toy_recipe, samples, CPU).mean
    # Of 8 x 14 joints, rounding may move a few: the maps of this network are nearly flat.
    assert costs["float32"]["pck"] == pytest.approx(pck, abs=0.05)
    assert (costs["people"], costs["calibration_crops"]) == (8, 18)
    assert 0 <= costs["difference"]["joints_compared"] <= costs["difference"]["joints"] == 18 * 14
    for kind in ("float32", "int8"):
        share = f"{100 * costs[kind]['pck']:.1f} %"
        assert any(kind in line and share in line for line in result.output.splitlines())
        assert costs[kind]["batch_1"]["lower_ms"] <= costs[kind]["batch_1"]["upper_ms"]
    model = onnx.load(out)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("QuantizeLinear") > 20
    assert model.metadata_props[0].key == "fpd.json"
    output = ModelOutput(*onnxruntime.InferenceSession(out).run(None, {"crops": crops}))
    error = np.abs(output.heatmaps - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.5  # neither the same network nor another one


def test_the_data_set_is_not_required(
    toy_work: Path, toy_recipe: Recipe, quick: None, tmp_path: Path
) -> None:
    recipe = apply_overrides(
        toy_recipe.model_dump(mode="json"), ["data.reader=lsp", "data.root=nowhere"]
    )
    work = WorkDir(toy_work)
    report = exporting.run(work, recipe, "teacher", out=tmp_path / "a.onnx")
    assert report["compared"]["people"].endswith("/test")  # synthetic samples
    with pytest.raises(ValueError, match=r"joints\.mat is missing"):
        exporting.run(work, recipe, "teacher", out=tmp_path / "b.onnx", method="static")
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock")
    assert names == ["a.onnx", "a.onnx.json", "a.onnx.md"]


def test_wrong_options_are_refused(
    toy_work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ("-w", toy_work, "--name", "teacher")
    assert_refused(fpd("-w", toy_work), "no finished model 'student'", "finished: teacher")
    assert_refused(fpd(*teacher, "-o", tmp_path), "-o")
    assert_refused(fpd(*teacher, "-o", tmp_path / "no" / "a.onnx"), "-o")
    for name in ("weights.safetensors", "record", "a.pt2"):
        assert_refused(fpd(*teacher, "-o", tmp_path / name), "expected a name that ends in .onnx")
    if Path("/proc/version").exists():  # a folder that not even root can write to
        assert_refused(fpd(*teacher, "-o", "/proc/a.onnx"), "/proc cannot be written to", "with -o")
    (tmp_path / "a.bin").write_bytes(b"of something else")
    monkeypatch.setitem(FORMATS, "openvino", replace(FORMATS["openvino"], check=lambda: None))
    xml = ("--format", "openvino", "-o", tmp_path / "a.xml")
    assert_refused(fpd(*teacher, *xml), "a.bin would be written beside it")
    assert_refused(fpd(*teacher, "--private"), "expected --push-to-hub")
    wrong = ("--format", "torch-export", "--quantize", "static")
    assert_refused(fpd(*teacher, *wrong), "expected --format onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert_refused(
        fpd(*teacher), "ONNX needs onnxruntime", "pip install 'fast-pose-distillation[onnx]'"
    )


def test_a_full_disk_leaves_an_earlier_file_and_its_json_unchanged(
    toy_work: Path, toy_recipe: Recipe, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "a.onnx", WorkDir(toy_work)
    exporting.run(work, toy_recipe, "teacher", out=out)
    (tmp_path / "a.onnx").write_bytes(b"of an earlier run")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for owner, step in ((files, "sync"), (Path, "write_text")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, step, full)
            with pytest.raises(OSError, match="No space left"):
                exporting.run(work, toy_recipe, "teacher", out=out)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
