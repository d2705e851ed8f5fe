"""A teacher from the user's own code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fpd.pipeline.teachers import TeacherSpec, factory
from fpd.pipeline.teachers.registry import load, parse, quick_digest

MODULE = """
import torch
from fpd.pipeline.teachers import TeacherSpec

class Zeros:
    spec = TeacherSpec(input=(64, 64), joints=("neck",))
    digest = "zeros, version 1"
    def __call__(self, crops):
        return torch.zeros(len(crops), 1, *self.spec.heatmap)

def zeros():
    return Zeros()

def wrong():
    return 42

def no_digest():
    network = torch.nn.Identity()
    network.spec = Zeros.spec
    return network

def misspelled():
    return TeacherSpec(input=(64, 64), joints=("neck",), gird="origin")

def fails():
    raise RuntimeError("weights.pth is missing")

def in_training():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 1, 4, stride=4), torch.nn.BatchNorm2d(1))
    network.spec, network.digest = Zeros.spec, "in training"
    return network
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "teachers_of_mine.py"
    path.write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return path


@pytest.mark.usefixtures("module")
def test_a_factory_in_the_working_directory() -> None:
    assert quick_digest(parse("teachers_of_mine:zeros")) is None  # no code is run for it
    teacher = load(parse("teachers_of_mine:zeros"), allow_code=True)
    assert isinstance(teacher.spec, TeacherSpec)
    assert teacher.digest == "zeros, version 1"
    with pytest.raises(ValueError, match=r"`spec`, a TeacherSpec.* type int"):
        factory.load("teachers_of_mine:wrong")
    with pytest.raises(ValueError, match="a function other in a module teachers_of_mine"):
        factory.load("teachers_of_mine:other")
    with pytest.raises(ValueError, match="No module named 'teachers_of_nobody'"):
        factory.load("teachers_of_nobody:zeros")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_digest", "whose `spec` is of type TeacherSpec and whose `digest` is of type NoneType"),
        ("misspelled", "TeacherSpec: gird: Extra inputs are not permitted"),
    ],
)
@pytest.mark.usefixtures("module")
def test_what_is_wrong_with_a_teacher_is_named(function: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        factory.load(f"teachers_of_mine:{function}")
    assert f"--teacher teachers_of_mine:{function}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_a_factory_is_named_with_its_line(module: Path) -> None:
    line = MODULE.splitlines().index('    raise RuntimeError("weights.pth is missing")') + 1
    with pytest.raises(ValueError, match=r"RuntimeError: weights[.]pth is missing") as caught:
        factory.load("teachers_of_mine:fails")
    assert f"({module}, line {line})" in str(caught.value)


@pytest.mark.usefixtures("module")
def test_a_network_in_training_mode_is_put_into_evaluation_mode() -> None:
    """The heatmaps of a crop do not depend on the others of its batch."""
    teacher = factory.load("teachers_of_mine:in_training")
    crops = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    together, alone = teacher(crops), teacher(crops[:1])
    assert isinstance(together, torch.Tensor)
    assert isinstance(alone, torch.Tensor)
    torch.testing.assert_close(together[:1], alone)
