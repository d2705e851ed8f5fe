"""Teachers on the Hugging Face hub: from its cache, which the tests lay out; no network."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

from fpd.data.skeletons import COCO
from fpd.pipeline.teachers import hub
from fpd.pipeline.teachers.registry import load, parse, quick_digest, require

from .network_files import HEIGHT, WIDTH, onnx_model

huggingface_hub = pytest.importorskip("huggingface_hub", reason="the hub needs huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without a network."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def lay_out(cache: Path, repo: str, files: dict[str, bytes], revision: str = "main") -> Path:
    """A repository as huggingface_hub caches it: blobs, and a snapshot of links to them."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        link = snapshot / name
        for parent in (blob.parent, link.parent, folder / "refs"):
            parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(blob)
    (folder / "refs" / revision).write_text(COMMIT)
    return snapshot


def vitpose_files(folder: Path) -> dict[str, bytes]:
    transformers = pytest.importorskip("transformers", reason="ViTPose needs transformers")
    backbone = transformers.VitPoseBackboneConfig(
        image_size=[64, 48], hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    backbone.out_indices = [1]
    config = transformers.VitPoseConfig(
        backbone_config=backbone, id2label=dict(enumerate(COCO.joints))
    )
    transformers.VitPoseForPoseEstimation(config).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    "name", ["hf:somebody/pose", "hf:somebody/pose@main", f"hf:somebody/pose@{COMMIT}"]
)
def test_a_vitpose_in_the_cache(cache: Path, tmp_path: Path, name: str) -> None:
    lay_out(cache, "somebody/pose", vitpose_files(tmp_path / "saved"))
    ref = parse(name)
    assert (ref.kind, ref.absolute, ref.exists) == ("vitpose", name, True)
    teacher = load(ref, allow_code=False)
    assert teacher.spec.joints == COCO.joints
    assert teacher.digest == quick_digest(ref)
    assert teacher(torch.rand(1, 3, 64, 48)).shape == (1, 17, 16, 12)  # type: ignore[union-attr]


def test_an_id_of_a_vitpose_needs_no_prefix(cache: Path, tmp_path: Path) -> None:
    lay_out(cache, "usyd/ViTPose-plus-s", vitpose_files(tmp_path / "saved"))
    ref = parse("usyd/ViTPose-plus-s")
    assert ref.hub == hub.HubRef("usyd/ViTPose-plus-s", None, None)
    assert load(ref, allow_code=False).spec.input == (64, 48)
    (tmp_path / "usyd").mkdir()
    assert parse("usyd/ViTPose-plus-s").kind == "folder"  # a folder that may have existed
    assert parse("usyd/other").kind == "folder"


def test_an_onnx_file_of_a_repository(cache: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX teachers need onnx")
    pytest.importorskip("onnxruntime", reason="ONNX teachers need onnxruntime")
    model = onnx_model("heatmaps", 17)
    [tensor] = model.graph.initializer
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.onnx_data")
    files = {"onnx/model.onnx": model.SerializeToString(), "onnx/model.onnx_data": data}
    lay_out(cache, "somebody/vitpose-onnx", files)
    ref = parse("hf:somebody/vitpose-onnx/onnx/model.onnx")
    assert (ref.kind, ref.exists) == ("onnx", True)
    teacher = load(ref, allow_code=False)
    assert (teacher.spec.joints, teacher.spec.grid) == (COCO.joints, "corners")
    assert teacher.digest == quick_digest(ref)
    output = teacher(torch.rand(2, 3, HEIGHT, WIDTH))
    assert isinstance(output, torch.Tensor) and output.shape == (2, 17, 16, 12)


def test_without_a_network_one_sentence_states_what_to_do(cache: Path) -> None:
    for name in ("hf:somebody/pose", "hf:somebody/pose/model.onnx", "usyd/vitpose-x"):
        ref = parse(name)
        assert not ref.exists and quick_digest(ref) is None
        with pytest.raises(ValueError, match=r"not in the Hugging Face hub's cache.*hf download"):
            require(ref)


def test_an_incomplete_copy_does_not_exist(cache: Path, tmp_path: Path) -> None:
    files = vitpose_files(tmp_path / "saved")
    snapshot = lay_out(cache, "somebody/pose", {"config.json": files["config.json"]})
    assert not parse("hf:somebody/pose").exists
    (snapshot / "model-00001-of-00002.safetensors").write_bytes(b"x")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "../other"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not parse("hf:somebody/pose").exists


def test_repositories_that_do_not_exist_are_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class RepositoryNotFoundError(Exception):
        pass

    def download(*_: object, local_files_only: bool, **__: object) -> str:
        if local_files_only:
            raise FileNotFoundError
        raise RepositoryNotFoundError("404\nlong")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(ValueError, match=r"has no somebody/pose at revision v2 that this machine"):
        require(parse("hf:somebody/pose@v2"))


def test_a_missing_package_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"expected huggingface_hub.*\[hub\]"):
        require(parse("hf:somebody/pose"))


@pytest.mark.parametrize(
    "name",
    [
        *("hf:pose", "hf:a/b/c", "hf:../b", "hf:a/..", "hf:a/b@../c", "hf:a/b/../../x.onnx"),
        *("hf:a/b/model.bin", "hf:a/b/model.pt2", "hf:", "hf:/a/b", "hf:a/b@"),
    ],
)
def test_other_references_are_refused(name: str) -> None:
    assert hub.parse(name) is None
    with pytest.raises(ValueError, match="hf:ORG/NAME"):
        parse(name)
