"""What `--detector` may name: an ONNX file, a folder, or a model on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ..runtime.text import pluralize
from ..teachers import hub
from . import hugging_face, yolo
from .detector import Detector


def check_detector(name: str) -> None:
    """Refuse a name that is of no known form, or of a file or folder that does not exist.

    Raises:
        ValueError: naming what is expected.
    """
    path = Path(name)
    is_file = path.suffix.lower() == ".onnx" and path.is_file()
    is_folder = (path / "config.json").is_file()
    if not (is_file or is_folder or (name.startswith(hub.PREFIX) and hub.parse(name))):
        raise ValueError(
            f"--detector {name}: expected an existing .onnx file of YOLO's, a folder with "
            "config.json as transformers writes it, or hf:ORG/NAME"
        )


def load_detector(name: str) -> Detector:
    """Load a detector, on the CPU; one on the hub is downloaded.

    Raises:
        ValueError: it does not exist, or cannot be used.
    """
    check_detector(name)
    ref = None if Path(name).exists() else hub.parse(name)
    path = Path(name) if ref is None else hub.fetch(ref)
    if path.is_dir():
        return hugging_face.load(path)
    return yolo.load(path, root=None if ref is None else hub.root_of(ref, path))


def whole_pictures(photographs: int, videos: int = 0) -> str:
    """The warning for pictures without boxes, where there is no detector either."""
    subjects, remedies = [], ["a detector with --detector"]
    if photographs:
        counted = pluralize(photographs, "photograph")
        subjects.append("the photograph" if photographs == 1 else f"each of the {counted}")
        remedies.insert(0, "people's boxes with --boxes")
    if videos:
        subjects.append(
            f"each frame of the {pluralize(videos, 'video') if videos > 1 else 'video'}"
        )
    return (
        f"warning: {' and '.join(subjects)} is taken as one person that fills it: for others, give "
        + ", or ".join(remedies)
    )
