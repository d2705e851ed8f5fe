"""The hourglass: parameter names and heatmaps against an independent forward pass of the ports'."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from fpd.pipeline.models.complexity import count
from fpd.pipeline.models.settings import HourglassSettings

Tensors = dict[str, Tensor]


# The ports' parameters, by hand from their description (bearpaw/pytorch-pose and
# ilovepose/fast-human-pose-estimation.pytorch, HourglassNet): num_feats = channels / 2, expansion
# 2, the stem starting from channels / 4 (64 in the ports, whose width is fixed).


def conv(name: str, channels_in: int, channels_out: int, side: int = 1) -> Iterator[tuple]:
    yield f"{name}.weight", (channels_out, channels_in, side, side)
    yield f"{name}.bias", (channels_out,)


def norm(name: str, channels: int) -> Iterator[tuple]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def bottleneck(name: str, channels_in: int, planes: int) -> Iterator[tuple]:
    yield from norm(f"{name}.bn1", channels_in)
    yield from conv(f"{name}.conv1", channels_in, planes)
    yield from norm(f"{name}.bn2", planes)
    yield from conv(f"{name}.conv2", planes, planes, 3)
    yield from norm(f"{name}.bn3", planes)
    yield from conv(f"{name}.conv3", planes, 2 * planes)
    if channels_in != 2 * planes:
        yield from conv(f"{name}.downsample.0", channels_in, 2 * planes)


def ports(
    stacks: int, feats: int, joints: int, blocks: int = 1, depth: int = 4
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the ports' state dict."""
    return dict(_ports(stacks, feats, joints, blocks, depth))


def _ports(stacks: int, feats: int, joints: int, blocks: int, depth: int) -> Iterator[tuple]:
    inplanes, ch = feats // 2, 2 * feats
    yield from conv("conv1", 3, inplanes, 7)
    yield from norm("bn1", inplanes)
    yield from bottleneck("layer1.0", inplanes, inplanes)  # 64 -> 128
    yield from bottleneck("layer2.0", 2 * inplanes, feats)  # 128 -> 256
    yield from bottleneck("layer3.0", ch, feats)  # 256 -> 256
    for s in range(stacks):
        for d in range(depth):
            for j in range(4 if d == 0 else 3):
                for b in range(blocks):
                    yield from bottleneck(f"hg.{s}.hg.{d}.{j}.{b}", ch, feats)
        for b in range(blocks):
            yield from bottleneck(f"res.{s}.{b}", ch, feats)
        yield from conv(f"fc.{s}.0", ch, ch)
        yield from norm(f"fc.{s}.1", ch)
        yield from conv(f"score.{s}", ch, joints)
        if s < stacks - 1:
            yield from conv(f"fc_.{s}", ch, ch)
            yield from conv(f"score_.{s}", joints, ch)


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Random weights with which every layer's output is about 1, float64."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(3)
            continue
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        if len(shape) == 4:
            values /= (shape[1] * shape[2] * shape[3]) ** 0.5
        elif name.endswith("running_var"):
            values = values.abs() + 0.5
        tensors[name] = values
    return tensors


