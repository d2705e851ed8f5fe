"""Fast pose distillation: run the teacher once, train students on its cached heatmaps.

    model = fpd.load("work/lsp")
    model.predict("photo.jpg", boxes=[(40, 20, 120, 260)]).save("joints.jpg")

`api` has the functions; it is imported when one of them is used first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Model,
        Prediction,
        cache_heatmaps,
        evaluate,
        load,
        train_student,
        train_teacher,
    )

__version__ = "0.1.0"

__all__ = [
    "Model",
    "Prediction",
    "cache_heatmaps",
    "evaluate",
    "load",
    "train_student",
    "train_teacher",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
