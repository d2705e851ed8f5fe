"""Checkpoints: all of a run or nothing of it, never another run's, and never code."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fpd.pipeline.config.sections import Training
from fpd.pipeline.models.checkpoint import ModelDir, load_weights, save_weights
from fpd.pipeline.models.hourglass import HourglassSettings
from fpd.pipeline.training.checkpoint import Progress, TrainingState, check_identity
from fpd.pipeline.training.optimizers import make_optimizer, make_schedule

IDENTITY = {
    "settings": {"training": {"epochs": 3, "learning_rate": 0.01}},
    "inputs": {"dataset": {"ids": "abc"}},
}


def build(seed: int = 0, channels: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return HourglassSettings(stages=1, channels=channels, depth=1, stem="ports").build(3)


def new_state(seed: int = 0, optimizer: str = "adamw") -> TrainingState:
    training = Training(optimizer=optimizer, schedule="one-cycle", learning_rate=0.01)
    network = build(seed)
    return TrainingState(
        network,
        (chosen := make_optimizer(training, network)),
        make_schedule(training, chosen, 10),
    )


def steps(state: TrainingState, first: int, count: int) -> None:
    """Train on noise, of which each step has its own."""
    state.network.train()
    for step in range(first, first + count):
        crop = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        loss = sum(h.square().sum() for h in state.network(crop))
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.schedule.step()
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
def test_a_restored_run_goes_on_as_if_nothing_had_happened(out: ModelDir, optimizer: str) -> None:
    undisturbed = new_state(optimizer=optimizer)
    steps(undisturbed, 0, 3)
    undisturbed.progress.history.append({"epoch": 1, "loss": 0.1 + 0.2})
    undisturbed.progress.best_pck, undisturbed.progress.best_epoch = 1 / 3, 1
    undisturbed.save(out, IDENTITY)
    resumed = new_state(seed=9, optimizer=optimizer)
    assert resumed.restore(out, copy.deepcopy(IDENTITY))
    assert resumed.progress == undisturbed.progress
    assert resumed.progress is not undisturbed.progress
    for state in (undisturbed, resumed):
        steps(state, 3, 4)
    assert same(resumed.network.state_dict(), undisturbed.network.state_dict())
    assert same(resumed.optimizer.state_dict(), undisturbed.optimizer.state_dict())
    assert same(resumed.schedule.state_dict(), undisturbed.schedule.state_dict())
    assert resumed.progress == undisturbed.progress
    assert resumed.schedule.get_last_lr() == undisturbed.schedule.get_last_lr()


def test_without_a_checkpoint_nothing_is_restored(out: ModelDir) -> None:
    state = new_state()
    before = copy.deepcopy(state.network.state_dict())
    assert not state.restore(out, IDENTITY)
    assert same(state.network.state_dict(), before)
    assert state.progress == Progress()


def test_metrics_are_one_line_an_epoch_in_step_with_the_state(out: ModelDir) -> None:
    state = new_state()
    out.metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n')  # of a run that was further
    state.progress.history = [{"epoch": 1, "loss": 2.0}]
    state.save(out, IDENTITY)
    assert [json.loads(line) for line in out.metrics.read_text().splitlines()] == [
        {"epoch": 1, "loss": 2.0}
    ]


def test_the_file_holds_no_code(out: ModelDir) -> None:
    state = new_state()
    steps(state, 0, 1)
    state.save(out, IDENTITY)
    found = torch.load(out.state, weights_only=True)
    assert set(found) == {*["network", "averaged", "optimizer", "schedule", "progress", "identity"]}
    assert json.loads(found["identity"]) == IDENTITY
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
    steps(state, 0, 1)
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
    assert "settings.training.epochs: expected 5, found 3" in message
    assert "inputs.dataset.ids: expected xyz, found abc" in message
    assert "learning_rate" not in message
    assert f"remove {out.path}" in message and "--name" in message
    assert same(resumed.network.state_dict(), before)


def test_the_same_run_is_not_refused(out: ModelDir) -> None:
    check_identity(out, IDENTITY, copy.deepcopy(IDENTITY))
    check_identity(out, {"scale": (1, 2)}, {"scale": [1, 2]})


# Damage


@pytest.mark.parametrize("damage", ["empty", "truncated", "noise", "text", "list"])
def test_a_damaged_state_is_named(out: ModelDir, damage: str) -> None:
    new_state().save(out, IDENTITY)
    whole = out.state.read_bytes()
    if damage == "list":
        torch.save([1, 2], out.state)
    else:
        out.state.write_bytes(
            {
                "empty": b"",
                "truncated": whole[: len(whole) // 2],
                "noise": bytes(range(256)) * 9,
                "text": b"hello",
            }[damage]
        )
    with pytest.raises(ValueError, match=r"state\.pt is damaged \(\w+\): remove .*student"):
        new_state().restore(out, IDENTITY)


@pytest.mark.parametrize("part", ["network", "optimizer", "schedule", "progress"])
def test_a_state_that_lacks_a_part_is_named(out: ModelDir, part: str) -> None:
    new_state().save(out, IDENTITY)
    state = torch.load(out.state, weights_only=True)
    del state[part]
    torch.save(state, out.state)
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        new_state().restore(out, IDENTITY)


class Bomb:
    """What unpickling must never run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["torch", "plain", "inside"])
