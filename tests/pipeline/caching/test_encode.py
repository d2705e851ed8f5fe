"""Encoded batches: stored values, their measured errors, and canaries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from fpd.data.heatmap_codec import decode, encode
from fpd.pipeline.caching.encode import (
    EncodedBatch,
    encode_batches,
    encoding_error,
    make_shard,
    summarize_errors,
    take_canaries,
)
from fpd.pipeline.store import compress, decompress
from fpd.pipeline.store.canaries import canary_rows

MAX_ERROR = 0.1


def batch_of(views: int) -> dict[str, torch.Tensor]:
    crops = torch.arange(views, dtype=torch.uint8)[:, None, None, None].expand(views, 16, 16, 3)
    return {"crop": crops.contiguous(), "parameters": torch.rand(views, 7, dtype=torch.float64)}


def test_the_error_is_that_of_the_stored_maps() -> None:
    heatmaps = encode(torch.tensor([[[4.3, 7.8], [11.1, 2.6]]]), 16, 1.5)[0]
    heatmaps[0, 1] *= 1e-3  # too faint to measure a displacement
    compressed = compress(heatmaps, MAX_ERROR)
    stored = decompress(compressed.coefficients, compressed.steps, 16)
    errors_BK3 = encoding_error(heatmaps, compressed)
    peak = float(compressed.peaks[0, 0])
    difference = (stored[0, 0] - heatmaps[0, 0]).abs() / peak
    assert errors_BK3[0, 0, 0] == pytest.approx(float(difference.max()), abs=1e-5)
    assert errors_BK3[0, 0, 1] == pytest.approx(float(difference.square().mean()), abs=1e-6)
    assert errors_BK3[..., 0].max() <= MAX_ERROR
    moved = (decode(stored)[0] - decode(heatmaps)[0])[0, 0].norm()
    assert errors_BK3[0, 0, 2] == pytest.approx(float(moved), abs=1e-4)
    assert errors_BK3[0, 1, 2].isnan()
    summary = summarize_errors(errors_BK3.double().numpy(), compressed.peaks.numpy())
    assert summary["max_displacement_px"] == pytest.approx(float(errors_BK3[0, 0, 2]))


def test_a_shard_is_the_same_however_its_views_are_batched() -> None:
    def predictor(crop_BSS3: torch.Tensor) -> torch.Tensor:
        joints_BK2 = crop_BSS3[:, :1, 0, :2].float() + torch.tensor([3.2, 4.7])
        return encode(joints_BK2, 16, 1.5)[0]

    whole = batch_of(6)
    halves = [{key: value[rows] for key, value in whole.items()} for rows in ([0, 1, 2], [3, 4, 5])]
    shards = []
    for batches in ([whole], halves):
        parts, canaries, row = list(encode_batches(predictor, batches, MAX_ERROR)), [], 0
        for part in parts:
            canaries += take_canaries(part, row, 6)
            row += len(part["peaks"])
        shards.append(make_shard(0, 0, parts, canaries))
    one, two = shards
    assert len(one.canaries) == len(canary_rows(6))
    assert one.canaries == two.canaries
    for name, values in one.columns().items():
        assert np.array_equal(values, two.columns()[name]), name


def test_a_batch_that_does_not_fit_into_memory_names_a_smaller_one() -> None:
    def predictor(crop_BSS3: torch.Tensor) -> torch.Tensor:
        return torch.empty(1 << 48)

    with pytest.raises(ValueError, match=r"6 views did not fit .* --set store\.batch_size=3 "):
        next(encode_batches(predictor, [batch_of(6)], MAX_ERROR))
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("fails", [False, True])
def test_batches_fetched_behind_the_next_launch_keep_their_order(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """As on a GPU; a batch that was launched before another one failed is not lost."""
    monkeypatch.setattr(EncodedBatch, "is_on_cpu", property(lambda _: False))
    launched = []

    def predictor(crop_BSS3: torch.Tensor) -> torch.Tensor:
        launched.append(len(crop_BSS3))
        return encode(torch.full((len(crop_BSS3), 1, 2), 8.0), 16, 1.5)[0]

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        yield from (batch_of(1), batch_of(2), batch_of(3))
        if fails:
            raise ValueError("the fourth batch cannot be read")

    found = []
    with pytest.raises(ValueError, match="fourth") if fails else nullcontext():
        for columns in encode_batches(predictor, batches(), MAX_ERROR):
            found.append((len(columns["peaks"]), len(launched)))
    assert [views for views, _ in found] == [1, 2, 3]
    assert [launches for _, launches in found] == [2, 3, 3]
