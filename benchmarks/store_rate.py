"""Bytes against error: codes for the heatmaps of a real teacher on its own training samples.

    python benchmarks/store_rate.py -w work/lsp [--model teacher] [--samples 96] [--json OUT]

Each heatmap is coded relative to its peak (to 0.1 where the peak is lower), negative values as 0;
one chunk per view, zstd with checksum at the store's level. Errors are in the same unit. The codes:

    float16             unchanged
    bits n              rounded uniformly to n bits
    bits n, cut c       the same, after setting values below c to 0
    sqrt bits n         the square root rounded to n bits (companding)
    DCT b, by ...       discrete cosine transform of blocks of b x b pixels; for each heatmap the
                        largest step that keeps its error below the given one; coefficients in order
                        of blocks or of frequencies
    max_error E         the store's own (`compress`)

`moved` is the displacement of the decoded joint in heatmap pixels, over heatmaps with a peak above
0.1. The time is that of decoding all views in one call on one core.
"""

from __future__ import annotations

import argparse
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import CPU, Results, make_parser, print_table, write_results
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
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

BATCH_SIZE = 32
VIEW = 7  # a view that default stores, with views 0 to 3, do not have
MAX_ERRORS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25)
LEVELS = (1, 3, 9, 12, 15, 19, 22)

Decode = Callable[[], Tensor]
Code = Callable[[Tensor], tuple[NDArray[Any], Decode]]
"""From heatmaps of peak 1, float32 (B, K, H, W), to the values to store, views first, and a
function that decodes them."""

FORMATS = {
    "bytes": ".0f",
    "x": ".1f",
    "max error": ".3f",
    "MSE": ".1e",
    "moved, mean": ".3f",
    "median": ".3f",
    "99 %": ".2f",
    "decode, ms": ".3f",
}


def main() -> None:
    torch.set_num_threads(1)
    arguments = parse_arguments()
    heatmaps = teacher_heatmaps(arguments.work, arguments.model, arguments.samples)
    peaks = heatmaps.amax((-1, -2))
    if not (peaks > FAINT_PEAK).any():
        raise SystemExit(
            f"{arguments.work}: expected a model with peaks above {FAINT_PEAK}, found none: train "
            "it longer, or name another one with --model"
        )
    unit = peaks[..., None, None].clamp_min(FAINT_PEAK)
    relative = heatmaps.clamp_min(0) / unit
    print(
        f"{len(heatmaps)} views of {tuple(heatmaps.shape[1:])}; raw float16 "
        f"{2 * relative[0].numel()} bytes"
    )
    print("peaks, deciles:", np.round(np.quantile(peaks, np.linspace(0, 1, 11)), 2).tolist())
    results = {name: measure(code, relative, unit) for name, code in make_codes(unit).items()}
    rows = [
        [name, *(format(row[column], spec) for column, spec in FORMATS.items())]
        for name, row in results.items()
    ]
    print_table(["code", *FORMATS], rows)
    print("zstd levels, max_error 0.1:")
    coefficients = compress(relative * unit, 0.1).coefficients.numpy()
    levels: Results = {str(level): measure_level(coefficients, level) for level in LEVELS}
    for level, row in levels.items():
        print(f"  level {level:>2}: {row['bytes']:6.0f} bytes, {row['ms']:6.2f} ms per view")
    shape = list(heatmaps.shape)
    write_results(arguments.json, "store_rate", {"codes": results, "levels": levels}, shape=shape)


def teacher_heatmaps(root: Path, model: str, count: int) -> Tensor:
    """float32 (samples, K, H, W), for samples spread evenly over the training set."""
    work = WorkDir(root)
    recipe = work.recipe(None, ())
    samples = load(recipe.data, "train")
    folder = work.teacher if model == "teacher" else work.student(model)
    predictor = make_predictor(load_model(folder, CPU).network, CPU, None)
    views = stored_views(recipe, samples)
    chosen = np.linspace(0, len(samples) - 1, count).astype(int)
    crops = torch.from_numpy(np.stack([views[int(i), VIEW]["crop"] for i in chosen]))
    with torch.inference_mode():
        return torch.cat([predictor(batch) for batch in crops.split(BATCH_SIZE)]).contiguous()


def make_codes(unit: Tensor) -> dict[str, Code]:
    codes: dict[str, Code] = {"float16": lambda m: (m.half().numpy(), m.half().float)}
    codes |= {f"bits {n}": uniform_bits(n, 0) for n in (8, 7, 6, 5, 4)}
    codes |= {f"bits 8, cut {cut}": uniform_bits(8, cut) for cut in (0.01, 0.03, 0.1)}
    codes |= {f"sqrt bits {n}": sqrt_bits(n) for n in (8, 7, 6, 5, 4)}
    for side in (4, 8, 16):
        for order in ("block", "frequency"):
            for max_error in (0.05, 0.1):
                codes[f"DCT {side}, by {order}, {max_error}"] = block_dct(side, order, max_error)
    return codes | {f"max_error {bound}": store_code(bound, unit) for bound in MAX_ERRORS}


