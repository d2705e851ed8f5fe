"""The same crops and heatmaps in other libraries' formats, and their loaders.

WebDataset (tar files), MosaicML Streaming (MDS) and FFCV hold the JPEGs and the compressed heatmaps
that a portable store of ours holds, and return the same batches, in random order, half of the views
flipped. Each is used as its documentation recommends:

* WebDataset: `ShardWriter`; shards shuffled, a buffer of 1,000 samples, `decode("rgb8")`, which is
  Pillow, batches made in the pipeline.
* MosaicML Streaming: `MDSWriter` with a column of kind "jpeg", which is Pillow, and
  `StreamingDataset(shuffle=True)`.
* FFCV: an `RGBImageField` of JPEGs and `NDArrayField`s; its fields cannot be compressed, so the
  heatmaps take 57 kB a view instead of 2. Decoded by libjpeg-turbo with its fast transform, whose
  pixels differ by up to 8 of 255. Always read by a thread of the training process.

The rows with "our decoder" differ in the decoder alone: what is left is the format. A library that
is not installed is skipped. None of them checks what it reads; our reader checks everything.

Shape letters: K joints, S crop side, Y and X blocks down and across, C coefficients of a block.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import default_collate
from zstandard import ZstdCompressor, ZstdDecompressor

from fpd.data.io.jpeg import decode_jpeg

ZSTD_LEVEL = 15  # of our store's heatmaps
SHARD_VIEWS = 512  # as in our store
SHUFFLE_BUFFER = 1000  # views; in WebDataset's README
PREFETCH_BATCHES = 4

Batch = dict[str, Any]

_kept_alive: list[Any] = []
"""Loaders of FFCV: numba reports errors when it collects their compiled functions."""


class StoredView(NamedTuple):
    """One view as all formats hold it."""

    crop: NDArray[np.uint8]  # (S, S, 3) RGB, before it is encoded
    jpeg: bytes
    coefficients: NDArray[np.int8]  # (K, Y, X, C)
    steps: NDArray[np.float16]  # (K,)
    peaks: NDArray[np.float16]  # (K,)
    joints: NDArray[np.float32]  # (K, 2)


@dataclass(frozen=True)
class Shape:
    """What a reader must know of the views that it reads."""

    crop_px: int
    heatmap_px: int
    coefficients: tuple[int, ...]
    flip_indices: tuple[int, ...]

    @property
    def joints(self) -> int:
        return self.coefficients[0]

    @property
    def labels(self) -> np.dtype[Any]:
        """Everything but crop and coefficients, as one record."""
        joints = self.joints
        return np.dtype(
            [("joints", "f4", (joints, 2)), ("steps", "f2", (joints,)), ("peaks", "f2", (joints,))]
        )


@dataclass(frozen=True)
class Format:
    """A library's format: how it is written, and how its documentation has it read.

    Attributes:
        module: the library, which must be installed.
        write: writes views into an empty folder.
        read: takes the folder, the batch size and the number of worker processes (0 or 1), and
            returns something whose every iteration is an epoch of batches.
    """

    module: str
    write: Callable[[Path, Sequence[StoredView], Shape], None]
    read: Callable[[Path, Shape, int, int], Iterable[Batch]]

    @property
    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None


def make_item(index: int, crop: Any, maps: bytes, labels: bytes, shape: Shape) -> Batch:
    """A view as `DistillationViews` returns it; every second one flipped."""
    record = np.frombuffer(labels, shape.labels)[0]
    coefficients = bytearray(ZstdDecompressor().decompress(maps))
    joints, flipped = record["joints"].copy(), bool(index % 2)
    if flipped:
        crop = cv2.flip(crop, 1)
        joints = joints[list(shape.flip_indices)]
        joints[:, 0] = (shape.heatmap_px - 1) - joints[:, 0]
    return {
        "index": index,
        "crop": crop,
        "joints": joints,
        "coefficients": np.frombuffer(coefficients, np.int8).reshape(shape.coefficients),
        "steps": record["steps"].copy(),
        "peaks": record["peaks"].copy(),
        "flipped": flipped,
    }


def pack_labels(view: StoredView, shape: Shape) -> bytes:
    record = np.zeros(1, shape.labels)
    for name in shape.labels.names or ():
        record[name] = getattr(view, name)
    return record.tobytes()


def compress_maps(view: StoredView) -> bytes:
    return ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(
        view.coefficients.tobytes()
    )


def write_webdataset(folder: Path, views: Sequence[StoredView], shape: Shape) -> None:
    library: Any = importlib.import_module("webdataset")
    pattern = str(folder / "%06d.tar")
    with library.ShardWriter(pattern, maxcount=SHARD_VIEWS, verbose=0) as sink:
        for index, view in enumerate(views):
            sink.write(
                {
                    "__key__": f"{index:08d}",
                    "jpg": view.jpeg,
                    "maps": compress_maps(view),
                    "labels": pack_labels(view, shape),
                }
            )


def read_webdataset(
    folder: Path, shape: Shape, batch_size: int, workers: int, *, own_decoder: bool = True
) -> Iterable[Batch]:
    library: Any = importlib.import_module("webdataset")

    def decode(sample: dict[str, Any]) -> Batch:
        jpeg = sample["jpg"]
        crop = jpeg if own_decoder else decode_jpeg(jpeg, shape.crop_px)
        return make_item(int(sample["__key__"]), crop, sample["maps"], sample["labels"], shape)

    # Pillow's pixels, which nobody writes to.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    pipeline = library.WebDataset(shards, shardshuffle=len(shards)).shuffle(SHUFFLE_BUFFER)
    if own_decoder:
        pipeline = pipeline.decode("rgb8")
    batches = pipeline.map(decode).batched(batch_size, collation_fn=default_collate)
    loader: Iterable[Batch] = library.WebLoader(
        batches, batch_size=None, num_workers=workers, **_worker_options(workers)
    )
    return loader


def write_mds(
    folder: Path, views: Sequence[StoredView], shape: Shape, *, kind: str = "jpeg"
) -> None:
    library: Any = importlib.import_module("streaming")
    columns = {"index": "int", "crop": kind, "maps": "bytes", "labels": "bytes"}
    with library.MDSWriter(out=str(folder), columns=columns) as sink:
        for index, view in enumerate(views):
            sink.write(
                {
                    "index": index,
                    "crop": view.jpeg if kind == "bytes" else _jpeg_file(folder, view.jpeg),
                    "maps": compress_maps(view),
                    "labels": pack_labels(view, shape),
                }
            )


def _jpeg_file(folder: Path, jpeg: bytes) -> Any:
    """A picture that MosaicML Streaming stores as it is: it encodes others again."""
    path = folder.with_name("crop.jpg")
    path.write_bytes(jpeg)
    return Image.open(path)


def read_mds(folder: Path, shape: Shape, batch_size: int, workers: int) -> Iterable[Batch]:
    library: Any = importlib.import_module("streaming")

    class StreamedViews(library.StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Batch:
            sample = super().__getitem__(at)
            crop = sample["crop"]
            pixels = decode_jpeg(crop, shape.crop_px) if isinstance(crop, bytes) else _pixels(crop)
            return make_item(sample["index"], pixels, sample["maps"], sample["labels"], shape)

    # A folder may be read by one data set at a time.
    copy = folder.with_name(f"{folder.name} {workers}")
    shutil.copytree(folder, copy)
    dataset = StreamedViews(local=str(copy), shuffle=True, batch_size=batch_size)
    loader: Iterable[Batch] = library.StreamingDataLoader(
        dataset, batch_size=batch_size, num_workers=workers, **_worker_options(workers)
    )
    return loader


def _pixels(image: Any) -> NDArray[np.uint8]:
    return np.array(image)


def _worker_options(workers: int) -> dict[str, Any]:
    if not workers:
        return {}
    return {
        "persistent_workers": True,
        "prefetch_factor": PREFETCH_BATCHES,
        "worker_init_fn": _init_worker,
    }


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)


def write_ffcv(folder: Path, views: Sequence[StoredView], shape: Shape) -> None:
    fields: Any = importlib.import_module("ffcv.fields")
    writer: Any = importlib.import_module("ffcv.writer")
    bits = np.dtype("int16")  # of float16, which numba does not know
    columns = {
        "crop": fields.RGBImageField(write_mode="jpg", jpeg_quality=90),
        "coefficients": fields.NDArrayField(np.dtype("int8"), shape.coefficients),
        "steps": fields.NDArrayField(bits, (shape.joints,)),
        "peaks": fields.NDArrayField(bits, (shape.joints,)),
        "joints": fields.NDArrayField(np.dtype("float32"), (shape.joints, 2)),
        "index": fields.IntField(),
    }
    rows = [
        (
            view.crop,
            view.coefficients,
            view.steps.view(bits),
            view.peaks.view(bits),
            view.joints,
            index,
        )
        for index, view in enumerate(views)
    ]
    sink = writer.DatasetWriter(str(folder / "views.beton"), columns, num_workers=1)
    with redirect_stderr(StringIO()):  # a progress bar
        sink.from_indexed_dataset(rows)


def read_ffcv(folder: Path, shape: Shape, batch_size: int, workers: int) -> Iterable[Batch]:
    loading: Any = importlib.import_module("ffcv.loader")
    transforms: Any = importlib.import_module("ffcv.transforms")
    decoders: Any = importlib.import_module("ffcv.fields.decoders")
    array = [decoders.NDArrayDecoder(), transforms.ToTensor()]
    loader = loading.Loader(
        str(folder / "views.beton"),
        batch_size=batch_size,
        num_workers=1,
        os_cache=True,
        order=loading.OrderOption.RANDOM,
        drop_last=False,
        batches_ahead=PREFETCH_BATCHES,
        pipelines={
            "crop": [
                decoders.SimpleRGBImageDecoder(),
                _flip_crops(),
                transforms.ToTensor(),
            ],
            "coefficients": array,
            "steps": array,
            "peaks": array,
            "joints": [decoders.NDArrayDecoder(), _flip_joints(shape), transforms.ToTensor()],
            "index": [decoders.IntDecoder(), transforms.ToTensor()],
        },
    )
    _kept_alive.append(loader)
    return FFCVBatches(loader)


@dataclass(frozen=True)
class FFCVBatches:
    """FFCV's batches under the names of ours."""

    loader: Any

    def __iter__(self) -> Any:
        for crop, coefficients, steps, peaks, joints, index in self.loader:
            index = index[:, 0]
            yield {
                "index": index,
                "crop": crop,
                "joints": joints,
                "coefficients": coefficients,
                "steps": steps.view(torch.float16),
                "peaks": peaks.view(torch.float16),
                "flipped": index % 2 == 1,
            }