class Reference:
    """The forward pass with plain functions, by the ports' parameter names."""

    def __init__(self, tensors: Tensors, stacks: int, blocks: int, depth: int) -> None:
        self.t, self.stacks, self.blocks, self.depth = tensors, stacks, blocks, depth

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = self.t[f"{name}.weight"]
        return functional.conv2d(
            x, weight, self.t[f"{name}.bias"], stride, padding=weight.shape[-1] // 2
        )

    def norm_relu(self, name: str, x: Tensor) -> Tensor:
        mean, var, scale, shift = (
            self.t[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp_min(0)

    def block(self, name: str, x: Tensor) -> Tensor:
        y = x
        for i in (1, 2, 3):
            y = self.conv(f"{name}.conv{i}", self.norm_relu(f"{name}.bn{i}", y))
        if f"{name}.downsample.0.weight" in self.t:
            x = self.conv(f"{name}.downsample.0", x)
        return x + y

    def blocks_of(self, name: str, x: Tensor) -> Tensor:
        for b in range(self.blocks):
            x = self.block(f"{name}.{b}", x)
        return x

    def hourglass(self, name: str, level: int, x: Tensor) -> Tensor:
        """Branch 0 is the skip, 1 the way down, 3 the bottom, 2 the way up."""
        low = self.blocks_of(f"{name}.{level}.1", halve(x))
        low = self.hourglass(name, level - 1, low) if level else self.blocks_of(f"{name}.0.3", low)
        low = self.blocks_of(f"{name}.{level}.2", low)
        up = low.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
        return self.blocks_of(f"{name}.{level}.0", x) + up

    def __call__(self, crop: Tensor) -> list[Tensor]:
        x = self.norm_relu("bn1", self.conv("conv1", crop, stride=2))
        x = halve(self.block("layer1.0", x))
        x = self.block("layer3.0", self.block("layer2.0", x))
        scores = []
        for s in range(self.stacks):
            y = self.blocks_of(f"res.{s}", self.hourglass(f"hg.{s}.hg", self.depth - 1, x))
            y = self.norm_relu(f"fc.{s}.1", self.conv(f"fc.{s}.0", y))
            scores.append(self.conv(f"score.{s}", y))
            if s < self.stacks - 1:
                x = x + self.conv(f"fc_.{s}", y) + self.conv(f"score_.{s}", scores[-1])
        return scores


def halve(x: Tensor) -> Tensor:
    """Maxima of 2 x 2 pixels."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height // 2, 2, width // 2, 2).amax((3, 5))


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def meta(settings: HourglassSettings, joints: int = 16) -> nn.Module:
    with torch.device("meta"):
        return settings.build(joints)


def test_the_number_of_parameters_is_that_of_the_ports() -> None:
    learned = ("weight", "bias")
    expected = sum(
        torch.Size(shape).numel()
        for name, shape in ports(2, 16, 5).items()
        if name.rpartition(".")[2] in learned
    )
    assert count(HourglassSettings(stages=2, channels=32, stem="ports"), 5, 64)[0] == expected


@pytest.mark.parametrize(
    ("stages", "channels", "joints", "blocks", "depth"),
    [(8, 256, 16, 1, 4), (2, 256, 16, 4, 4), (1, 8, 3, 1, 1)],
)
def test_parameter_names_and_shapes_are_the_ports(
    stages: int, channels: int, joints: int, blocks: int, depth: int
) -> None:
    settings = HourglassSettings(
        stages=stages, channels=channels, stem="ports", blocks=blocks, depth=depth
    )
    expected = ports(stages, channels // 2, joints, blocks, depth)
    assert shapes_of(meta(settings, joints)) == expected


@pytest.mark.parametrize(("stages", "channels", "blocks", "depth"), [(2, 32, 1, 4), (3, 16, 2, 2)])
def test_the_ports_weights_give_the_ports_heatmaps(
    stages: int, channels: int, blocks: int, depth: int
) -> None:
    tensors = random_tensors(ports(stages, channels // 2, 5, blocks, depth))
    settings = HourglassSettings(
        stages=stages, channels=channels, stem="ports", blocks=blocks, depth=depth
    )
    network = settings.build(5).double().eval()
    network.load_state_dict(tensors, strict=True)
    crop = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        outputs = network(crop)
    expected = Reference(tensors, stages, blocks, depth)(crop)
    assert len(outputs) == stages
    for ours, theirs in zip(outputs, expected, strict=True):
        assert theirs.std() > 0.1  # heatmaps of zero would agree with anything
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("stem", "crop_px", "depth"), [("newell", 64, 4), ("ports", 32, 2)])
def test_there_is_one_output_per_stage(stem: str, crop_px: int, depth: int) -> None:
    network = HourglassSettings(stages=3, channels=8, stem=stem, depth=depth).build(7)
    heatmaps = network(torch.rand(2, 3, crop_px, crop_px))
    assert [tuple(h.shape) for h in heatmaps] == [(2, 7, crop_px // 4, crop_px // 4)] * 3
    assert all(h.dtype == torch.float32 and h.requires_grad for h in heatmaps)


def test_every_parameter_has_a_gradient() -> None:
    network = HourglassSettings(stages=2, channels=8, depth=2).build(3)
    sum(h.square().sum() for h in network(torch.rand(2, 3, 32, 32))).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("channels", "widths"), [(256, (64, 128, 128, 256)), (128, (64, 128, 128, 128))]
)
def test_newells_stem_has_fixed_widths(channels: int, widths: tuple[int, ...]) -> None:
    shapes = shapes_of(meta(HourglassSettings(stages=1, channels=channels)))
    biases = [shapes["conv1.bias"]] + [shapes[f"layer{i}.0.conv3.bias"] for i in (1, 2, 3)]
    assert [width for (width,) in biases] == list(widths)
    assert ("layer3.0.downsample.0.weight" in shapes) == (channels != 128)
    assert "layer2.0.downsample.0.weight" not in shapes


@pytest.mark.parametrize("stem", ["newell", "ports"])
def test_initial_heatmaps_are_near_zero(stem: str) -> None:
    """Far below a target's peak of 1, but not zero, which would not learn."""
    torch.manual_seed(0)
    network = HourglassSettings(stages=2, channels=64, stem=stem).build(7)
    for heatmaps in network(torch.randn(4, 3, 64, 64)):
        assert 1e-4 < heatmaps.std() < 0.05
        assert heatmaps.abs().max() < 0.2


def test_the_seed_determines_the_weights() -> None:
    def build(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(
            HourglassSettings(stages=1, channels=8).build(3).parameters()
        )

    assert torch.equal(build(1), build(1))
    assert not torch.equal(build(1), build(2))


@pytest.mark.parametrize(
    ("depth", "crop_px", "stride_px", "message"),
    [
        (4, 96, 4, "crop_px a multiple of 64 .*depth 4, got 96"),
        (5, 192, 4, "crop_px a multiple of 128 .*depth 5, got 192"),
        (4, 64, 8, "geometry.stride_px = 4"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused(
    depth: int, crop_px: int, stride_px: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HourglassSettings(depth=depth).check_crop(crop_px, stride_px)


@pytest.mark.parametrize(("depth", "crop_px"), [(4, 64), (2, 16), (6, 256)])
def test_a_geometry_that_fits_is_accepted(depth: int, crop_px: int) -> None:
    settings = HourglassSettings(depth=depth, stages=1, channels=8)
    settings.check_crop(crop_px, 4)
    assert settings.build(2)(torch.rand(2, 3, crop_px, crop_px))[0].shape[-1] == crop_px // 4


def test_channels_that_do_not_split_are_refused() -> None:
    with pytest.raises(ValidationError, match="channels a multiple of 4, got 30"):
        HourglassSettings(channels=30)


def test_a_sigmoid_applies_to_the_outputs_only() -> None:
    """Later stages get the heatmaps before the sigmoid; initial outputs are 0.01."""
    torch.manual_seed(0)
    settings = {"stages": 2, "channels": 8, "stem": "ports"}
    linear = HourglassSettings(**settings).build(3).eval()
    network = HourglassSettings(**settings, output="sigmoid").build(3).eval()
    network.load_state_dict(linear.state_dict())
    crop = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        for heatmaps, raw in zip(network(crop), linear(crop), strict=True):
            torch.testing.assert_close(heatmaps, raw.sigmoid())
        fresh = HourglassSettings(**settings, output="sigmoid").build(3).eval()(crop)[-1]
    assert fresh.mean().item() == pytest.approx(0.01, rel=0.1)
