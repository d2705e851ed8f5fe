"""Bytes against error: ways to store a real teacher's heatmaps, on its own training people.

    python benchmarks/store_rate.py -w work/lsp [--model teacher] [--people 96] [--json OUT]

Every map is stored relative to its peak (to 0.1 where the peak is lower), negatives as 0, one chunk
a view, zstd with checksum at the store's level; errors are shares of the same unit. The rows:

    float16             as it is
    bits n              rounded to n bits, evenly
    bits n, cut c       the same, values under c left out first
    sqrt bits n         the square root rounded to n bits (companding)
    cosine b, by ...    b x b block cosine transform, the step chosen map by map for `max_error`,
                        coefficients stored block by block or frequency by frequency
    store max_error     what `compress` makes of it (cosine 8, block by block, or pixels)

Displacement is that of the decoded joint, heatmap pixels, over maps with a peak above 0.1. The time
is that of decoding on one core, in batches of 32.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs.zstd import Zstd
from scipy.fft import dct
from torch import Tensor

from fpd.data.datasets import load
from fpd.data.heatmap_codec import decode
from fpd.pipeline.config.recipe import stored_views
from fpd.pipeline.models.checkpoint import load_model
from fpd.pipeline.models.predictor import make_predictor
from fpd.pipeline.store import compress, decompress
from fpd.pipeline.store.compression import FAINT_PEAK
from fpd.pipeline.store.schema import ZSTD_LEVEL
from fpd.pipeline.workdir import WorkDir

BATCH = 32
VIEW = 7  # any; the default store has views 0 to 3
BOUNDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25)


def main() -> None:
    torch.set_num_threads(1)
    arguments = _arguments()
    maps = teacher_maps(arguments.work, arguments.model, arguments.people)
    unit = maps.amax((-1, -2), keepdim=True).clamp_min(FAINT_PEAK)
    wanted = maps.clamp_min(0) / unit
    raw = 2 * wanted[0].numel()
    print(f"{len(maps)} views of {tuple(maps.shape[1:])}; raw float16 {raw} bytes")
    peaks = maps.amax((-1, -2))
    print("peaks, deciles:", np.round(np.quantile(peaks, np.linspace(0, 1, 11)), 2).tolist())
    table = codes() | {f"store {bound}": stored(bound, unit) for bound in BOUNDS}
    rows = [measure(name, *code(wanted), wanted, unit, raw) for name, code in table.items()]
    print(
        f"{'code':28}{'bytes':>8}{'x':>7}{'max':>8}{'MSE':>10}"
        f"{'moved: mean':>13}{'median':>9}{'99 %':>8}{'decompress ms':>11}"
    )
    for row in rows:
        print(
            f"{row['code']:28}{row['bytes']:8.0f}{row['ratio']:7.1f}{row['max']:8.3f}"
            f"{row['mse']:10.1e}{row['moved_mean']:13.3f}{row['moved_median']:9.3f}"
            f"{row['moved_p99']:8.2f}{row['decode_ms']:11.3f}"
        )
    print("zstd levels, store max_error 0.1:")
    coefficients = compress(wanted * unit, 0.1).coefficients.numpy()
    levels = [level_row(coefficients, level) for level in (1, 3, 9, 12, 15, 19, 22)]
    for level in levels:
        print("  level {level:2}: {bytes:6.0f} bytes, {ms:6.2f} ms a view".format(**level))
    if arguments.json:
        content = {"shape": list(maps.shape), "rows": rows, "levels": levels}
        arguments.json.write_text(json.dumps(content, indent=1))


def teacher_maps(root: Path, model: str, people: int) -> Tensor:
    """float32 (people, K, H, W) of people spread over the training set."""
    work = WorkDir(root)
    recipe = work.recipe(None, ())
    samples = load(recipe.data, "train")
    folder = work.teacher if model == "teacher" else work.student(model)
    network = load_model(folder, torch.device("cpu")).network
    predictor = make_predictor(network, torch.device("cpu"), None)
    views = stored_views(recipe, samples)
    chosen = np.linspace(0, len(samples) - 1, people).astype(int)
    crops = torch.from_numpy(np.stack([views[int(i), VIEW]["crop"] for i in chosen]))
    with torch.inference_mode():
        return torch.cat([predictor(part) for part in crops.split(BATCH)]).contiguous()


Decode = Callable[[], Tensor]
Code = Callable[[Tensor], tuple[np.ndarray, Decode]]


def codes() -> dict[str, Code]:
    """By name: from maps of peak 1 to (what is stored, views first; a function that decodes it)."""
    table: dict[str, Code] = {"float16": lambda m: (m.half().numpy(), m.half().float)}
    table |= {f"bits {n}": even_bits(n, 0) for n in (8, 7, 6, 5, 4)}
    table |= {f"bits 8, cut {cut}": even_bits(8, cut) for cut in (0.01, 0.03, 0.1)}
    table |= {f"sqrt bits {n}": sqrt_bits(n) for n in (8, 7, 6, 5, 4)}
    for side in (4, 8, 16):
        for order in ("block", "frequency"):
            for bound in (0.05, 0.1):
                table[f"cosine {side}, by {order}, {bound}"] = cosine(side, order, bound)
    return table


def even_bits(bits: int, cut: float) -> Code:
    top = 2**bits - 1

    def code(maps: Tensor) -> tuple[np.ndarray, Decode]:
        kept = (torch.where(maps < cut, 0, maps) * top).round().to(torch.uint8)
        return kept.numpy(), lambda: kept.float() / top

    return code


def sqrt_bits(bits: int) -> Code:
    top = 2**bits - 1

    def code(maps: Tensor) -> tuple[np.ndarray, Decode]:
        kept = (maps.sqrt() * top).round().to(torch.uint8)
        return kept.numpy(), lambda: (kept.float() / top).square()

    return code


def stored(bound: float, unit: Tensor) -> Code:
    def code(maps: Tensor) -> tuple[np.ndarray, Decode]:
        coded = compress(maps * unit, bound)  # which finds the unit itself
        size_px = maps.shape[-1]
        return (
            coded.coefficients.numpy(),
            lambda: decompress(coded.coefficients, coded.steps, size_px) / unit,
        )

    return code


def cosine(side: int, order: str, bound: float) -> Code:
    """Independent of the store's own code; steps are powers of 2^(1/4) from bound/4 to 4 bound."""
    basis = torch.from_numpy(dct(np.eye(side), norm="ortho", axis=0)).float()
    zigzag = sorted(range(side**2), key=lambda i: (sum(divmod(i, side)), i))

    def forward(maps: Tensor) -> Tensor:
        blocks = maps.unfold(2, side, side).unfold(3, side, side)
        return basis @ blocks @ basis.T

    def inverse(cosines: Tensor) -> Tensor:
        blocks = (basis.T @ cosines @ basis).clamp_min(0)
        count = blocks.shape[2] * side
        return blocks.transpose(3, 4).reshape(*blocks.shape[:2], count, count)

    def code(maps: Tensor) -> tuple[np.ndarray, Decode]:
        cosines = forward(maps)
        steps = torch.full(maps.shape[:2], bound / 4)
        for power in range(-7, 9):
            step = bound * 2 ** (power / 4)
            error = (inverse((cosines / step).round() * step) - maps).abs().amax((-1, -2))
            steps = torch.where(error <= bound, step, steps)
        wide = steps[:, :, None, None, None, None]
        kept = (cosines / wide).round().clamp(-127, 127).to(torch.int8)
        by_block = kept.flatten(4)[..., zigzag].numpy()
        content = by_block if order == "block" else np.moveaxis(by_block, -1, 1)
        return np.ascontiguousarray(content), lambda: inverse(kept.float() * wide)

    return code


