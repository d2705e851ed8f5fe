"""What watches a run: the callbacks that `--callback` names, and how users write their own.

    # my_callbacks.py
    from fpd.pipeline.training.callbacks import Callback, Epoch, RunInfo

    class Print(Callback):
        def __init__(self, run: RunInfo) -> None:
            self.run = run

        def on_epoch(self, epoch: Epoch) -> None:
            print(self.run.name, epoch.row["epoch"], epoch.row["loss"])

    fpd run student -w work/lsp --callback csv --callback my_callbacks:Print

They are named on the command line only: a recipe may come from somebody else, and neither runs
code nor sends numbers anywhere. The weights do not depend on them, and an error in one does not end
training. Only the first process of a run has them.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..runtime.files import atomic
from ..runtime.user_code import import_function

OPTION = "--callback"


@dataclass(frozen=True)
class RunInfo:
    """What a callback is made for.

    Attributes:
        name: the model's.
        folder: the model's; callbacks may write files of their own there.
        epochs, steps: how many epochs the run has, and an epoch steps.
        settings: the network's training settings, as JSON.
    """

    name: str
    folder: Path
    epochs: int
    steps: int
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Epoch:
    """A finished epoch.

    Attributes:
        history: the rows of `metrics.jsonl` (docs/monitoring.md), this epoch's last.
        validation_pck: shares, 0 to 1, by group of joints; empty without validation samples.
        images: PNG files by name: "contact_sheet", in epochs that have one.
    """

    history: Sequence[Mapping[str, Any]]
    validation_pck: Mapping[str, float]
    images: Mapping[str, bytes]

    @property
    def row(self) -> Mapping[str, Any]:
        """This epoch's row of `metrics.jsonl`."""
        return self.history[-1]


class Callback:
    """Watches one run, from its start or from where it continues. Override what is needed."""

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float]) -> None:
        """After an optimizer step, up to ten steps late: losses stay on the device until then.

        Args:
            epoch, step: from 1.
            losses: means over the step's views, by column of `metrics.jsonl`.
        """

    def on_epoch(self, epoch: Epoch) -> None:
        """After each epoch, once it is scored."""

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        """After the run.

        Args:
            result: the "result" of `record.json`; None: the run was stopped, or failed.
        """


class Csv(Callback):
    """Writes `metrics.csv` in the model's folder: the columns of `metrics.jsonl`."""

    def __init__(self, run: RunInfo) -> None:
        self.path = run.folder / "metrics.csv"

    def on_epoch(self, epoch: Epoch) -> None:
        columns = dict.fromkeys(column for row in epoch.history for column in row)
        with atomic(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(epoch.history)


class WeightsAndBiases(Callback):
    """Logs epochs to Weights & Biases, where and how its own environment variables say.

    `WANDB_MODE=offline` writes below the model's folder and sends nothing, `WANDB_PROJECT` names
    the project ("fpd" by default).
    """

    def __init__(self, run: RunInfo) -> None:
        """Start or continue the run.

        Raises:
            ValueError: the wandb package is missing; with the command that installs it.
        """
        if "wandb" not in sys.modules and find_spec("wandb") is None:
            raise ValueError("install it with `pip install 'fast-pose-distillation[wandb]'`")
        import wandb

        folder = run.folder.absolute()
        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fpd"),
            name=run.name,
            dir=str(folder),
            config=dict(run.settings),
            id=sha256(str(folder).encode()).hexdigest()[:16],  # a resumed run is the same one
            resume="allow",
        )

    def on_epoch(self, epoch: Epoch) -> None:
        from io import BytesIO

        from PIL import Image

        shares = {f"validation_pck/{name}": share for name, share in epoch.validation_pck.items()}
        images = {
            name: self._wandb.Image(Image.open(BytesIO(content)))
            for name, content in epoch.images.items()
        }
        self._run.log({**epoch.row, **shares, **images}, step=epoch.row["epoch"])

    def on_end(self, result: Mapping[str, Any] | None) -> None:
        self._run.finish(exit_code=int(result is None))


BUILT_IN: dict[str, Callable[[RunInfo], Callback]] = {"csv": Csv, "wandb": WeightsAndBiases}
"""Callbacks by the name that `--callback` takes. TensorBoard's is `monitor.tensorboard`."""


def make_callback(name: str, run: RunInfo) -> Callback:
    """A callback by its name on the command line.

    Raises:
        ValueError: there is none of this name, or the factory does not return a `Callback`.
    """
    factory = callback_factory(name)
    try:
        callback = factory(run)
    except Exception as error:  # of any kind: code of the user's, or a service's client
        raise ValueError(f"{OPTION} {name} could not start: {error}") from error
    if not isinstance(callback, Callback):
        raise ValueError(
            f"{OPTION} {name}: expected it to return an "
            f"fpd.pipeline.training.callbacks.Callback, found a {type(callback).__name__}"
        )
    return callback


def callback_factory(name: str) -> Callable[[RunInfo], Any]:
    """What makes the callback of a name: a built-in one, or the user's `package.module:factory`.

    Raises:
        ValueError: there is none of this name; the user's module does not exist or fails.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" not in name:
        raise ValueError(
            f"{OPTION} {name}: expected {', '.join(BUILT_IN)} or package.module:factory"
        )
    return import_function(name, OPTION)


def check_callbacks(names: Sequence[str]) -> None:
    """Refuse callbacks that do not exist, before anything slow is done.

    Raises:
        ValueError: see `callback_factory`.
    """
    for name in names:
        callback_factory(name)
