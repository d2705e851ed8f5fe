"""Checkpoints: the complete state of a run, from which it resumes as if never interrupted.

`state.pt` holds only tensors, numbers and text, and is read with `weights_only=True`. It ends with
a checksum, which is compared before anything is parsed.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ..models.model_dir import ModelDir
from ..runtime.diff import differences
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.files import atomic
from ..runtime.zip_files import is_zip, read_members, repack

CHECKSUM_MARK = b"\nfpd sha256 "
"""Stands between the content of `state.pt` and its SHA-256 in hexadecimal."""

Identity = dict[str, Any]
"""Everything a run's weights depend on. A checkpoint with another identity is refused."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch, step: the next step to take, both from 0.
        sums: over the steps of this epoch so far, by name: "images" (views), "seconds",
            "data_wait_s", and over the views each field of `objective.Losses`; "late_loss" and
            "late_collapsed_loss" over the views of the epoch's second half.
        history: one row per finished epoch; `metrics.jsonl` is written from it.
        best_pck: the highest validation PCK so far, in 0..1; -1: none yet, or no validation.
        best_epoch: the epoch, from 1, whose weights are kept; -1: none yet.
        weights_sha256: of the weights file as it was saved after that epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_pck: float = -1.0
    best_epoch: int = -1
    weights_sha256: str = ""

    def add(self, **amounts: float) -> None:
        """Add to the sums of the current epoch."""
        for key, amount in amounts.items():
            self.sums[key] = self.sums.get(key, 0.0) + amount


@dataclass
class TrainingState:
    """Everything that changes during training.

    Attributes:
        averaged: the moving average of the network's weights; None: there is none.
    """

    network: nn.Module
    optimizer: Optimizer
    lr_scheduler: LRScheduler
    averaged: AveragedModel | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def trained(self) -> nn.Module:
        """The network to score and to save: the moving average, if there is one."""
        if self.averaged is None:
            return self.network
        averaged: nn.Module = self.averaged.module
        return averaged

    def save(self, out: ModelDir, identity: Identity) -> None:
        """Write `state.pt`, and `metrics.jsonl` from the same history."""
        state = {
            "network": self.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "progress": json.dumps(vars(self.progress)),
            "identity": json.dumps(identity),
        }
        self.write_metrics(out)
        # Serialized in memory first, so that a full disk raises OSError. torch.save to a file would
        # raise a RuntimeError.
        content = io.BytesIO()
        torch.save(state, content)
        content.write(CHECKSUM_MARK + hashlib.sha256(content.getbuffer()).hexdigest().encode())
        with atomic(out.state) as temporary:
            temporary.write_bytes(content.getbuffer())

    def write_metrics(self, out: ModelDir) -> str:
        """Write `metrics.jsonl` from the history, and return its SHA-256."""
        lines = "".join(json.dumps(row) + "\n" for row in self.progress.history).encode()
        with atomic(out.metrics) as temporary:
            temporary.write_bytes(lines)
        return hashlib.sha256(lines).hexdigest()

    def restore(
        self, out: ModelDir, identity: Identity, group: ProcessGroup = SINGLE_PROCESS
    ) -> bool:
        """Load the checkpoint that the group's first process sees, if there is one.

        Returns:
            Whether there was one.

        Raises:
            ValueError: it is damaged, or of a run with other settings or inputs.
        """
        reads_file = group.is_first and out.state.is_file()
        content = group.broadcast(out.state.read_bytes() if reads_file else None)
        if content is None:
            return False
        state, found = _parse(out, content)
        check_identity(out, expected=identity, found=found)
        try:
            self.network.load_state_dict(state["network"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.lr_scheduler.load_state_dict(state["lr_scheduler"])
            self.progress = Progress(**json.loads(state["progress"]))
        except Exception as error:
            raise _damaged(out, type(error).__name__) from None
        if group.is_first and self.progress.best_epoch > 0 and not out.weights.is_file():
            raise ValueError(
                f"{out.weights} of epoch {self.progress.best_epoch} is missing: restore it, or "
                f"remove {out.path} to start over"
            )
        return True


def saved_identity(out: ModelDir) -> Identity | None:
    """The identity of a checkpoint; None if there is none.

    Raises:
        ValueError: it is damaged.
    """
    return _parse(out, out.state.read_bytes())[1] if out.state.is_file() else None


def _parse(out: ModelDir, content: bytes) -> tuple[dict[str, Any], Identity]:
    """A checkpoint's state and its identity.

    Raises:
        ValueError: it is damaged.
    """
    content = _unsealed(out, content)
    try:
        # PyTorch gets the members that `zipfile` finds; together they are as large as the file.
        file = repack(read_members(content, len(content))) if is_zip(content) else None
        file = file or io.BytesIO(content)
        state = torch.load(file, map_location="cpu", weights_only=True)
        return state, json.loads(state["identity"])
    except Exception as error:  # damaged files raise many kinds of errors
        raise _damaged(out, type(error).__name__) from None


def _unsealed(out: ModelDir, content: bytes) -> bytes:
    """The content of `state.pt` without its checksum, which is compared with it.

    Raises:
        ValueError: they do not match.
    """
    content, mark, checksum = content.rpartition(CHECKSUM_MARK)
    if not mark or hashlib.sha256(content).hexdigest().encode() != checksum:
        raise _damaged(out, "checksum")
    return content


def _damaged(out: ModelDir, reason: str) -> ValueError:
    return ValueError(
        f"{out.state} is damaged ({reason}): restore it, or remove {out.path} to start over"
    )


def check_identity(out: ModelDir, expected: Identity, found: Identity) -> None:
    """Refuse to continue a run with other settings or inputs.

    Raises:
        ValueError: naming every setting or input that differs.
    """
    different = [_as_typed(text, out) for text in differences(expected, found)]
    if different:
        raise ValueError(
            f"{out.path} holds a run with other settings or inputs: {'; '.join(different)}. "
            f"Choose another -w (for a student, another --name), or remove {out.path} to start over"
        )


def _as_typed(difference: str, out: ModelDir) -> str:
    """The difference with the setting's key as recipes and `--set` have it."""
    section = "teacher" if out.path.name == "teacher" else "student"
    key = difference.removeprefix("settings.")
    return section + key.removeprefix("training") if key.startswith("training.") else key
