"""Teachers from anywhere: whatever maps a crop to heatmaps can fill a store (docs/teachers.md).

`spec` says what a teacher is, `sources` what `--teacher` may name; `hourglass`, `vitpose`,
`exported`, `python` and `folder` are the kinds. `joints` maps them by name, `fitting` brings crops
in and maps back, `asking` puts their answers together, `faculty` says who teaches in a run.
"""

from .asking import ask_teachers, taught_joints
from .faculty import (
    Faculty,
    check_teacher,
    expected_entry,
    find_faculty,
    named_are_there,
    open_faculty,
    open_named,
    remarks,
    taught_mask,
)
from .sources import parse
from .spec import Teacher, TeacherSpec

__all__ = [
    "Faculty",
    "Teacher",
    "TeacherSpec",
    "ask_teachers",
    "check_teacher",
    "expected_entry",
    "find_faculty",
    "named_are_there",
    "open_faculty",
    "open_named",
    "parse",
    "remarks",
    "taught_joints",
    "taught_mask",
]
