"""A teacher saved by `torch.export.save`, with its spec beside it: model.pt2, model.pt2.json.

    fpd cache-heatmaps --teacher models/model.pt2

`torch.export.load` is not safe for untrusted files: it unpickles weights marked as pickled, custom
objects and example inputs, and evaluates strings from the file (torch 2.13:
export/pt2_archive/_package.py; _export/serde/serialize.py, `_parse_sym_expr`; export/_unlift.py,
`_convert_guards_code_to_fn`). Therefore the file is read once, and refused unless it holds only raw
tensors, example inputs that `weights_only` reads, ATen operators and arithmetic, and sizes that are
simple formulas. What is loaded is a new archive of the members that were checked, not the file.
Guards, which are Python code, are not used.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...data.io.files import read_bytes
from ..models.export.formats import DESCRIPTION
from ..runtime.zip_files import read_members, repack
from .spec import TeacherSpec, read_spec

MAX_FILE_BYTES = 16 << 30
MAX_GRAPH_BYTES = 64 << 20
"""Size limit of models/model.json; that of an 8 x 256 hourglass has 4 MB."""

DESCRIPTION_FILE = f"extra/{DESCRIPTION}"
EXAMPLE_INPUTS = "data/sample_inputs/model.pt"

PLAIN_FILES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)"
    rf"|{re.escape(DESCRIPTION_FILE)}"
)
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|save\b|load\b)\w+\.\w+"  # these access files
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)"
    r"|torch\.(sym_int|sym_max|sym_min|sym_float|sym_sqrt)|math\.(ceil|floor|trunc)"
)
FORMULA = re.compile(
    r"(?:\b(?:Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|FloorDiv|CleanDiv|CeilDiv|Mod|PythonMod"
    r"|ModularIndexing|Eq|Ne|Ge|Gt|Le|Lt|positive|nonnegative|integer|True|False)\b"
    r"|'[su]\d+'|\b[su]\d+\b|\b\d+\b|[-+*/(),=<> ])+"
)
"""Expressions of sizes; without dots and underscores, they cannot evaluate to anything else."""


class ExportedTeacher:
    """A teacher that runs an exported program."""

    def __init__(self, network: nn.Module, spec: TeacherSpec, digest: str) -> None:
        self.network, self.spec, self.digest = network, spec, digest

    def to(self, device: torch.device) -> ExportedTeacher:
        self.network.to(device)
        return self

    def __call__(self, crops_B3HW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        output = self.network(crops_B3HW)
        outputs = tuple(output) if isinstance(output, tuple | list) else (output,)
        if self.spec.head in ("simcc", "simcc-logits") and len(outputs) > 1:
            return outputs[-2:]
        heatmaps: Tensor = outputs[-1]
        return heatmaps


def load(path: Path) -> ExportedTeacher:
    """Load an exported program; if it has several outputs, the last one is used (of SimCC, two).

    Raises:
        ValueError: it has no spec, is damaged, or holds more than plain tensors and operators.
    """
    spec = read_spec(path.with_name(path.name + ".json"))
    program = read_program(path)
    return ExportedTeacher(program.network, spec, program.sha256)


class Program(NamedTuple):
    """A program that was read once and checked.

    Attributes:
        network: it runs the program.
        sha256: of the file, in hexadecimal.
        description: what `fpd export` writes into its files; "": there is none.
    """

    network: nn.Module
    sha256: str
    description: str


def read_program(path: Path) -> Program:
    """Read an exported program of unknown origin.

    Raises:
        ValueError: it is damaged, or holds more than plain tensors and operators.
    """
    content = read_bytes(path, MAX_FILE_BYTES, "an exported program")
    digest = hashlib.sha256(content).hexdigest()
    try:
        archive, description = _vetted_archive(path, content)
    except (KeyError, TypeError, AttributeError, RecursionError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} cannot be read as an exported program: {e!r}") from None
    del content  # may be large
    try:
        program = torch.export.load(archive)
        # Guards are Python code from the file; `ensemble` checks shapes instead.
        network = program.module(check_guards=False)
    except Exception as error:  # of many types
        raise ValueError(
            f"{path} cannot be read as an exported program ({type(error).__name__}); it may be "
            f"from another version of PyTorch than {torch.__version__}: export it again"
        ) from None
    return Program(network.requires_grad_(False), digest, description)


def _vetted_archive(path: Path, content: bytes) -> tuple[io.BytesIO, str]:
    """A new archive of the file's members, after refusing any that could run code; its description.

    PyTorch is given this archive, never the file: another zip reader may find other members in a
    file than `zipfile` does.
    """
    try:
        members = read_members(content, MAX_FILE_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} {error}: expected an exported program") from None
    files = {_without_root(name): member for name, member in members.items()}
    for name in files:
        if not PLAIN_FILES.fullmatch(name):
            raise _refused(path, f"contains {name}")
    if len(files) < len(members):
        raise _refused(path, "contains two files with the same name")
    if len(files["models/model.json"]) > MAX_GRAPH_BYTES:
        raise _refused(path, f"has a graph of more than {MAX_GRAPH_BYTES} bytes")
    for kind in ("weights", "constants"):
        name = f"data/{kind}/model_{kind}_config.json"
        config = json.loads(files[name].decode("utf-8"))
        if any(payload.get("use_pickle", True) for payload in config["config"].values()):
            raise _refused(path, f"contains pickled {kind}")
        files[name] = json.dumps(config).encode()
    graph = json.loads(files["models/model.json"].decode("utf-8"))
    _check_graph(path, graph)
    files["models/model.json"] = json.dumps(graph).encode()
    files[EXAMPLE_INPUTS] = _resaved_inputs(path, files[EXAMPLE_INPUTS])
    description = files.pop(DESCRIPTION_FILE, b"").decode("utf-8")
    return repack({f"archive/{name}": member for name, member in files.items()}), description


def _without_root(name: str) -> str:
    """A file name without the archive's root folder."""
    return str(PurePosixPath(*PurePosixPath(name).parts[1:]))


def _refused(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} {reason}, which could run code: expected a program of plain tensors and ATen "
        "operators, as torch.export.save writes for a network; for your own code, use "
        "--teacher package.module:factory (docs/teachers.md)"
    )


def _resaved_inputs(path: Path, content: bytes) -> bytes:
    """The example inputs, pickled again: PyTorch unpickles them without restrictions."""
    resaved = io.BytesIO()
    try:
        torch.save(torch.load(io.BytesIO(content), weights_only=True), resaved)
    except Exception:  # of many types
        raise _refused(path, "contains pickled example inputs") from None
    return resaved.getvalue()


def _check_graph(path: Path, program: dict[str, Any]) -> None:
    if not all(FORMULA.fullmatch(name) for name in program["range_constraints"]):
        raise _refused(path, "contains sizes that are not simple formulas")
    for value in _objects(program):
        if "target" in value and "inputs" in value and not OPERATORS.fullmatch(value["target"]):
            raise _refused(path, f"calls {value['target']:.80}")
        if not FORMULA.fullmatch(value.get("expr_str", "0")):
            raise _refused(path, "contains sizes that are not simple formulas")
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
