"""How long label files of MPII's size take: to read, to look at, and to start loading from.

    python benchmarks/labels.py [--people 25000] [--images FOLDER]

Writes synthetic files of each format to a temporary folder, and reads them in processes of their
own, so that each peak of memory is one reader's. With --images (a folder of some MB for one image
each person), the quick look is measured, too: what it costs to open every image.
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
from pathlib import Path

import numpy as np
import scipy.io

FORMATS = ("mpii", "mpii-official", "pytorch-pose", "coco", "lsp", "folder")


def people(count: int):
    rng = np.random.default_rng(0)
    return rng.uniform(1, 700, (count, 16, 2)).round(3)


def write_mpii(root: Path, joints) -> None:
    rows = [
        {
            "image": f"{n:09d}.jpg",
            "center": [300.0, 200.0],
            "scale": 2.5,
            "joints": xy.tolist(),
            "joints_vis": [1] * 16,
        }
        for n, xy in enumerate(joints)
    ]
    (root / "mpii" / "annot").mkdir(parents=True, exist_ok=True)
    (root / "mpii" / "annot" / "train.json").write_text(json.dumps(rows))


def write_pytorch_pose(root: Path, joints) -> None:
    rows = [
        {
            "dataset": "MPI",
            "isValidation": float(n % 9 == 0),
            "img_paths": f"{n:09d}.jpg",
            "objpos": [300.0, 200.0],
            "scale_provided": 2.5,
            "joint_self": np.column_stack([xy, np.ones(16)]).tolist(),
            "joint_others": np.column_stack([xy, np.ones(16)]).tolist(),
        }
        for n, xy in enumerate(joints)
    ]
    (root / "mpii" / "mpii_annotations.json").write_text(json.dumps(rows))


def struct(**fields):
    made = np.zeros((1, 1), dtype=[(name, "O") for name in fields])
    for name, value in fields.items():
        made[0, 0][name] = value
    return made


def write_official(root: Path, joints) -> None:
    count = len(joints)
    annolist = np.zeros((1, count), dtype=[("image", "O"), ("annorect", "O"), ("frame_sec", "O")])
    point = [(name, "O") for name in ("x", "y", "id", "is_visible")]
    for n, xy in enumerate(joints):
        points = np.zeros((1, 16), dtype=point)
        for k in range(16):
            points[0, k] = (xy[k, 0], xy[k, 1], np.uint8(k), np.uint8(1))
        rect = struct(
            x1=10.0,
            y1=10.0,
            x2=40.0,
            y2=50.0,
            annopoints=struct(point=points),
            scale=2.5,
            objpos=struct(x=300.0, y=200.0),
        )
        annolist[0, n] = (struct(name=f"{n:09d}.jpg"), rect, np.zeros((0, 0)))
    release = struct(annolist=annolist, img_train=np.ones((1, count), np.uint8), version="12")
    path = root / "mpii" / "mpii_human_pose_v1_u12_1.mat"
    scipy.io.savemat(path, {"RELEASE": release}, do_compression=True)


def write_coco(root: Path, joints) -> None:
    annotations = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "iscrowd": 0,
            "area": 9000.0,
            "bbox": [100.0, 100.0, 150.0, 200.0],
            "keypoints": [*np.column_stack([xy, np.full(16, 2)]).ravel().tolist(), 0, 0, 0],
            # Outlines are most of COCO's 238 MB.
            "segmentation": [xy.ravel().tolist() * 2],
        }
        for n, xy in enumerate(joints)
    ]
    content = {
        "images": [{"id": n, "file_name": f"{n:09d}.jpg"} for n in range(len(joints))],
        "categories": [{"id": 1, "name": "person", "keypoints": [f"j{k}" for k in range(17)]}],
        "annotations": annotations,
    }
    folder = root / "coco" / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "person_keypoints_train2017.json").write_text(json.dumps(content))


def write_lsp(root: Path, joints) -> None:
    (root / "lsp").mkdir(exist_ok=True)
    content = np.ones((3, 14, len(joints)))
    content[:2] = joints[:, :14].transpose(2, 1, 0)
    scipy.io.savemat(root / "lsp" / "joints.mat", {"joints": content}, do_compression=True)


def write_folder(root: Path, joints) -> None:
    rows = [f"{n:09d}.jpg,100,100,150,200" for n in range(len(joints))]
    (root / "folder").mkdir(exist_ok=True)
    (root / "folder" / "boxes.csv").write_text("\n".join(["image,x,y,w,h", *rows]))


WRITERS = {
    "mpii": write_mpii,
    "mpii-official": write_official,
    "pytorch-pose": write_pytorch_pose,
    "coco": write_coco,
    "lsp": write_lsp,
    "folder": write_folder,
}


def settings(name: str, root: Path) -> dict:
    at = root / "folder" if name == "folder" else root
    return {"reader": name, "root": at, "folder": {"skeleton": "mpii"}}


def measure(name: str, root: Path) -> None:
    """One format, in this process: prints a JSON line."""
    import torch  # before the clock starts

    from fpd.data.augmentation import Augmentation
    from fpd.data.datasets import Data, read
    from fpd.data.views import Geometry, Views
    from fpd.pipeline.runtime.loader import make_loader

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    found = read(Data(**settings(name, root)), ("train", "validation"))["train"]
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    views = Views(found, Geometry(), Augmentation(), 0)
    loader = make_loader(views, [[(0, 0)]], torch.device("cpu"), workers=2, prefetch=4)
    start = time.perf_counter()
    iterator = iter(loader)
    forked = time.perf_counter() - start
    del iterator
    print(
        json.dumps(
            {
                "people": len(found),
                "seconds": seconds,
                "cpu": cpu,
                "peak_mb": peak / 1024,
                "fork_ms": 1000 * forked,
                "pickle_mb": len(pickle.dumps(views)) / 1e6,
            }
        )
    )


def look(root: Path, images: Path) -> None:
    """The quick look at every image: links to real ones, a file for each person."""
    from fpd.data.datasets import Data, read
    from fpd.data.validation import problems

    found = read(Data(**settings("mpii", root), validation=0), ("train",))["train"]
    files = sorted(path.resolve() for path in images.rglob("*.jpg"))
    folder = root / "mpii" / "images"
    folder.mkdir(exist_ok=True)
    for number in range(len(found)):
        (folder / f"{number:09d}.jpg").symlink_to(files[number % len(files)])
    for attempt in ("first", "second"):
        start, cpu = time.perf_counter(), time.process_time()
        wrong = problems(found)
        print(
            f"quick look, {attempt}: {time.perf_counter() - start:.1f} s "
            f"({time.process_time() - cpu:.1f} s of CPU) for {len(found)} people "
            f"and {len(files)} different files ({len(wrong)} joints or images found wrong)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=25_000)
    parser.add_argument("--images", type=Path, help="a folder of JPEGs, for the quick look")
    parser.add_argument("--measure", nargs=2, metavar=("FORMAT", "ROOT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure[0], Path(arguments.measure[1]))
        return
    joints = people(arguments.people)
    print("format          file MB   people   read s    CPU s  peak MB  fork ms  pickled MB")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in FORMATS:
            before = {path: path.stat().st_size for path in root.rglob("*") if path.is_file()}
            WRITERS[name](root, joints)
            new = [p for p in root.rglob("*") if p.is_file() and p not in before]
            command = [sys.executable, __file__, "--measure", name, folder]
            row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            print(
                f"{name:15} {sum(p.stat().st_size for p in new) / 1e6:7.1f} {row['people']:8d} "
                f"{row['seconds']:8.2f} {row['cpu']:8.2f} {row['peak_mb']:8.0f} "
                f"{row['fork_ms']:8.1f} {row['pickle_mb']:11.1f}"
            )
        if arguments.images:
            look(root, arguments.images)


if __name__ == "__main__":
    main()
