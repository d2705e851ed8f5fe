"""Optimizers and learning-rate schedulers against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fpd.pipeline.config.sections import Training
from fpd.pipeline.training.optimizers import make_lr_scheduler, make_optimizer

RATE = 0.02


def network() -> nn.Module:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
    return layer


def learning_rates(lr_schedule: str, steps: int, **settings: float) -> list[float]:
    """The learning rate of each step."""
    training = Training(lr_schedule=lr_schedule, learning_rate=RATE, **settings)
    optimizer = make_optimizer(training, network())
    scheduler = make_lr_scheduler(training, optimizer, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    assert learning_rates("constant", 30) == [RATE] * 30


def test_cosine_falls_to_zero() -> None:
    rates = learning_rates("cosine", 100)
    expected = [RATE * (1 + math.cos(math.pi * step / 100)) / 2 for step in range(100)]
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert rates[-1] < RATE / 1000


@pytest.mark.parametrize(("settings", "share"), [({}, 0.15), ({"warmup_fraction": 0.4}, 0.4)])
def test_one_cycle_rises_for_the_warmup_fraction_and_falls(
    settings: dict[str, float], share: float
) -> None:
    """Up from a 25th of the peak and down to a 250,000th, along half cosines."""
    steps = 100
    rates = learning_rates("one-cycle", steps, **settings)
    low, end, top = RATE / 25, RATE / 25 / 1e4, share * steps - 1

    def half_cosine(start: float, stop: float, share: float) -> float:
        return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2

    expected = [
        half_cosine(low, RATE, step / top)
        if step <= top
        else half_cosine(RATE, end, (step - top) / (steps - 1 - top))
        for step in range(steps)
    ]
    assert rates == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("lr_schedule", ["constant", "cosine", "one-cycle"])
@pytest.mark.parametrize("steps", [1, 2])
def test_the_shortest_runs_have_a_schedule(lr_schedule: str, steps: int) -> None:
    assert all(0 <= rate <= RATE for rate in learning_rates(lr_schedule, steps))


def step_once(training: Training, gradient: list[float]) -> torch.Tensor:
    layer = network()
    layer.weight.grad = torch.tensor([gradient])
    make_optimizer(training, layer).step()
    return layer.weight.detach()


def test_rmsprop_is_that_of_torch7() -> None:
    """The paper's optimizer: alpha 0.99, no momentum, no weight decay, eps 1e-8."""
    training = Training(optimizer="rmsprop", learning_rate=RATE, weight_decay=0.5)
    group = make_optimizer(training, network()).param_groups[0]
    assert (group["lr"], group["alpha"], group["eps"]) == (RATE, 0.99, 1e-8)
    assert (group["momentum"], group["weight_decay"], group["centered"]) == (0, 0, False)
    # After one step the mean square is 0.01 g^2: each weight moves by rate * g / (0.1 |g|).
    weights = step_once(training, [3.0, -1e-3])
    torch.testing.assert_close(
        weights, torch.tensor([[1 - 10 * RATE, -2 + 10 * RATE]]), rtol=1e-4, atol=0
    )


def test_adamw_decays_weights_independently_of_the_gradient() -> None:
    training = Training(optimizer="adamw", learning_rate=RATE, weight_decay=0.5)
    # The first step of Adam is rate * sign(g); decay takes rate * 0.5 of each weight.
    weights = step_once(training, [3.0, -0.1])
    expected = torch.tensor([[1 * (1 - RATE / 2) - RATE, -2 * (1 - RATE / 2) + RATE]])
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_every_parameter_is_optimized(optimizer: str) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    groups = make_optimizer(Training(optimizer=optimizer), net).param_groups
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in net.parameters()}
