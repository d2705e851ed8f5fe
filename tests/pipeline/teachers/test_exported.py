"""Exported programs: the same heatmaps, and files that could run code are refused unloaded."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fpd.pipeline.teachers import TeacherSpec
from fpd.pipeline.teachers.exported import load

from .conftest import ConvTeacher

SPEC = TeacherSpec(input=(64, 48), joints=("neck", "head top"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program for any batch, with its spec beside it."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    example = (torch.rand(2, 3, *SPEC.input),)
    batch = {0: torch.export.Dim("batch", max=512)}
    program = torch.export.export(ConvTeacher(SPEC).eval(), example, dynamic_shapes=(batch,))
    torch.export.save(program, path)
    path.with_name("model.pt2.json").write_text(SPEC.model_dump_json())
    return path


def rewritten(saved: Path, folder: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A copy of the archive with changed files."""
    path = folder / "model.pt2"
    with zipfile.ZipFile(saved) as archive:
        root = archive.namelist()[0].split("/")[0]
        files = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{root}/{name}", content)
    path.with_name("model.pt2.json").write_text(SPEC.model_dump_json())
    return path


def test_a_program_computes_its_networks_heatmaps_for_any_batch_size(saved: Path) -> None:
    teacher = load(saved)
    assert teacher.spec == SPEC
    for batch_size in (1, 5):
        crops = torch.rand(batch_size, 3, *SPEC.input)
        with torch.inference_mode():
            torch.testing.assert_close(teacher(crops), ConvTeacher(SPEC)(crops))


def test_a_rewritten_archive_is_accepted(saved: Path, tmp_path: Path) -> None:
    """So the refusals below are due to their changes alone."""
    teacher = load(rewritten(saved, tmp_path, lambda files: None))
    assert teacher(torch.rand(3, 3, *SPEC.input)).shape == (3, 2, 16, 12)


def test_a_missing_spec_is_named(saved: Path, tmp_path: Path) -> None:
    path = rewritten(saved, tmp_path, lambda files: None)
    path.with_name("model.pt2.json").unlink()
    with pytest.raises(ValueError, match=r"spec in .*model\.pt2\.json, found none"):
        load(path)


def edited(name: str, edit: Callable[[Any], None]) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        value = json.loads(files[name])
        edit(value)
        files[name] = json.dumps(value).encode()

    return change


def first_node(program: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = program["graph_module"]["graph"]["nodes"][0]
    return node


def pickled(config: dict[str, Any]) -> None:
    next(iter(config["config"].values()))["use_pickle"] = True


def first_size(program: dict[str, Any]) -> dict[str, Any]:
    sizes = program["graph_module"]["graph"]["tensor_values"]["crops_b3hw"]["sizes"]
    expression: dict[str, Any] = next(size["as_expr"] for size in sizes if "as_expr" in size)
    return expression


EVIL = "__import__('os').system('touch {}')"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edited("data/weights/model_weights_config.json", pickled), "pickled weights"),
        (lambda f: f.update({"data/sample_inputs/model.pt": b"cos\nsystem\n."}), "example inputs"),
        (lambda f: f.update({"data/constants/custom_obj_0": b""}), "custom_obj_0"),
        (lambda f: f.update({"data/aotinductor/model/x.so": b""}), "aotinductor"),
        (
            edited("models/model.json", lambda p: first_node(p).update(target="torch.load")),
            r"calls torch\.load",
        ),
        (
            edited("models/model.json", lambda p: first_node(p).update(target="#mine:op")),
            "calls #mine:op",
        ),
        (
            edited(
                "models/model.json",
                lambda p: first_node(p).update(target="torch.ops.aten.from_file.default"),
            ),
            "calls torch.ops.aten.from_file",
        ),
        (
            edited("models/model.json", lambda p: first_size(p).update(expr_str=EVIL)),
            "not simple formulas",
        ),
        (
            edited("models/model.json", lambda p: p["range_constraints"].update({EVIL: {}})),
            "not simple formulas",
        ),
        (lambda f: f.pop("models/model.json"), "cannot be read as an exported program"),
        (lambda f: f.update({"models/model.json": b"[1]"}), "cannot be read as an exported"),
    ],
)
def test_a_program_that_could_run_code_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(rewritten(saved, tmp_path, change))


def two_directories(seen_by_torch: bytes, seen_by_python: bytes) -> bytes:
    """A zip file whose end record gives PyTorch's reader one member list and `zipfile` another.

    PyTorch takes the offset of the central directory as it is written. `zipfile` takes the
    directory that ends where the end record starts, and shifts all offsets by the difference.
    """

    def split(archive: bytes) -> tuple[bytes, bytes, bytes]:
        end = archive.rindex(b"PK\5\6")
        size, offset = struct.unpack_from("<II", archive, end + 12)
        return archive[:offset], archive[offset : offset + size], archive[end:]

    members, directory, end = split(seen_by_torch)
    other_members, other_directory, _ = split(seen_by_python)
    assert len(directory) == len(other_directory)
    assert len(members) >= len(other_members)
    shifted, position = bytearray(other_directory), 0
    while position < len(shifted):
        name, extra, comment = struct.unpack_from("<HHH", shifted, position + 28)
        (offset,) = struct.unpack_from("<I", shifted, position + 42)
        offset += len(members) - len(other_members)
        struct.pack_into("<I", shifted, position + 42, offset)
        position += 46 + name + extra + comment
    return members + directory + other_members + bytes(shifted) + end


def test_a_zip_with_two_central_directories_does_not_run_its_code(
    saved: Path, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    evil = f"__import__('pathlib').Path({str(touched)!r}).touch()" + " " * 100
    change = edited("models/model.json", lambda p: first_size(p).update(expr_str=evil))
    harmful = rewritten(saved, tmp_path, change).read_bytes()
    harmless = rewritten(saved, tmp_path, lambda files: None).read_bytes()
    path = tmp_path / "model.pt2"
    path.write_bytes(two_directories(harmful, harmless))
    teacher = load(path)  # the members that were checked
    assert teacher(torch.rand(3, 3, *SPEC.input)).shape == (3, 2, 16, 12)
    assert teacher.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not touched.exists()
    with suppress(Exception):
        torch.export.load(path)
    assert touched.exists()  # the file is what the test says it is
    touched.unlink()
    path.write_bytes(two_directories(harmful, harmful))
    with pytest.raises(ValueError, match="not simple formulas"):
        load(path)
    assert not touched.exists()


def test_guards_in_a_file_are_not_run(saved: Path, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    guard = EVIL.format(touched)
    change = edited("models/model.json", lambda p: p.update(guards_code=[guard]))
    teacher = load(rewritten(saved, tmp_path, change))
    teacher(torch.rand(2, 3, *SPEC.input))
    assert not touched.exists()


def test_an_archive_above_the_size_limit_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fpd.pipeline.teachers.exported.MAX_FILE_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        load(saved)
