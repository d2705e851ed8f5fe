"""A teacher from the user's own code."""

from __future__ import annotations

from pathlib import Path

import pytest

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
"""


def test_a_factory_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "teachers_of_mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
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
