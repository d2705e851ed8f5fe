"""Steps of training on a GPU: their gradients, precision, compilation, and no waiting."""

from __future__ import annotations

import shutil
import sysconfig
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fpd.data.samples import SampleSet
from fpd.data.skeletons import LSP
from fpd.pipeline.config.recipe import Recipe
from fpd.pipeline.config.sections import Student, Training
from fpd.pipeline.models.checkpoint import to_device
from fpd.pipeline.models.hourglass import HourglassSettings
from fpd.pipeline.store import compress
from fpd.pipeline.training.checkpoint import TrainingState
from fpd.pipeline.training.moving_average import MovingAverage
from fpd.pipeline.training.objective import Objective
from fpd.pipeline.training.optimizers import make_lr_scheduler, make_optimizer
from fpd.pipeline.training.step import autocast, replayed, train_step

from .comparing import (
    CPU,
    NETWORK,
    build_network,
    changed,
    label_batch,
    random_heatmaps,
    relative_difference,
)

pytestmark = pytest.mark.gpu

VIEWS = 8
CROP_PX = 128  # the lowest level of the network then has 2 x 2 pixels

FLOAT32_TOLERANCE = 1e-3
"""Relative difference of a weight's gradient. The CPU's whole gradient in float32 is 1e-5 to 6e-5
from that in float64, with smooth activations."""

RELU_TOLERANCE = 0.2
"""The same with ReLU, of the whole gradient: float32 is 3e-3 to 7e-2 from float64."""

BFLOAT16_COSINE = 0.85  # of the whole gradient, with smooth activations; 0.93 to 0.95 on a CPU
BFLOAT16_LOSS = 0.02  # relative; up to 0.006 on a CPU


class Step(NamedTuple):
    """The mean loss of the last step, and its gradients by the weights' names, on the CPU."""

    loss: float
    gradients: dict[str, Tensor]

    @property
    def gradient(self) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in self.gradients.values()])


@pytest.fixture(scope="module")
def recipe(toy_recipe: Recipe) -> Recipe:
    return changed(toy_recipe, f"geometry.crop_px={CROP_PX}")


@pytest.fixture(scope="module")
def batch(recipe: Recipe, toy_samples: SampleSet) -> dict[str, Tensor]:
    """Eight views with labels and compressed heatmaps."""
    labels = label_batch(recipe, toy_samples, VIEWS)
    compressed = compress(random_heatmaps(VIEWS, CROP_PX // 4), 0.05)
    flipped = torch.arange(VIEWS) % 2 == 0
    return labels | compressed._asdict() | {"flipped": flipped}


def make_state(
    training: Training,
    device: torch.device,
    model: HourglassSettings = NETWORK,
    *,
    smooth: bool = False,
) -> TrainingState:
    network = to_device(build_network(model, smooth=smooth), device).train()
    if training.compile:
        network.compile()
    averaged = None
    if training.ema_decay is not None:
        averaged = MovingAverage(network, training.ema_decay)
    optimizer = make_optimizer(training, network)
    return TrainingState(network, optimizer, make_lr_scheduler(training, optimizer, 10), averaged)


def take_steps(
    recipe: Recipe,
    batch: dict[str, Tensor],
    device: torch.device,
    count: int = 1,
    model: HourglassSettings = NETWORK,
    *,
    smooth: bool = False,
    **settings: Any,
) -> Step:
    """Take steps on the same batch from the same weights.

    Args:
        smooth: see `build_network`.
    """
    training = Student(**{"precision": "float32", "loss": "mse"} | settings)
    state = make_state(training, device, model, smooth=smooth)
    for _ in range(count):
        sums = _step(state, recipe, training, batch, device)
    gradients = {
        name: weights.grad.cpu()
        for name, weights in state.network.named_parameters()
        if weights.grad is not None
    }
    assert sums[4].item() == len(batch["crop"])
    return Step(sums[0].item() / len(batch["crop"]), gradients)


def _step(
    state: TrainingState,
    recipe: Recipe,
    training: Student,
    batch: dict[str, Tensor],
    device: torch.device,
    network: nn.Module | None = None,
) -> Tensor:
    return train_step(
        state=state,
        network=state.network if network is None else network,
        objective=Objective(
            recipe.targets,
            recipe.geometry.heatmap_px,
            training,
            LSP.flip_indices,
            loss=training.loss,
            covered_K=(True,) * 14,
        ),
        training=training,
        batch=batch,
        loss_weight=1.0,
        device=device,
    )


def assert_same_gradients(found: Step, expected: Step, tolerance: float) -> None:
    """Compare each weight's gradient.

    The gradients of biases before a batch normalization are zero but for rounding, which is small
    against the whole gradient.
    """
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert found.gradients.keys() == expected.gradients.keys()
    whole = float(expected.gradient.norm())
    for name, gradient in expected.gradients.items():
        difference = float((found.gradients[name] - gradient).norm())
        assert difference <= tolerance * float(gradient.norm()) + 1e-5 * whole, name


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"alpha": 0.5, "loss": "kl"},
        {"alpha": 0.0, "grad_accum_steps": 2},
    ],
)
def test_gradients_are_those_of_the_cpu(
    recipe: Recipe, batch: dict[str, Tensor], device: torch.device, settings: dict[str, Any]
) -> None:
    expected = take_steps(recipe, batch, CPU, smooth=True, **settings)
    found = take_steps(recipe, batch, device, smooth=True, **settings)
    assert_same_gradients(found, expected, FLOAT32_TOLERANCE)


