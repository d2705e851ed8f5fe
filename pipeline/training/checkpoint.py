"""Checkpoints: everything needed to go on as if nothing had happened, written whole or not at all.

`state.pt` holds tensors, numbers and text only and is read with `weights_only=True`.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from ..models.checkpoint import ModelDir
from ..runtime.diff import differences
from ..runtime.distributed import SINGLE_PROCESS, ProcessGroup
from ..runtime.files import atomic

Identity = dict[str, Any]
"""What a run depends on: a checkpoint of another identity is refused, not continued."""


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch, step: the next step to take: `step` steps of epoch `epoch` are done.
        sums: of this epoch so far: loss, collapsed_loss, images, seconds, seconds waiting for data.
        history: one row for each finished epoch; `metrics.jsonl` is written from it.
        best: the highest validation PCK so far, its epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_pck: float = -1.0
    best_epoch: int = -1

    def add(self, **amounts: float) -> None:
        """Add to the epoch's sums."""
        for key, amount in amounts.items():
            self.sums[key] = self.sums.get(key, 0.0) + amount


@dataclass
class TrainingState:
    """The moving parts of a run.

    Attributes:
        averaged: the moving average of the network, where one is kept.
    """

    network: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    averaged: AveragedModel | None = None
    progress: Progress = field(default_factory=Progress)

    @property
    def trained(self) -> nn.Module:
        """What is scored and kept: the average, where there is one."""
        if self.averaged is None:
            return self.network
        averaged: nn.Module = self.averaged.module
        return averaged

    def save(self, out: ModelDir, identity: Identity) -> None:
        """Write `state.pt`, and `metrics.jsonl` in step with it."""
        state = {
            "network": self.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": json.dumps(vars(self.progress)),
            "identity": json.dumps(identity),
        }
        with atomic(out.metrics) as temporary:
            rows = (json.dumps(row) + "\n" for row in self.progress.history)
            temporary.write_text("".join(rows), "utf-8")
        # By way of memory: a full disk is then an OSError, not one of PyTorch's own kind.
        content = io.BytesIO()
        torch.save(state, content)
        with atomic(out.state) as temporary:
            temporary.write_bytes(content.getbuffer())

    def restore(
        self, out: ModelDir, identity: Identity, group: ProcessGroup = SINGLE_PROCESS
    ) -> bool:
        """Take up a checkpoint, if there is one: that which the group's first process sees.

        Raises:
            ValueError: it is damaged, or of a run with other settings or inputs.
        """
        there = group.is_first and out.state.is_file()
        content = group.of_first(out.state.read_bytes() if there else None)
        if content is None:
            return False
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            found = json.loads(state["identity"])
        except Exception as error:  # torch raises many kinds for a damaged file
            raise _damaged(out, error) from None
        check_identity(out, identity, found)
        try:
            self.network.load_state_dict(state["network"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.progress = Progress(**json.loads(state["progress"]))
        except Exception as error:
            raise _damaged(out, error) from None
        return True


def _damaged(out: ModelDir, error: Exception) -> ValueError:
    kind = type(error).__name__
    return ValueError(f"{out.state} is damaged ({kind}): remove {out.path} to start over")


def check_identity(out: ModelDir, expected: Identity, found: Identity) -> None:
    """Refuse to mix two runs in one folder.

    Raises:
        ValueError: naming every setting or input that differs.
    """
    different = differences(expected, found)
    if different:
        raise ValueError(
            f"{out.path} holds a run with other settings or inputs: {'; '.join(different)}. "
            f"Name another -w, for a student another --name, or remove {out.path} to start over"
        )
