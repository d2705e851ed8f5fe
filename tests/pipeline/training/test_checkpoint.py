"""Checkpoints: complete or absent, never of another run, and never code."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fpd.pipeline.config.sections import Training
from fpd.pipeline.models.model_dir import ModelDir
from fpd.pipeline.models.settings import HourglassSettings
from fpd.pipeline.training.checkpoint import (
    CHECKSUM_MARK,
    Progress,
    TrainingState,
    check_identity,
)
from fpd.pipeline.training.optimizers import make_lr_scheduler, make_optimizer

IDENTITY = {
    "settings": {"training": {"epochs": 3, "learning_rate": 0.01}},
    "inputs": {"dataset": {"ids": "abc"}},
}


def build(seed: int = 0, channels: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return HourglassSettings(stages=1, channels=channels, depth=1, stem="ports").build(3)


def new_state(seed: int = 0, optimizer: str = "adamw") -> TrainingState:
    training = Training(optimizer=optimizer, lr_schedule="one-cycle", learning_rate=0.01)
    network = build(seed)
    made = make_optimizer(training, network)
    return TrainingState(network, made, make_lr_scheduler(training, made, 10))


def take_steps(state: TrainingState, first: int, count: int) -> None:
    """Train on noise, which depends on the number of the step."""
    state.network.train()
    for step in range(first, first + count):
        crop = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        loss = sum(h.square().sum() for h in state.network(crop))
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.lr_scheduler.step()
        state.progress.step += 1
        state.progress.add(loss=loss.item())


@pytest.fixture
def out(tmp_path: Path) -> ModelDir:
    folder = ModelDir(tmp_path / "student")
    folder.path.mkdir()
    return folder


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_restored_run_continues_as_if_never_interrupted(out: ModelDir, optimizer: str) -> None:
    undisturbed = new_state(optimizer=optimizer)
    take_steps(undisturbed, 0, 3)
    undisturbed.progress.history.append({"epoch": 1, "loss": 0.1 + 0.2})
    undisturbed.progress.best_pck, undisturbed.progress.best_epoch = 1 / 3, 1
    undisturbed.save(out, IDENTITY)
    out.weights.touch()  # as saved after the best epoch
    resumed = new_state(seed=9, optimizer=optimizer)
    assert resumed.restore(out, copy.deepcopy(IDENTITY))
    assert resumed.progress == undisturbed.progress
    assert resumed.progress is not undisturbed.progress
    for state in (undisturbed, resumed):
        take_steps(state, 3, 4)
    assert same(resumed.network.state_dict(), undisturbed.network.state_dict())
    assert same(resumed.optimizer.state_dict(), undisturbed.optimizer.state_dict())
    assert same(resumed.lr_scheduler.state_dict(), undisturbed.lr_scheduler.state_dict())
    assert resumed.progress == undisturbed.progress
    assert resumed.lr_scheduler.get_last_lr() == undisturbed.lr_scheduler.get_last_lr()


def test_without_a_checkpoint_nothing_is_restored(out: ModelDir) -> None:
    state = new_state()
    before = copy.deepcopy(state.network.state_dict())
    assert not state.restore(out, IDENTITY)
    assert same(state.network.state_dict(), before)
    assert state.progress == Progress()


def test_metrics_are_written_from_the_same_history(out: ModelDir) -> None:
    state = new_state()
    out.metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n')  # of a checkpoint that was lost
    state.progress.history = [{"epoch": 1, "loss": 2.0}]
    state.save(out, IDENTITY)
    assert [json.loads(line) for line in out.metrics.read_text().splitlines()] == [
        {"epoch": 1, "loss": 2.0}
    ]


def test_the_file_holds_no_code(out: ModelDir) -> None:
    state = new_state()
    take_steps(state, 0, 1)
    state.save(out, IDENTITY)
    content = torch.load(out.state, weights_only=True)
    parts = {"network", "averaged", "optimizer", "lr_scheduler", "progress", "identity"}
    assert set(content) == parts
    assert json.loads(content["identity"]) == IDENTITY
    assert sorted(p.name for p in out.path.iterdir()) == ["metrics.jsonl", "state.pt"]


def test_a_save_that_fails_leaves_the_last_checkpoint(
    out: ModelDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = new_state()
    state.save(out, IDENTITY)
    before = out.state.read_bytes()

    def fail(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    take_steps(state, 0, 1)
    with pytest.raises(OSError, match="disk full"):
        state.save(out, IDENTITY)
    assert out.state.read_bytes() == before
    assert sorted(p.name for p in out.path.iterdir()) == ["metrics.jsonl", "state.pt"]


# Other runs


def test_another_run_is_refused_with_each_difference(out: ModelDir) -> None:
    new_state().save(out, IDENTITY)
    other = copy.deepcopy(IDENTITY)
    other["settings"]["training"]["epochs"] = 5
    other["inputs"]["dataset"]["ids"] = "xyz"
    resumed = new_state(seed=1)
    before = copy.deepcopy(resumed.network.state_dict())
    with pytest.raises(ValueError, match="holds a run with other settings or inputs") as caught:
        resumed.restore(out, other)
    message = str(caught.value)
    assert "student.epochs: expected 5, found 3" in message
    assert "inputs.dataset.ids: expected xyz, found abc" in message
    assert "learning_rate" not in message
    assert f"remove {out.path}" in message and "--name" in message
    assert same(resumed.network.state_dict(), before)


def test_the_same_run_is_not_refused(out: ModelDir) -> None:
    check_identity(out, IDENTITY, copy.deepcopy(IDENTITY))
    check_identity(out, {"scale": (1, 2)}, {"scale": [1, 2]})


# Damage


def save_sealed(out: ModelDir, value: Any) -> None:
    """Write a value as `state.pt`, with a checksum that matches: damage of another kind."""
    content = io.BytesIO()
    torch.save(value, content)
    checksum = hashlib.sha256(content.getvalue()).hexdigest()
    out.state.write_bytes(content.getvalue() + CHECKSUM_MARK + checksum.encode())


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 0.999])
def test_a_flipped_bit_in_a_state_is_found_before_it_is_parsed(
    out: ModelDir, monkeypatch: pytest.MonkeyPatch, place: float
) -> None:
    new_state().save(out, IDENTITY)
    content = bytearray(out.state.read_bytes())
    content[int(place * len(content))] ^= 1
    out.state.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("parsed"))
    with pytest.raises(ValueError, match=r"state\.pt is damaged \(checksum\): restore it, or rem"):
        new_state().restore(out, IDENTITY)


def test_a_state_that_inflates_is_refused(out: ModelDir) -> None:
    new_state().save(out, IDENTITY)
    content = out.state.read_bytes().partition(CHECKSUM_MARK)[0]
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name) + bytes(1 << 20))
    checksum = hashlib.sha256(packed.getvalue()).hexdigest()
    out.state.write_bytes(packed.getvalue() + CHECKSUM_MARK + checksum.encode())
    with pytest.raises(ValueError, match=r"state\.pt is damaged \(ValueError\)"):
        new_state().restore(out, IDENTITY)


def test_missing_weights_of_a_best_epoch_are_named(out: ModelDir) -> None:
    state = new_state()
    state.progress.best_epoch = 1
    state.save(out, IDENTITY)
    with pytest.raises(ValueError, match=r"weights\.safetensors of epoch 1 is missing: restore it"):
        new_state().restore(out, IDENTITY)


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "list"])
def test_a_damaged_state_is_named(out: ModelDir, damage: str) -> None:
    new_state().save(out, IDENTITY)
    whole = out.state.read_bytes()
    if damage == "list":
        save_sealed(out, [1, 2])
    else:
        out.state.write_bytes(
            {
                "empty": b"",
                "truncated": whole[: len(whole) // 2],
                "noise": bytes(range(256)) * 9,
            }[damage]
        )
    with pytest.raises(ValueError, match=r"state\.pt is damaged \(\w+\): .*remove .*student"):
        new_state().restore(out, IDENTITY)


@pytest.mark.parametrize("part", ["network", "progress"])
def test_a_state_that_lacks_a_part_is_named(out: ModelDir, part: str) -> None:
    new_state().save(out, IDENTITY)
    state = torch.load(out.state, weights_only=True)
    del state[part]
    save_sealed(out, state)
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        new_state().restore(out, IDENTITY)


class Bomb:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["torch", "plain", "inside"])
def test_code_in_a_checkpoint_is_not_run(out: ModelDir, tmp_path: Path, form: str) -> None:
    target = tmp_path / "harm"
    if form == "torch":
        save_sealed(out, Bomb(target))
    elif form == "plain":
        content = pickle.dumps(Bomb(target))
        checksum = hashlib.sha256(content).hexdigest().encode()
        out.state.write_bytes(content + CHECKSUM_MARK + checksum)
    else:
        save_sealed(out, {"identity": json.dumps(IDENTITY), "network": Bomb(target)})
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        new_state().restore(out, IDENTITY)
    assert not target.exists()
    # The code does run if pickles are trusted.
    torch.load(out.state, weights_only=False) if form != "plain" else pickle.loads(
        out.state.read_bytes()
    )
    assert target.exists()


def test_amounts_are_added_to_sums() -> None:
    progress = Progress()
    progress.add(loss=1.5, images=2)
    progress.add(loss=0.5, images=1, seconds=3)
    assert progress.sums == {"loss": 2.0, "images": 3, "seconds": 3}
    assert Progress().sums == {}