def test_gradients_with_relu_are_nearly_those_of_the_cpu(
    recipe: Recipe, batch: dict[str, Tensor], device: torch.device
) -> None:
    expected, found = (take_steps(recipe, batch, where) for where in (CPU, device))
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert relative_difference(found.gradient, expected.gradient) < RELU_TOLERANCE


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_second_steps_have_the_losses_of_the_cpu(
    recipe: Recipe, batch: dict[str, Tensor], device: torch.device, optimizer: str
) -> None:
    settings = {"optimizer": optimizer, "learning_rate": 1e-4, "clip_grad_norm": 10.0}
    settings |= {"lr_schedule": "constant", "ema_decay": 0.9}
    expected = take_steps(recipe, batch, CPU, count=3, smooth=True, **settings)
    found = take_steps(recipe, batch, device, count=3, smooth=True, **settings)
    first = take_steps(recipe, batch, CPU, smooth=True, **settings)
    # An update that is wrong by a hundredth of its effect would be noticed.
    assert abs(found.loss - expected.loss) < 0.01 * abs(first.loss - expected.loss)


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_bfloat16_has_nearly_the_gradient_of_float32(
    recipe: Recipe, batch: dict[str, Tensor], device: torch.device, loss: str
) -> None:
    """On a GPU, the precision "auto" is bfloat16; on a CPU it is float32."""
    precision = "auto" if device.type == "cuda" else "bfloat16"
    for smooth in (False, True):
        full = take_steps(recipe, batch, device, smooth=smooth, loss=loss)
        half = take_steps(recipe, batch, device, smooth=smooth, loss=loss, precision=precision)
        assert half.loss != full.loss
        assert half.loss == pytest.approx(full.loss, rel=BFLOAT16_LOSS)
    cosine = torch.nn.functional.cosine_similarity(half.gradient, full.gradient, dim=0)
    assert float(cosine) > BFLOAT16_COSINE


def test_auto_precision_is_bfloat16_on_a_gpu(device: torch.device) -> None:
    enabled = autocast(Training(precision="auto"), device)._enabled
    assert enabled == (device.type == "cuda")


def test_networks_are_channels_last_on_the_device(device: torch.device) -> None:
    network = to_device(build_network(), device)
    weights = [weights for weights in network.parameters() if weights.dim() == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    with torch.no_grad():
        crops = torch.randn(2, 3, 64, 64, device=device)
        maps = network(crops.contiguous(memory_format=torch.channels_last))[-1]
    assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_step_does_not_wait_for_the_device(
    recipe: Recipe,
    batch: dict[str, Tensor],
    device: torch.device,
    alpha: float,
    ema_decay: float | None,
) -> None:
    """Each operation that synchronizes is named by the line of Python that calls it."""
    if device.type != "cuda":
        pytest.skip("PyTorch reports synchronizations of CUDA only")
    training = Student(alpha=alpha, ema_decay=ema_decay, clip_grad_norm=1.0)
    state = make_state(training, device)
    pinned = {key: values.pin_memory() for key, values in batch.items()}
    _step(state, recipe, training, pinned, device)  # copies constants to the device, once
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            _step(state, recipe, training, pinned, device)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in caught if "called a synchroniz" in str(w.message)]
    assert waits == []


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replayed_steps_are_those_of_plain_ones(
    recipe: Recipe, batch: dict[str, Tensor], device: torch.device, precision: str
) -> None:
    """With batches of two sizes, whose passes are recorded at their first step."""
    if device.type != "cuda":
        pytest.skip("only a GPU has CUDA graphs")
    settings = {"learning_rate": 1e-4, "lr_schedule": "constant", "loss": "mse"}
    training = Student.model_validate(settings | {"precision": precision})
    plain, recorded = (make_state(training, device, smooth=True) for _ in range(2))
    network = replayed(recorded.network, training, device)
    assert network is not recorded.network

    tolerance = 1e-4 if precision == "float32" else 1e-2
    for views in (VIEWS, VIEWS - 1, VIEWS, VIEWS):
        part = {key: values[:views] for key, values in batch.items()}
        expected = _step(plain, recipe, training, part, device)
        found = _step(recorded, recipe, training, part, device, network)
        assert found[0].item() == pytest.approx(expected[0].item(), rel=tolerance)

    pairs = plain.network.state_dict().items(), recorded.network.state_dict().values()
    for (name, expected_values), found_values in zip(*pairs, strict=True):
        if name.endswith("num_batches_tracked"):
            assert found_values == expected_values == 4
        elif name.endswith(("running_mean", "running_var")):
            torch.testing.assert_close(found_values, expected_values, rtol=1e-2, atol=1e-2)


def test_compiled_steps_are_those_of_plain_ones(
    recipe: Recipe, batch: dict[str, Tensor], device: torch.device
) -> None:
    """A small network, because the compiler takes seconds for every ten layers."""
    if device.type != "cuda":
        pytest.skip("the compiler for CPUs is tried elsewhere, and takes a minute")
    has_compiler = any(map(shutil.which, ("cc", "gcc", "clang")))
    if not (has_compiler and (Path(sysconfig.get_path("include")) / "Python.h").is_file()):
        pytest.skip("PyTorch's compiler needs a C compiler and Python's headers")
    model = HourglassSettings(stages=1, channels=16, stem="ports", depth=1)
    settings = {"learning_rate": 1e-4, "lr_schedule": "constant"}
    expected = take_steps(recipe, batch, device, 2, model, smooth=True, **settings)
    try:
        found = take_steps(recipe, batch, device, 2, model, smooth=True, compile=True, **settings)
    finally:
        torch._dynamo.reset()
    assert found.loss == pytest.approx(expected.loss, rel=1e-3)
    assert relative_difference(found.gradient, expected.gradient) < 1e-2