def _flip_crops() -> Any:
    """FFCV's `RandomHorizontalFlip`, for every second view."""
    flip_module: Any = importlib.import_module("ffcv.transforms.flip")
    compiler: Any = importlib.import_module("ffcv.pipeline.compiler").Compiler

    class FlipCrops(flip_module.RandomHorizontalFlip):  # type: ignore[misc]
        def generate_code(self) -> Callable[..., Any]:
            my_range = compiler.get_iterator()

            def flip(images: Any, destination: Any, indices: Any) -> Any:
                for i in my_range(images.shape[0]):
                    if indices[i] % 2:
                        destination[i] = images[i, :, ::-1]
                    else:
                        destination[i] = images[i]
                return destination

            flip.is_parallel = True  # type: ignore[attr-defined]
            flip.with_indices = True  # type: ignore[attr-defined]
            return flip

    return FlipCrops()


def _flip_joints(shape: Shape) -> Any:
    flip_module: Any = importlib.import_module("ffcv.transforms.flip")
    compiler: Any = importlib.import_module("ffcv.pipeline.compiler").Compiler
    order, last = np.array(shape.flip_indices), np.float32(shape.heatmap_px - 1)

    class FlipJoints(flip_module.RandomHorizontalFlip):  # type: ignore[misc]
        def generate_code(self) -> Callable[..., Any]:
            my_range = compiler.get_iterator()

            def flip(joints: Any, destination: Any, indices: Any) -> Any:
                for i in my_range(joints.shape[0]):
                    if indices[i] % 2:
                        for k in range(len(order)):
                            destination[i, k, 0] = last - joints[i, order[k], 0]
                            destination[i, k, 1] = joints[i, order[k], 1]
                    else:
                        destination[i] = joints[i]
                return destination

            flip.is_parallel = True  # type: ignore[attr-defined]
            flip.with_indices = True  # type: ignore[attr-defined]
            return flip

    return FlipJoints()


FORMATS: dict[str, Format] = {
    "WebDataset": Format("webdataset", write_webdataset, read_webdataset),
    "WebDataset, our decoder": Format(
        "webdataset", write_webdataset, partial(read_webdataset, own_decoder=False)
    ),
    "MosaicML Streaming": Format("streaming", write_mds, read_mds),
    "MosaicML Streaming, our decoder": Format(
        "streaming", partial(write_mds, kind="bytes"), read_mds
    ),
    "FFCV": Format("ffcv", write_ffcv, read_ffcv),
}
