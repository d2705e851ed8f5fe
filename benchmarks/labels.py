"""Time and memory that label files of MPII's size take to read, and to hand to loader workers.

    python benchmarks/labels.py [--samples 25000] [--images FOLDER] [--json OUT]

Writes synthetic label files of each format to a temporary folder and reads each in a process of its
own, so that the peak memory is that of one reader. With --images, a folder of JPEGs, the check of a
data set before training is timed too, which opens every image: each sample gets a link to one of
these files.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from _common import CPU, format_number, make_parser, print_results, write_results
from numpy.typing import NDArray

from fpd.data.datasets import read_splits
from fpd.data.geometry import Geometry
from fpd.data.sections import Augmentation, Data
from fpd.data.validation import find_problems
from fpd.data.views import Views
from fpd.pipeline.runtime.loader import make_loader


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        reader, root = arguments.measure
        print(json.dumps(measure_reader(reader, Path(root))))
        return
    joints_NK2 = np.random.default_rng(0).uniform(1, 700, (arguments.samples, 16, 2)).round(3)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for reader, write in WRITERS.items():
            bytes_before = folder_bytes(root)
            write(root, joints_NK2)
            command = [sys.executable, __file__, "--measure", reader, folder]
            process = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            results[reader] = {
                "file, MB": (folder_bytes(root) - bytes_before) / 1e6,
                **json.loads(process.stdout),
            }
        print_results("reader", results)
        if arguments.images:
            results["check"] = check_images(root, arguments.images)
    write_results(arguments.json, "labels", results, samples=arguments.samples)


def measure_reader(reader: str, root: Path) -> dict[str, float]:
    """Read one format in this process, then start two loader workers with the samples."""
    data = data_settings(reader, root)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu_start = time.perf_counter(), time.process_time()
    samples = read_splits(data, ("train", "validation"))["train"]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before
    views = Views(samples, Geometry(), Augmentation(), 0)
    loader = make_loader(views, [[(0, 0)]], CPU, workers=2, prefetch=4)
    start = time.perf_counter()
    iterator = iter(loader)
    fork_seconds = time.perf_counter() - start
    del iterator
    return {
        "samples": len(samples),
        "read, s": seconds,
        "CPU, s": cpu_seconds,
        "peak, MB": peak_kib * 1024 / 1e6,
        "start workers, ms": 1e3 * fork_seconds,
        "pickled, MB": len(pickle.dumps(views)) / 1e6,
    }


def check_images(root: Path, images: Path) -> dict[str, float]:
    """Time the check of every label and image, twice: the second time from the page cache."""
    samples = read_splits(data_settings("mpii", root, validation=0), ("train",))["train"]
    files = sorted(path.resolve() for path in images.rglob("*.jpg"))
    if not files:
        raise SystemExit(f"expected JPEGs in {images}, found none: name another folder (--images)")
    folder = root / "mpii" / "images"
    folder.mkdir(exist_ok=True)
    for index in range(len(samples)):
        (folder / f"{index:09d}.jpg").symlink_to(files[index % len(files)])
    seconds = {}
    for run in ("first", "second"):
        start, cpu_start = time.perf_counter(), time.process_time()
        unusable = sum(problem.samples for problem in find_problems(samples))
        seconds[f"{run}, s"] = time.perf_counter() - start
        seconds[f"{run}, CPU s"] = time.process_time() - cpu_start
    print(
        f"check of {len(samples):,} samples and {len(files):,} different files: "
        + ", ".join(f"{name} {format_number(value)}" for name, value in seconds.items())
        + f"; {unusable:,} samples cannot be used"
    )
    return seconds


def data_settings(reader: str, root: Path, **changes: Any) -> Data:
    root = root / "folder" if reader == "folder" else root
    return Data.model_validate(
        {"reader": reader, "root": root, "folder": {"skeleton": "mpii"}, **changes}
    )


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_mpii(root: Path, joints_NK2: NDArray[np.float64]) -> None:
    annotations = [
        {
            "image": f"{n:09d}.jpg",
            "center": [300.0, 200.0],
            "scale": 2.5,
            "joints": xy.tolist(),
            "joints_vis": [1] * 16,
        }
        for n, xy in enumerate(joints_NK2)
    ]
    (root / "mpii" / "annot").mkdir(parents=True, exist_ok=True)
    (root / "mpii" / "annot" / "train.json").write_text(json.dumps(annotations))


def write_pytorch_pose(root: Path, joints_NK2: NDArray[np.float64]) -> None:
    annotations = [
        {
            "dataset": "MPI",
            "isValidation": float(n % 9 == 0),
            "img_paths": f"{n:09d}.jpg",
            "objpos": [300.0, 200.0],
            "scale_provided": 2.5,
            "joint_self": np.column_stack([xy, np.ones(16)]).tolist(),
            "joint_others": np.column_stack([xy, np.ones(16)]).tolist(),
        }
        for n, xy in enumerate(joints_NK2)
    ]
    (root / "mpii" / "mpii_annotations.json").write_text(json.dumps(annotations))


def matlab_struct(**fields: Any) -> NDArray[Any]:
    """A MATLAB structure, as scipy.io writes it."""
    struct = np.zeros((1, 1), dtype=[(name, "O") for name in fields])
    for name, value in fields.items():
        struct[0, 0][name] = value
    return struct


def write_mpii_official(root: Path, joints_NK2: NDArray[np.float64]) -> None:
    count = len(joints_NK2)
    annolist = np.zeros((1, count), dtype=[("image", "O"), ("annorect", "O"), ("frame_sec", "O")])
    point_fields = [(name, "O") for name in ("x", "y", "id", "is_visible")]
    for n, xy in enumerate(joints_NK2):
        points = np.zeros((1, 16), dtype=point_fields)
        for k in range(16):
            points[0, k] = (xy[k, 0], xy[k, 1], np.uint8(k), np.uint8(1))
        rect = matlab_struct(
            x1=10.0,
            y1=10.0,
            x2=40.0,
            y2=50.0,
            annopoints=matlab_struct(point=points),
            scale=2.5,
            objpos=matlab_struct(x=300.0, y=200.0),
        )
        annolist[0, n] = (matlab_struct(name=f"{n:09d}.jpg"), rect, np.zeros((0, 0)))
    release = matlab_struct(
        annolist=annolist, img_train=np.ones((1, count), np.uint8), version="12"
    )
    path = root / "mpii" / "mpii_human_pose_v1_u12_1.mat"
    scipy.io.savemat(path, {"RELEASE": release}, do_compression=True)


def write_coco(root: Path, joints_NK2: NDArray[np.float64]) -> None:
    annotations = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "iscrowd": 0,
            "area": 9000.0,
            "bbox": [100.0, 100.0, 150.0, 200.0],
            "keypoints": [*np.column_stack([xy, np.full(16, 2)]).ravel().tolist(), 0, 0, 0],
            # Outlines take most of the 238 MB of COCO's file.
            "segmentation": [xy.ravel().tolist() * 2],
        }
        for n, xy in enumerate(joints_NK2)
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n:09d}.jpg"} for n in range(len(joints_NK2))],
        "categories": [{"id": 1, "name": "person", "keypoints": [f"j{k}" for k in range(17)]}],
        "annotations": annotations,
    }
    folder = root / "coco" / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "person_keypoints_train2017.json").write_text(json.dumps(content))


def write_lsp(root: Path, joints_NK2: NDArray[np.float64]) -> None:
    (root / "lsp").mkdir(exist_ok=True)
    labels = np.ones((3, 14, len(joints_NK2)))
    labels[:2] = joints_NK2[:, :14].transpose(2, 1, 0)
    scipy.io.savemat(root / "lsp" / "joints.mat", {"joints": labels}, do_compression=True)


def write_folder(root: Path, joints_NK2: NDArray[np.float64]) -> None:
    lines = [f"{n:09d}.jpg,100,100,150,200" for n in range(len(joints_NK2))]
    (root / "folder").mkdir(exist_ok=True)
    (root / "folder" / "boxes.csv").write_text("\n".join(["image,x,y,w,h", *lines]))


WRITERS: dict[str, Callable[[Path, NDArray[np.float64]], None]] = {
    "mpii": write_mpii,
    "mpii-official": write_mpii_official,
    "pytorch-pose": write_pytorch_pose,
    "coco": write_coco,
    "lsp": write_lsp,
    "folder": write_folder,
}


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--samples", type=int, default=25_000, help="in each file")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs for the check")
    parser.add_argument("--measure", nargs=2, metavar=("FORMAT", "ROOT"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
