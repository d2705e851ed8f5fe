"""A program that `torch.export.save` wrote, with its spec beside it: model.pt2, model.pt2.json.

    fpd cache-heatmaps --teacher models/model.pt2

Loading one is not safe as such: `torch.export.load` unpickles weights that say so, custom objects
and example inputs, and evaluates texts of the file (torch 2.13: export/pt2_archive/_package.py;
_export/serde/serialize.py, `_parse_sym_expr`; export/_unlift.py, `_convert_guards_code_to_fn`). So
the archive is looked through first, and refused unless all of it is plain: raw tensors, example
inputs that `weights_only` reads, operators of ATen and plain arithmetic, sizes as simple formulas,
no guards in Python.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.files import sha256
from .spec import TeacherSpec, read_spec

MAX_FILE_BYTES = 16 << 30
MAX_GRAPH_BYTES = 64 << 20
"""Of models/model.json; an 8 x 256 hourglass has 4 MB."""

PLAIN_FILES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|save\b|load\b)\w+\.\w+"  # those reach for files
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)"
    r"|torch\.(sym_int|sym_max|sym_min|sym_float|sym_sqrt)|math\.(ceil|floor|trunc)"
)
FORMULA = re.compile(
    r"(?:\b(?:Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|FloorDiv|CleanDiv|CeilDiv|Mod|PythonMod"
    r"|ModularIndexing|Eq|Ne|Ge|Gt|Le|Lt|positive|nonnegative|integer|True|False)\b"
    r"|'[su]\d+'|\b[su]\d+\b|\b\d+\b|[-+*/(),=<> ])+"
)
"""What sizes are written with; no dot and no underscore, so nothing that evaluates to more."""


class ExportedTeacher:
    """An exported program."""

    def __init__(self, network: nn.Module, spec: TeacherSpec, digest: str) -> None:
        self.network, self.spec, self.digest = network, spec, digest

    def to(self, device: torch.device) -> ExportedTeacher:
        self.network.to(device)
        return self

    def __call__(self, crops_B3HW: Tensor) -> Tensor:
        answer = self.network(crops_B3HW)
        last: Tensor = answer[-1] if isinstance(answer, tuple | list) else answer
        return last


def load(path: Path) -> ExportedTeacher:
    """An exported program; of several outputs, the last is taken.

    Raises:
        ValueError: it has no spec, is damaged, or holds more than plain tensors and operators.
    """
    spec = read_spec(path.with_name(path.name + ".json"))
    try:
        _check_archive(path)
    except (OSError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as e:
        raise ValueError(f"{path} cannot be read as an exported program: {e!r}") from None
    try:
        program = torch.export.load(path)
        # Guards are Python, made of the file's texts: shapes are checked by whoever asks.
        network = program.module(check_guards=False)
    except Exception as error:  # of many kinds
        raise ValueError(
            f"{path} cannot be read as an exported program ({type(error).__name__}); it may be of "
            f"another PyTorch than {torch.__version__}: export it anew"
        ) from None
    return ExportedTeacher(network.requires_grad_(False), spec, sha256(path))


def _check_archive(path: Path) -> None:
    """Refuse whatever could run code while it is loaded, or asked."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_FILE_BYTES:
            raise ValueError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        files = {_inside(entry.filename): entry for entry in archive.infolist()}
        for name in files:
            if not PLAIN_FILES.fullmatch(name):
                raise _refused(path, f"has {name}")
        if len(files) < len(archive.infolist()):
            raise _refused(path, "has two files of one name")
        if files["models/model.json"].file_size > MAX_GRAPH_BYTES:
            raise _refused(path, f"has a graph of more than {MAX_GRAPH_BYTES} bytes")
        for kind in ("weights", "constants"):
            config = json.loads(archive.read(files[f"data/{kind}/model_{kind}_config.json"]))
            if any(payload.get("use_pickle", True) for payload in config["config"].values()):
                raise _refused(path, f"has pickled {kind}")
        _check_inputs(path, archive.read(files["data/sample_inputs/model.pt"]))
        _check_graph(path, json.loads(archive.read(files["models/model.json"])))


def _inside(name: str) -> str:
    """A name without the archive's root folder."""
    return str(PurePosixPath(*PurePosixPath(name).parts[1:]))


def _refused(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} {reason}, which could run code: expected a program of plain tensors and ATen "
        "operators, as torch.export.save writes of a network; code of your own goes by "
        "package.module:factory (docs/teachers.md)"
    )


def _check_inputs(path: Path, content: bytes) -> None:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # of many kinds
        raise _refused(path, "has pickled example inputs") from None


def _check_graph(path: Path, program: dict[str, Any]) -> None:
    if not all(FORMULA.fullmatch(name) for name in program["range_constraints"]):
        raise _refused(path, "has sizes that are no plain formulas")
    for value in _objects(program):
        if "target" in value and "inputs" in value and not OPERATORS.fullmatch(value["target"]):
            raise _refused(path, f"calls {value['target']:.80}")
        if not FORMULA.fullmatch(value.get("expr_str", "0")):
            raise _refused(path, "has sizes that are no plain formulas")
        specs = value.get("in_spec", ""), value.get("out_spec", "")
        if any("__enum__" in str(text) for text in specs):
            raise _refused(path, "names a class")


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in a value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)
