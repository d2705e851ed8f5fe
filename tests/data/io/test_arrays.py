"""Arrays in files of other tools: four formats, and one-line errors for damaged files."""

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
from fpd.data.io.arrays import StoredArray, describe_arrays, list_arrays, read_array, read_names

SAMPLE = np.arange(24, dtype=np.float64).reshape(3, 4, 2) / 7


def write(path: Path, array: NDArray[Any]) -> str:
    """Write the array in the format of the path's suffix; return its name in the file."""
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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.mat", np.float64),
        ("small.mat", np.int16),
        ("A.npz", np.float32),
        ("a.npy", np.int16),
        ("a.json", np.float64),
    ],
)
def test_all_formats_give_the_same_numbers(tmp_path, name, dtype) -> None:
    array = (10 * SAMPLE).astype(dtype)
    key = write(tmp_path / name, array)
    listed = list_arrays(tmp_path / name)
    assert {n: stored.shape for n, stored in listed.items()} == {key: (3, 4, 2)}
    numbers = read_array(tmp_path / name, listed[key])
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, array)


def test_fortran_order_and_version_4_are_read(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(SAMPLE))
    listed = list_arrays(tmp_path / "a.npy")
    np.testing.assert_array_equal(read_array(tmp_path / "a.npy", listed[""]), SAMPLE)
    scipy.io.savemat(tmp_path / "a.mat", {"flat": SAMPLE[0]}, format="4")
    listed = list_arrays(tmp_path / "a.mat")
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat", listed["flat"]), SAMPLE[0])


def test_a_bare_list_and_null_in_json(tmp_path) -> None:
    (tmp_path / "a.json").write_text("[[1, null], [NaN, 2]]")
    listed = list_arrays(tmp_path / "a.json")
    np.testing.assert_array_equal(
        read_array(tmp_path / "a.json", listed[""]), [[1, np.nan], [np.nan, 2]]
    )


def test_only_numeric_variables_of_a_mat_file_are_listed(tmp_path) -> None:
    cell = np.empty((1, 2), object)
    cell[0, :] = [SAMPLE, SAMPLE]
    content = {"cell": cell, "text": "hello", "struct": {"a": 1}, "preds": SAMPLE}
    scipy.io.savemat(tmp_path / "a.mat", content)
    assert list(list_arrays(tmp_path / "a.mat")) == ["preds"]


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_nothing_is_unpickled(tmp_path, name) -> None:
    trap = np.array([Trap(tmp_path / "mark")], dtype=object)
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, trap)
    with pytest.raises(ValueError, match=rf"{name} cannot be read: expected an array of numbers"):
        list_arrays(tmp_path / name)
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
    "cut.npy": npy_header("(3, 4, 2)") + bytes(40),
    "huge.npy": npy_header("(9999999999999999, 9999999999999999)"),
    "negative.npy": npy_header("(-1, 4, 2)") + bytes(400),
    "version3.npy": b"\x93NUMPY\x03\x00" + bytes(100),
    "noise.npz": b"PK\x03\x04" + bytes(50),
    "cut.npz": zipped(npy_header("(3, 4, 2)") + bytes(40)),
    "ragged.json": b"[[1, 2], [3]]",
    "strings.json": b'[["a", "b"]]',
    "cut.json": b"[[1, 2], [3",
    "deep.json": b"[" * 200_000,
    "large.json": b"[1" + b"0" * 400 + b"]",
    "object.json": b'{"preds": {"a": 1}}',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named_in_one_line(tmp_path, name) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=rf"{name} cannot be read: ") as error:
        read_array(path, *list_arrays(path).values())
    assert "\n" not in str(error.value)