def measure(
    name: str, content: np.ndarray, decoder: Decode, wanted: Tensor, unit: Tensor, raw: int
) -> dict[str, Any]:
    start = time.perf_counter()
    found = decoder()
    seconds = time.perf_counter() - start
    error = (found - wanted).abs()
    moved = (decode(found)[0] - decode(wanted)[0]).norm(dim=-1)
    moved = moved[(wanted * unit).amax((-1, -2)) > FAINT_PEAK]
    size = float(np.mean([level_bytes(view, ZSTD_LEVEL) for view in content]))
    return {
        "code": name,
        "bytes": size,
        "ratio": raw / size,
        "max": float(error.max()),
        "mse": float(error.square().mean()),
        "moved_mean": float(moved.mean()),
        "moved_median": float(moved.median()),
        "moved_p99": float(moved.quantile(0.99)),
        "decode_ms": 1e3 * seconds / len(wanted),
    }


def level_row(content: np.ndarray, level: int) -> dict[str, float]:
    start = time.perf_counter()
    size = float(np.mean([level_bytes(view, level) for view in content]))
    return {"level": level, "bytes": size, "ms": 1e3 * (time.perf_counter() - start) / len(content)}


def level_bytes(view: np.ndarray, level: int) -> int:
    return len(Zstd(level=level, checksum=True).encode(np.ascontiguousarray(view)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-w", "--work", type=Path, required=True)
    parser.add_argument("--model", default="teacher", help="a trained model's folder")
    parser.add_argument("--people", type=int, default=96)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
