"""Teachers from anywhere: whatever maps a crop to heatmaps can fill a store (docs/teachers.md).

`spec` says what a teacher is, `sources` what `--teacher` may name; `hourglass`, `vitpose`,
`exported`, `python` and `folder` are the kinds. `joints` maps them by name, `fitting` brings crops
in and maps back, `asking` puts their answers together, `source` says who teaches in a run.
"""

from .ensemble import covered_joints, ensemble_predictor
from .registry import parse
from .resolve import (
    HeatmapSource,
    check_teacher,
    compatibility_warnings,
    expected_entry,
    external_teachers_exist,
    find_teacher,
    load_external_teachers,
    load_teacher,
)
from .spec import Teacher, TeacherSpec

__all__ = [
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
]
