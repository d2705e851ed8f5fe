"""What the commands that train print."""

from __future__ import annotations

import pytest

from fpd.commands.train import _print_trained


@pytest.mark.parametrize(
    ("pck", "text"),
    [
        (None, ""),
        (0.0, ", validation PCK 0.0 (epoch 2)"),
        (0.123, ", validation PCK 12.3 (epoch 2)"),
    ],
)
def test_a_validation_pck_of_zero_is_printed(
    pck: float | None, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_trained("student", {"result": {"validation_pck": pck, "best_epoch": 2, "seconds": 3.2}})
    assert capsys.readouterr().out == f"student: trained in 3 s{text}\n"
