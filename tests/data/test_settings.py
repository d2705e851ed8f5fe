"""The base class of settings: strict and immutable."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from fpd.data.settings import Settings


class Toy(Settings):
    """A section with one setting."""

    value: float = 1.0


@pytest.mark.parametrize("bad", [{"other": 1.0}, {"value": math.nan}, {"value": math.inf}], ids=str)
def test_unknown_keys_and_not_finite_numbers_are_refused(bad) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Toy(**bad)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Toy().value = 2.0  # type: ignore[misc]