def test_a_file_that_inflates_beyond_the_limit_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_INFLATED_BYTES", 1 << 20)
    (tmp_path / "bomb.mat").write_bytes(bomb(1 << 22))
    with pytest.raises(ValueError, match=r"bomb\.mat cannot be read: expected at most 1 MiB"):
        list_arrays(tmp_path / "bomb.mat")
    with pytest.raises(ValueError, match=r"bomb\.mat cannot be read: expected at most 1 MiB"):
        read_names(tmp_path / "bomb.mat", "names", 3)


def compressed(inner: bytes) -> bytes:
    packed = zlib.compress(inner)
    return struct.pack("<II", 15, len(packed)) + packed


def test_what_scipy_would_inflate_itself_is_refused(tmp_path) -> None:
    """A compressed element inside, or behind the matrix of, a compressed element."""
    matrix = struct.pack("<II", 14, 64) + bytes(64)
    header = b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x100) + b"IM"
    nested = compressed(compressed(struct.pack("<II", 14, 1 << 22) + bytes(1 << 22)))
    (tmp_path / "nested.mat").write_bytes(header + nested)
    with pytest.raises(ValueError, match=r"nested\.mat cannot be read: expected a matrix in each"):
        list_arrays(tmp_path / "nested.mat")
    behind = header + compressed(matrix + compressed(matrix))
    assert module._inflate(behind) == header + matrix


def test_large_files_unknown_suffixes_and_folders_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "large.npy").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ValueError, match=r"large\.npy cannot .*: expected at most 1 MiB, found mo"):
        list_arrays(tmp_path / "large.npy")
    with pytest.raises(ValueError, match=r"a\.pkl: expected a file named \.mat, \.npz"):
        list_arrays(tmp_path / "a.pkl")
    with pytest.raises(ValueError, match=r"none\.npy cannot be read as a \.npy file \(No such"):
        list_arrays(tmp_path / "none.npy")


@pytest.mark.parametrize("name", ["twice.mat", "twice.npz"])
def test_duplicate_names_are_refused(tmp_path, name) -> None:
    path = tmp_path / name
    if name == "twice.mat":
        path.write_bytes(GOOD_MAT.getvalue() + GOOD_MAT.getvalue()[128:])
    else:
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                archive.writestr("preds.npy", npy_header("(3,)") + bytes(24))
    with pytest.raises(ValueError, match=r"cannot be read: .*twice"):
        list_arrays(path)


def test_complex_numbers_are_refused(tmp_path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"preds": SAMPLE + 1j})
    listed = list_arrays(tmp_path / "a.mat")["preds"]
    with pytest.raises(ValueError, match="expected real numbers, 3 x 4 x 2, found complex128"):
        read_array(tmp_path / "a.mat", listed)


def test_content_must_match_the_header(tmp_path) -> None:
    with pytest.raises(ValueError, match="expected real numbers, 2, found float64, 3"):
        read_array(tmp_path / "a.npy", StoredArray((2,), lambda: np.zeros(3)))


def names_cell(names: list[str]) -> NDArray[np.object_]:
    cell = np.empty((1, len(names)), object)
    cell[0, :] = names
    return cell


def test_names_in_cell_and_character_arrays(tmp_path) -> None:
    path = tmp_path / "a.mat"
    for names in (names_cell(["rank", "rkne"]), ["rank", "rkne"]):
        scipy.io.savemat(path, {"names": names})
        assert read_names(path, "names", 2) == ("rank", "rkne")
        for name, count in (("names", 3), ("other", 2)):
            with pytest.raises(ValueError, match=f"expected {count} names in '{name}', found"):
                read_names(path, name, count)


def test_descriptions_of_arrays_are_short_and_escaped() -> None:
    one = StoredArray((3, 2), lambda: None)
    assert describe_arrays({"": one}) == "3 x 2"
    assert describe_arrays({"a\n\x1b[2J": one}) == "a\\n\\x1b[2J 3 x 2"
    assert describe_arrays({str(n): one for n in range(1000)}).endswith("9 3 x 2, and 990 more")
    assert describe_arrays({}) == "no array of numbers"