def uniform_bits(bits: int, cut: float) -> Code:
    top = 2**bits - 1

    def code(heatmaps: Tensor) -> tuple[NDArray[Any], Decode]:
        values = (torch.where(heatmaps < cut, 0, heatmaps) * top).round().to(torch.uint8)
        return values.numpy(), lambda: values.float() / top

    return code


def sqrt_bits(bits: int) -> Code:
    top = 2**bits - 1

    def code(heatmaps: Tensor) -> tuple[NDArray[Any], Decode]:
        values = (heatmaps.sqrt() * top).round().to(torch.uint8)
        return values.numpy(), lambda: (values.float() / top).square()

    return code


def store_code(max_error: float, unit: Tensor) -> Code:
    """The store's own, which computes the unit itself."""

    def code(heatmaps: Tensor) -> tuple[NDArray[Any], Decode]:
        encoded = compress(heatmaps * unit, max_error)
        size_px = heatmaps.shape[-1]
        return (
            encoded.coefficients.numpy(),
            lambda: decompress(encoded.coefficients, encoded.steps, size_px) / unit,
        )

    return code


def block_dct(side: int, order: str, max_error: float) -> Code:
    """Shares no code with the store. Steps are powers of 2^(1/4) times `max_error`, 1/4 to 4."""
    basis = torch.from_numpy(dct(np.eye(side), norm="ortho", axis=0)).float()
    zigzag = sorted(range(side**2), key=lambda i: (sum(divmod(i, side)), i))

    def forward(heatmaps: Tensor) -> Tensor:
        blocks = heatmaps.unfold(2, side, side).unfold(3, side, side)
        return basis @ blocks @ basis.T

    def inverse(cosines: Tensor) -> Tensor:
        blocks = (basis.T @ cosines @ basis).clamp_min(0)
        size_px = blocks.shape[2] * side
        return blocks.transpose(3, 4).reshape(*blocks.shape[:2], size_px, size_px)

    def code(heatmaps: Tensor) -> tuple[NDArray[Any], Decode]:
        cosines = forward(heatmaps)
        steps_BK = torch.full(heatmaps.shape[:2], max_error / 4)
        for power in range(-7, 9):
            step = max_error * 2 ** (power / 4)
            error = (inverse((cosines / step).round() * step) - heatmaps).abs().amax((-1, -2))
            steps_BK = torch.where(error <= max_error, step, steps_BK)
        steps = steps_BK[:, :, None, None, None, None]
        values = (cosines / steps).round().clamp(-127, 127).to(torch.int8)
        by_block = values.flatten(4)[..., zigzag].numpy()
        ordered = by_block if order == "block" else np.moveaxis(by_block, -1, 1)
        return np.ascontiguousarray(ordered), lambda: inverse(values.float() * steps)

    return code


def measure(code: Code, heatmaps: Tensor, unit: Tensor) -> dict[str, float]:
    """One row of the table."""
    values, decode_values = code(heatmaps)
    seconds = timeit.timeit(decode_values, number=1)
    decoded = decode_values()
    error = (decoded - heatmaps).abs()
    moved_BK = (decode(decoded)[0] - decode(heatmaps)[0]).norm(dim=-1)
    moved = moved_BK[(heatmaps * unit).amax((-1, -2)) > FAINT_PEAK]
    size = mean_bytes(values, ZSTD_LEVEL)
    return {
        "bytes": size,
        "x": 2 * heatmaps[0].numel() / size,
        "max error": float(error.max()),
        "MSE": float(error.square().mean()),
        "moved, mean": float(moved.mean()),
        "median": float(moved.median()),
        "99 %": float(moved.quantile(0.99)),
        "decode, ms": 1e3 * seconds / len(heatmaps),
    }


def measure_level(values: NDArray[Any], level: int) -> dict[str, float]:
    """Bytes and milliseconds per view at one level of zstd."""
    start = time.perf_counter()
    size = mean_bytes(values, level)
    return {"bytes": size, "ms": 1e3 * (time.perf_counter() - start) / len(values)}


def mean_bytes(values: NDArray[Any], level: int) -> float:
    """Mean size of a view, compressed with zstd."""
    codec = Zstd(level=level, checksum=True)
    return float(np.mean([len(codec.encode(np.ascontiguousarray(view))) for view in values]))


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("-w", "--work", type=Path, required=True, help="has the trained model")
    parser.add_argument("--model", default="teacher", help="teacher, or a student's name")
    parser.add_argument("--samples", type=int, default=96, help="number of samples")
    return parser.parse_args()


if __name__ == "__main__":
    main()