def test_a_pickle_bomb_does_not_go_off(out: ModelDir, tmp_path: Path, form: str) -> None:
    target = tmp_path / "harm"
    if form == "torch":
        torch.save(Bomb(target), out.state)
    elif form == "plain":
        out.state.write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save({"identity": json.dumps(IDENTITY), "network": Bomb(target)}, out.state)
    with pytest.raises(ValueError, match=r"state\.pt is damaged"):
        new_state().restore(out, IDENTITY)
    assert not target.exists()
    # The bomb is live: it goes off where pickles are trusted.
    torch.load(out.state, weights_only=False) if form != "plain" else pickle.loads(
        out.state.read_bytes()
    )
    assert target.exists()


# Weights


def test_weights_come_back(out: ModelDir) -> None:
    network, other = build(0).to(memory_format=torch.channels_last), build(1)
    save_weights(network, out)
    assert not same(other.state_dict(), network.state_dict())
    load_weights(other, out.weights)
    assert same(other.state_dict(), network.state_dict())
    assert [p.name for p in out.path.iterdir()] == ["weights.safetensors"]


def test_weights_are_the_same_bytes_for_the_same_network(out: ModelDir, tmp_path: Path) -> None:
    save_weights(build(0), out)
    (tmp_path / "other").mkdir()
    other = ModelDir(tmp_path / "other")
    save_weights(build(0).to(memory_format=torch.channels_last), other)
    assert out.weights.read_bytes() == other.weights.read_bytes()


@pytest.mark.parametrize("what", ["wider", "deeper", "more joints"])
def test_weights_of_another_network_are_named(out: ModelDir, what: str) -> None:
    settings: dict[str, Any] = {"stages": 1, "channels": 8, "depth": 1, "stem": "ports"}
    settings |= {"wider": {"channels": 16}, "deeper": {"depth": 2}}.get(what, {})
    save_weights(HourglassSettings(**settings).build(4 if what == "more joints" else 3), out)
    with pytest.raises(
        ValueError, match=r"weights\.safetensors holds weights of another network: "
    ):
        load_weights(build(), out.weights)
    network = HourglassSettings(**settings).build(4 if what == "more joints" else 3)
    load_weights(network, out.weights)


def test_weights_that_lack_a_tensor_are_refused(out: ModelDir) -> None:
    from safetensors.torch import load_file, save_file

    save_weights(build(), out)
    tensors = load_file(out.weights)
    del tensors["score.0.bias"]
    save_file(tensors, out.weights)
    with pytest.raises(ValueError, match=r"another network: Missing key.*score\.0\.bias"):
        load_weights(build(), out.weights)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 100, None, b"\x80\x02."])
def test_what_cannot_be_read_as_weights_is_named(out: ModelDir, content: bytes | None) -> None:
    if content is not None:
        out.weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read as weights"):
        load_weights(build(), out.weights)


def test_truncated_weights_are_named(out: ModelDir) -> None:
    save_weights(build(), out)
    whole = out.weights.read_bytes()
    out.weights.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read as weights"):
        load_weights(build(), out.weights)


def test_sums_add_up() -> None:
    progress = Progress()
    progress.add(loss=1.5, images=2)
    progress.add(loss=0.5, images=1, seconds=3)
    assert progress.sums == {"loss": 2.0, "images": 3, "seconds": 3}
    assert Progress().sums == {}
