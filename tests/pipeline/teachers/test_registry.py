"""What `--teacher` may name; and teachers from Python and from other runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fpd.data.skeletons import LSP
from fpd.data.views import Geometry
from fpd.pipeline.models.checkpoint import ModelDir, load_model
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.models.preprocessing import normalize
from fpd.pipeline.runtime.files import sha256
from fpd.pipeline.teachers import TeacherSpec, ensemble_predictor
from fpd.pipeline.teachers import factory as python
from fpd.pipeline.teachers import trained_run as folder
from fpd.pipeline.teachers.registry import load, parse, quick_digest

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "kind", "layout"),
    [
        ("models/hg8.pth", "hourglass", None),
        ("models/model_best.pth.tar", "hourglass", None),
        ("ilovepose:models/hg8.pth", "hourglass", "ilovepose"),
        ("anibali:hg2", "hourglass", "anibali"),
        ("hg.safetensors", "hourglass", None),
        ("model.pt2", "exported", None),
        ("my_teachers:hrnet", "python", None),
        ("package.module:factory", "python", None),
        ("work/other/teacher", "folder", None),
    ],
)
def test_names_of_what_is_not_there_tell_the_kind(name: str, kind: str, layout: str | None) -> None:
    source = parse(name)
    assert (source.kind, source.layout) == (kind, layout)
    assert source.is_there == (kind == "python")
    assert quick_digest(source) is None
    if kind != "python":
        with pytest.raises(ValueError, match="expected a file or folder, found none"):
            load(source)


@pytest.mark.parametrize("name", ["https://host/x", "bearpaw:a/b", "a.b:", ":c", "x:y z"])
def test_other_names_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a file of hourglass weights .*factory"):
        parse(name)


def test_paths_are_made_absolute_for_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse("anibali:hg.pth").absolute == f"anibali:{tmp_path}/hg.pth"
    assert parse("model.pt2").absolute == f"{tmp_path}/model.pt2"
    assert parse("a.b:c").absolute == "a.b:c"


# Another run's folder


def test_another_runs_network_answers_as_it_did_there(toy_work: Path) -> None:
    source = parse(str(toy_work / "teacher"))
    assert source.kind == "folder"
    assert quick_digest(source) == sha256(toy_work / "teacher" / "weights.safetensors")
    teacher = load(source)
    assert teacher.spec.input == (64, 64)
    assert teacher.spec.joints == LSP.joints
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    network = load_model(ModelDir(toy_work / "teacher"), CPU).network
    with torch.inference_mode():
        expected = network(normalize(crops, CPU))[-1]
        torch.testing.assert_close(teacher(normalize(crops, CPU)), expected)


@pytest.mark.parametrize("averaged", [False, True])
def test_it_is_asked_as_the_directorys_own_is(toy_work: Path, averaged: bool) -> None:
    teacher = load(parse(str(toy_work / "teacher")))
    predictor = ensemble_predictor([teacher], LSP, Geometry(crop_px=64), CPU, averaged=averaged)
    network = load_model(ModelDir(toy_work / "teacher"), CPU).network
    own = make_predictor(network, CPU, LSP.flip_indices if averaged else None)
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(predictor(crops), own(crops), atol=1e-5, rtol=1e-4)


def test_a_density_has_its_peak_in_the_spec(toy_work: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(toy_work / "teacher", tmp_path / "teacher"))
    record = json.loads((copy / "record.json").read_text())
    record["identity"]["settings"]["targets"] = {"sigma_px": 2.0, "area_normalized": True}
    (copy / "record.json").write_text(json.dumps(record))
    assert folder.load(copy).spec.peak == pytest.approx(0.0397887)  # 1 / (8 pi)
    (copy / "record.json").write_text("{}")
    with pytest.raises(ValueError, match=r"record\.json is damaged"):
        folder.load(copy)


# Python


MODULE = """
import torch
from fpd.pipeline.teachers import TeacherSpec

class Nothing:
    spec = TeacherSpec(input=(64, 64), joints=("neck",))
    digest = "nothing, version 1"
    def __call__(self, crops):
        return torch.zeros(len(crops), 1, *self.spec.heatmap)

def silent():
    return Nothing()

def wrong():
    return 42
"""


def test_a_factory_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "teachers_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    teacher = load(parse("teachers_of_mine:silent"))
    assert isinstance(teacher.spec, TeacherSpec)
    assert teacher.digest == "nothing, version 1"
    assert quick_digest(parse("teachers_of_mine:silent")) is None  # no code is run for it
    with pytest.raises(ValueError, match=r"`spec`, a TeacherSpec.* found a int"):
        python.load("teachers_of_mine:wrong")
    with pytest.raises(ValueError, match="a function other in a module teachers_of_mine"):
        python.load("teachers_of_mine:other")
    with pytest.raises(ValueError, match="No module named 'teachers_of_nobody'"):
        python.load("teachers_of_nobody:silent")
