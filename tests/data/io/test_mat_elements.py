"""The structure of .mat files, which SciPy trusts: an unknown type would end the process."""

from __future__ import annotations

import contextlib
import io
import random
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from fpd.data.io.mat_elements import check_elements


def mat(**variables: Any) -> bytes:
    content = io.BytesIO()
    scipy.io.savemat(content, variables)
    return content.getvalue()


NAMES = np.array([["a", "neck", ""]], object)
STRUCT = np.array([[(1.0, NAMES)]], dtype=[("x", object), ("a_field", object)])
NESTED = np.array([[STRUCT, np.zeros((0, 0))]], object)


@pytest.mark.parametrize(
    "value",
    [
        np.zeros((3, 14, 2)),
        np.zeros((0, 3)),
        np.arange(4, dtype=np.uint8),
        np.array([[1 + 2j]]),
        scipy.sparse.csc_matrix(np.eye(3)),
        "text",
        NAMES,
        STRUCT,
        NESTED,
    ],
)
def test_files_that_scipy_writes_are_whole(value: Any) -> None:
    check_elements(mat(value=value, other=1.0))


def test_an_unknown_type_of_text_in_a_cell_is_refused() -> None:
    """It ended the process with a segmentation fault."""
    content = mat(names=NAMES)
    at = content.index(b"neck") - 4
    assert content[at : at + 4] == b"\x10\0\x04\0"  # a small element: UTF-8, 4 bytes
    with pytest.raises(ValueError, match="damaged: an element of type 0"):
        check_elements(content[:at] + b"\0" + content[at + 1 :])


def test_cells_in_cells_have_a_limit() -> None:
    value: Any = NAMES
    for _ in range(40):
        outer = np.empty((1, 1), object)
        outer[0, 0] = value
        value = outer
    with pytest.raises(ValueError, match="nested too deeply"):
        check_elements(mat(value=value))


def test_any_change_is_refused_or_harmless() -> None:
    """What passes the check, SciPy reads or refuses: this process survives."""
    content = mat(names=NAMES, nested=NESTED, numbers=np.zeros((3, 2)))
    rng = random.Random(0)
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 2))):
            changed[rng.randrange(128, len(content))] = rng.choice((0, 1, 255, rng.randrange(256)))
        with contextlib.suppress(Exception):  # SciPy raises many kinds
            check_elements(bytes(changed))
            scipy.io.loadmat(io.BytesIO(changed))
