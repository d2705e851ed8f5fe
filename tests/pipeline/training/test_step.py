"""One optimizer step against losses and gradients computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, fresh_views
from fpd.pipeline.config.sections import Training
from fpd.pipeline.training.checkpoint import TrainingState
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.optimizers import make_lr_scheduler, make_optimizer
from fpd.pipeline.training.step import autocast, split, train_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch(toy_recipe: Recipe, toy_samples: SampleSet) -> dict[str, Tensor]:
    """Six views."""
    views = fresh_views(toy_recipe, toy_samples, 0)
    return default_collate([views[index, 0] for index in range(6)])


def make_network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return recipe.teacher.model.build(14).to(memory_format=torch.channels_last).train()


def take_step(
    recipe: Recipe, batch: dict[str, Tensor], loss_weight: float = 1.0, **settings: Any
) -> tuple[nn.Module, Tensor]:
    """A network after its first step, with the step's gradients, and what the step returned."""
    training = recipe.teacher.model_copy(update=settings)
    network = make_network(recipe)
    optimizer = make_optimizer(training, network)
    state = TrainingState(network, optimizer, make_lr_scheduler(training, optimizer, 10))
    sums = train_step(
        state=state,
        network=network,
        objective=Objective(recipe.targets, recipe.geometry.heatmap_px),
        training=training,
        batch=batch,
        loss_weight=loss_weight,
        device=CPU,
    )
    return network, sums


def forward_by_hand(network: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    crop = (batch["crop"].float() / 255 - mean) / std
    return network(crop.permute(0, 3, 1, 2))


def gradients(network: nn.Module) -> Tensor:
    return torch.cat([weights.grad.flatten() for weights in network.parameters()])


def test_parts_make_up_the_batch_and_differ_by_one_view_at_most() -> None:
    batch = {"crop": torch.arange(7), "joints": torch.arange(14).reshape(7, 2)}
    for parts in range(1, 8):
        found = split(batch, parts)
        assert len(found) == parts
        for key, values in batch.items():
            assert torch.equal(torch.cat([part[key] for part in found]), values)
        lengths = [len(part["crop"]) for part in found]
        assert max(lengths) - min(lengths) <= 1


def test_losses_are_summed_over_views(toy_recipe: Recipe, batch: dict[str, Tensor]) -> None:
    _, sums = take_step(toy_recipe, batch)
    losses = Objective(toy_recipe.targets, 16)(
        forward_by_hand(make_network(toy_recipe), batch), batch
    )
    expected = [6 * losses.loss.item(), 6 * losses.collapsed_loss.item(), 0, 0, 6]
    assert sums.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss_weight", [1.0, 0.5])
def test_accumulated_gradients_weight_each_part_by_its_views(
    toy_recipe: Recipe, batch: dict[str, Tensor], loss_weight: float
) -> None:
    """Three parts of two views each, against the loss of each part by hand."""
    found, sums = take_step(toy_recipe, batch, loss_weight, grad_accum_steps=3)
    by_hand = make_network(toy_recipe)
    objective = Objective(toy_recipe.targets, 16)
    for start in (0, 2, 4):
        part = {key: values[start : start + 2] for key, values in batch.items()}
        loss = objective(forward_by_hand(by_hand, part), part).loss
        (loss * loss_weight * 2 / 6).backward()
    expected = gradients(by_hand)
    scale = float(expected.abs().max())
    torch.testing.assert_close(gradients(found), expected, rtol=1e-3, atol=1e-3 * scale)
    # Batch statistics are those of the parts; the labels' energy is that of the batch.
    assert sums[1].item() == pytest.approx(take_step(toy_recipe, batch)[1][1].item(), rel=1e-6)
    assert sums[4].item() == 6


def test_gradients_are_clipped_to_the_norm(toy_recipe: Recipe, batch: dict[str, Tensor]) -> None:
    free = gradients(take_step(toy_recipe, batch)[0])
    bound = float(free.norm()) / 2
    clipped = gradients(take_step(toy_recipe, batch, clip_grad_norm=bound)[0])
    torch.testing.assert_close(clipped, free / 2, rtol=1e-3, atol=1e-8)


def test_bfloat16_is_used_if_set(toy_recipe: Recipe, batch: dict[str, Tensor]) -> None:
    full = take_step(toy_recipe, batch, precision="float32")[1]
    network, half = take_step(toy_recipe, batch, precision="bfloat16")
    assert half[0] != full[0]
    assert half[0].item() == pytest.approx(full[0].item(), rel=0.05)
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_auto_precision_is_float32_on_a_cpu() -> None:
    assert not autocast(Training(precision="auto"), CPU)._enabled
    assert autocast(Training(precision="bfloat16"), CPU)._enabled
