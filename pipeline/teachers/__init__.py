"""Teachers: anything that maps crops to heatmaps can fill a store (docs/teachers.md).

`spec` defines what a teacher is, and `registry` what `--teacher` may name; `hourglass`, `vitpose`,
`exported`, `factory` and `trained_run` load the kinds of teachers. `joint_names` matches joints by
name, `resampling` converts crops and heatmaps between a teacher's grid and the store's, `alignment`
turns crops upright and heatmaps back, `passes` runs one teacher, `ensemble` combines several, and
`resolve` finds the teachers of a run.
"""

from .ensemble import covered_joints, ensemble_predictor
from .registry import CodeNotAllowed, parse
from .resolve import (
    HeatmapSource,
    check_teacher,
    compatibility_warnings,
    expected_entry,
    external_teachers_exist,
    find_teacher,
    load_external_teachers,
    load_teacher,
    taught_joints,
)
from .spec import Teacher, TeacherSpec

__all__ = [
    "CodeNotAllowed",
    "HeatmapSource",
    "Teacher",
    "TeacherSpec",
    "check_teacher",
    "compatibility_warnings",
    "covered_joints",
    "ensemble_predictor",
    "expected_entry",
    "external_teachers_exist",
    "find_teacher",
    "load_external_teachers",
    "load_teacher",
    "parse",
    "taught_joints",
]
