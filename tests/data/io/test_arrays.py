"""Arrays of other tools' files: the four formats agree, and what is hostile is one sentence."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

from fpd.data.io import arrays as module
from fpd.data.io.arrays import Stored, arrays, listing, read, read_names

SAMPLE = np.arange(24, dtype=np.float64).reshape(3, 4, 2) / 7


def write(path: Path, array: NDArray[Any]) -> str:
    """The array in the format of the path's suffix; the name it has there."""
    if path.suffix == ".mat":
        scipy.io.savemat(path, {"preds": array}, do_compression=path.stem == "small")
    elif path.suffix == ".npz":
        np.savez_compressed(path, preds=array)
    elif path.suffix == ".npy":
        np.save(path, array)
        return ""
    else:
        path.write_text(json.dumps({"preds": array.tolist(), "info": "ours"}))
    return "preds"


@pytest.mark.parametrize("name", ["a.mat", "small.mat", "A.npz", "a.npy", "a.json"])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int16])
def test_all_formats_give_the_same_numbers(tmp_path, name, kind) -> None:
    array = (10 * SAMPLE).astype(kind)
    key = write(tmp_path / name, array)
    found = arrays(tmp_path / name)
    assert {n: stored.shape for n, stored in found.items()} == {key: (3, 4, 2)}
    numbers = read(tmp_path / name, found[key])
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, array)


def test_fortran_order_and_version_4_are_read(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(SAMPLE))
    found = arrays(tmp_path / "a.npy")
    np.testing.assert_array_equal(read(tmp_path / "a.npy", found[""]), SAMPLE)
    scipy.io.savemat(tmp_path / "a.mat", {"flat": SAMPLE[0]}, format="4")
    found = arrays(tmp_path / "a.mat")
    np.testing.assert_array_equal(read(tmp_path / "a.mat", found["flat"]), SAMPLE[0])


def test_a_bare_list_and_null_in_json(tmp_path) -> None:
    (tmp_path / "a.json").write_text("[[1, null], [NaN, 2]]")
    found = arrays(tmp_path / "a.json")
    np.testing.assert_array_equal(read(tmp_path / "a.json", found[""]), [[1, np.nan], [np.nan, 2]])


def test_cells_and_texts_of_a_mat_file_are_no_numbers(tmp_path) -> None:
    cell = np.empty((1, 2), object)
    cell[0, :] = [SAMPLE, SAMPLE]
    content = {"cell": cell, "text": "hello", "struct": {"a": 1}, "preds": SAMPLE}
    scipy.io.savemat(tmp_path / "a.mat", content)
    assert list(arrays(tmp_path / "a.mat")) == ["preds"]


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_nothing_is_unpickled(tmp_path, name) -> None:
    trap = np.array([Trap(tmp_path / "mark")], dtype=object)
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, trap)
    with pytest.raises(ValueError, match=rf"{name} cannot be read: expected an array of numbers"):
        arrays(tmp_path / name)
    assert not (tmp_path / "mark").exists()


def npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def zipped(member: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("preds.npy", member)
    return buffer.getvalue()


def bomb(size: int) -> bytes:
    """A .mat file of one compressed element of zeros."""
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    element = zlib.compress(struct.pack("<II", 14, size) + bytes(size))
    return header + struct.pack("<II", 15, len(element)) + element


GOOD_MAT = io.BytesIO()
scipy.io.savemat(GOOD_MAT, {"preds": SAMPLE})

DAMAGED = {
    "cut.mat": GOOD_MAT.getvalue()[:-40],
    "empty.mat": b"",
    "noise.mat": bytes(range(256)) * 3,
    "hdf5.mat": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n",
    "empty.npy": b"",
    "cut.npy": npy_header("(3, 4, 2)") + bytes(40),
    "huge.npy": npy_header("(9999999999999999, 9999999999999999)"),
    "negative.npy": npy_header("(-1, 4, 2)") + bytes(400),
    "noise.npz": b"PK\x03\x04" + bytes(50),
    "cut.npz": zipped(npy_header("(3, 4, 2)") + bytes(40)),
    "ragged.json": b"[[1, 2], [3]]",
    "words.json": b'[["a", "b"]]',
    "cut.json": b"[[1, 2], [3",
    "deep.json": b"[" * 200_000,
    "large.json": b"[1" + b"0" * 400 + b"]",
    "latin.json": b'["\xff"]',
    "object.json": b'{"preds": {"a": 1}}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_sentence_with_its_name(tmp_path, name) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=rf"{name} cannot be read: ") as error:
        read(path, *arrays(path).values())
    assert "\n" not in str(error.value)


def test_a_file_that_inflates_beyond_the_limit_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_INFLATED_BYTES", 1 << 20)
    (tmp_path / "bomb.mat").write_bytes(bomb(1 << 22))
    with pytest.raises(ValueError, match=r"bomb\.mat cannot be read: expected at most 1 MiB"):
        arrays(tmp_path / "bomb.mat")
    with pytest.raises(ValueError, match=r"bomb\.mat cannot be read: expected at most 1 MiB"):
        read_names(tmp_path / "bomb.mat", "names", 3)


def test_large_files_unknown_suffixes_and_folders_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "large.npy").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ValueError, match=r"large\.npy cannot .*: expected at most 1 MiB, found mo"):
        arrays(tmp_path / "large.npy")
    with pytest.raises(ValueError, match=r"a\.pkl: expected a file named \.mat, \.npz"):
        arrays(tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=r"none\.npy cannot be read as a \.npy file \(No such"):
        arrays(tmp_path / "none.npy")


@pytest.mark.parametrize("name", ["twice.mat", "twice.npz"])
def test_a_name_given_twice_is_refused(tmp_path, name) -> None:
    path = tmp_path / name
    if name == "twice.mat":
        path.write_bytes(GOOD_MAT.getvalue() + GOOD_MAT.getvalue()[128:])
    else:
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                archive.writestr("preds.npy", npy_header("(3,)") + bytes(24))
    with pytest.raises(ValueError, match=r"cannot be read: .*twice"):
        arrays(path)


def test_complex_numbers_are_refused(tmp_path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"preds": SAMPLE + 1j})
    found = arrays(tmp_path / "a.mat")["preds"]
    with pytest.raises(ValueError, match="expected real numbers, 3 x 4 x 2, found complex128"):
        read(tmp_path / "a.mat", found)


def test_content_that_is_not_what_the_header_said_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected real numbers, 2, found float64, 3"):
        read(tmp_path / "a.npy", Stored((2,), lambda: np.zeros(3)))


def names_cell(names: list[str]) -> NDArray[np.object_]:
    cell = np.empty((1, len(names)), object)
    cell[0, :] = names
    return cell


def test_names_in_a_cell_or_in_rows_of_letters(tmp_path) -> None:
    path = tmp_path / "a.mat"
    for names in (names_cell(["rank", "rkne"]), ["rank", "rkne"]):
        scipy.io.savemat(path, {"names": names})
        assert read_names(path, "names", 2) == ("rank", "rkne")
        for name, count in (("names", 3), ("other", 2)):
            with pytest.raises(ValueError, match=f"expected {count} names in '{name}', found"):
                read_names(path, name, count)


def test_a_listing_is_short_and_harmless() -> None:
    one = Stored((3, 2), lambda: None)
    assert listing({"": one}) == "3 x 2"
    assert listing({"a\n\x1b[2J": one}) == "a\\n\\x1b[2J 3 x 2"
    assert listing({str(n): one for n in range(1000)}).endswith("9 3 x 2, and 990 more")
    assert listing({}) == "no array of numbers"
