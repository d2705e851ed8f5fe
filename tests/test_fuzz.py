"""Damaged and hostile files of every kind that is read: one sentence each, never a traceback.

    make test-slow
    FPD_FUZZ_MUTATIONS=20000 FPD_FUZZ_SEED=7 python -m pytest tests/test_fuzz.py -m slow -s

Each mutation changes one file of a small corpus and runs a command on it, in a child process whose
memory is limited. A command may do its work or refuse it with a message. Any other exception, more
than `MAX_SECONDS`, or more than `MAX_BYTES` is a failure, which prints what repeats it:

    python tests/test_fuzz.py CORPUS NUMBER SEED
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MUTATIONS = int(os.environ.get("FPD_FUZZ_MUTATIONS", "2000"))
SEED = int(os.environ.get("FPD_FUZZ_SEED", "0"))

MAX_SECONDS = 10.0
"""Of computing; of waiting, `WAITING` times as many, because other processes may be busy."""

WAITING = 6
MAX_BYTES = 1_000_000_000
LIMIT_BYTES = 4 << 30
"""Address space beyond the start's; what is allocated and not used does not count as memory."""

JOINTS = 16


@dataclass(frozen=True)
class Target:
    """Files of one kind, and the command that reads them.

    Attributes:
        folder: of the corpus, which is copied for each mutation.
        files: patterns of the files to change.
        command: its arguments; "{}" is the copy of the folder.
        share: how often it is chosen, relative to others.
    """

    name: str
    folder: str
    files: tuple[str, ...]
    command: tuple[str, ...]
    share: float = 1.0


def _data(reader: str, *settings: str) -> tuple[str, ...]:
    """The command that reads a data set and decodes its images."""
    pairs = ("data.root={}", f"data.reader={reader}", *settings)
    options = [part for pair in pairs for part in ("--set", pair)]
    return ("check-data", "-r", "demo", "-w", "{}/work", "--workers", "1", *options)


COCO = ("data.coco.train=a.json", "data.coco.test=a.json")
COCO += ("data.coco.train_images=images", "data.coco.test_images=images", "data.coco.category=fly")
FOLDER = _data("folder", "data.folder.skeleton=lsp")
EVALUATE = ("evaluate", "--predictions")
BOXES = ("--boxes", "{boxes}", "-o", "{}/out")

GIVEN = ("-w", "{}/new", "--store", "{}/given.zarr", "--set", "loader.workers=0")

TARGETS = (
    Target("coco", "data", ("coco/annotations/a.json",), _data("coco", *COCO), 3),
    Target("lsp", "data", ("lsp/joints.mat",), _data("lsp")),
    Target("lspet", "data", ("lspet/joints.mat",), _data("lspet")),
    Target("mpii", "data", ("mpii/annot/*",), _data("mpii"), 2),
    Target("mpii-official", "data", ("mpii/mpii_human_pose*.mat",), _data("mpii-official"), 1.5),
    Target("pytorch-pose", "data", ("mpii/mpii_annotations.json",), _data("pytorch-pose")),
    Target("yolo", "yolo", ("data.yaml", "train.txt", "labels/*"), _data("yolo"), 2),
    Target("folder", "plain", ("boxes.json", "*.jpg"), FOLDER),
    Target("images", "data", ("lsp/images/*",), _data("lsp"), 3),
    Target(
        "predictions",
        "scores",
        ("predictions.*",),
        (*EVALUATE, "{file}", "--ground-truth", "{}/gt_valid.mat"),
        3,
    ),
    Target(
        "ground-truth",
        "scores",
        ("gt_valid.mat",),
        (*EVALUATE, "{}/predictions.npy", "--ground-truth", "{}/gt_valid.mat"),
    ),
    Target(
        "results",
        "scores",
        ("results.json", "truth.json"),
        (*EVALUATE, "{}/results.json", "--ground-truth", "{}/truth.json"),
        2,
    ),
    Target(
        "boxes",
        "predict",
        ("boxes.*", "photo.jpg", "photo.png"),
        ("predict", "{}/photo.jpg", "{}/photo.png", "--name", "teacher", "-w", "{}/work", *BOXES),
        2,
    ),
    Target(
        "models",
        "predict",
        ("work/teacher/*", "work/recipe.json"),
        ("predict", "{}/photo.png", "--name", "teacher", "-w", "{}/work", "-o", "{}/out"),
        2,
    ),
    Target(
        "videos",
        "predict",
        ("clip.*",),
        ("predict", "{file}", "--name", "teacher", "-w", "{}/work", "-o", "{}/out"),
        2,
    ),
    Target(
        "exported",
        "predict",
        ("student.*",),
        ("predict", "{}/photo.png", "--model", "{file}", "-w", "{}/work", "-o", "{}/out"),
        2,
    ),
    Target(
        "recipes", "work", ("recipe.toml",), ("inspect-cache", "-r", "{}/recipe.toml", "-w", "{}")
    ),
    Target(
        "store-metadata",
        "work",
        ("heatmaps.zarr/zarr.json", "heatmaps.zarr/*/zarr.json", "heatmaps.zarr/*/receipts/*/*"),
        ("inspect-cache", "-w", "{}"),
        4,
    ),
    Target(
        "store",
        "work",
        ("heatmaps.zarr/*/c/**/*", "heatmaps.zarr/**/*.json"),
        ("verify-cache", "--deep", "--samples", "4", "-w", "{}"),
        2,
    ),
    Target(
        "student",
        "work",
        ("heatmaps.zarr/**/*", "teacher/*", "recipe.json"),
        ("run", "student", "--name", "new", "-w", "{}", "--set", "student.epochs=1"),
        1,
    ),
    Target(
        "state",
        "resume",
        ("student/state.pt", "student/metrics.jsonl", "recipe.json"),
        ("run", "student", "-w", "{}"),
        1,
    ),
    Target(
        "report",
        "work",
        ("teacher/*", "heatmaps.zarr/**/*.json"),
        ("evaluate", "-w", "{}"),
        1,
    ),
    Target(
        "sweep",
        "work",
        ("sweeps/s/*/*/*.json*", "sweeps/s/sweep.json"),
        ("sweep", "s", "--grid", "student.alpha=0", "--seeds", "1", "-w", "{}"),
        0.5,
    ),
    Target(
        "portable",
        "portable",
        ("given.zarr/**/*",),
        ("verify-cache", "--deep", *GIVEN),
        1,
    ),
    Target(
        "portable-metadata",
        "portable",
        ("given.zarr/**/*.json",),
        ("inspect-cache", "--view", "0", "1", "-o", "{}/view.png", *GIVEN),
        1,
    ),
    Target(
        "portable-student",
        "portable",
        ("given.zarr/zarr.json", "given.zarr/**/*"),
        ("run", "student", "--set", "student.epochs=1", *GIVEN),
        2,
    ),
    Target(
        "portable-evaluation",
        "portable",
        ("given.zarr/zarr.json", "given.zarr/test/**/*", "used/recipe.json"),
        ("evaluate", "-w", "{}/used", "--store", "{}/given.zarr", "--set", "loader.workers=0"),
        1,
    ),
    Target(
        "teachers",
        "teachers",
        ("teacher.pt2", "weights.pth", "weights.safetensors", "teacher.pt2.json"),
        ("cache-heatmaps", "--plan", "--teacher", "{teacher}", "-w", "{}/work"),
        2,
    ),
)


# Mutations


def mutate(rng: random.Random, path: Path) -> str:
    """Change a file. Returns what was done."""
    content = path.read_bytes()
    structured: list[Callable[[random.Random, bytes], bytes]] = []
    suffix = path.suffix
    if suffix in (".json", ".jsonl"):
        structured = [change_json] * 6
    elif suffix in (".npz", ".pt", ".pt2", ".pth") and content[:2] == b"PK":
        structured = [change_zip] * 3
    elif suffix in (".mat", ".npy", ".safetensors"):
        structured = [change_numbers] * 2
    kinds = [*structured, flip_bits, truncate, insert, overwrite, replace_text, replace_all]
    kind = rng.choice(kinds)
    changed = kind(rng, content)
    path.write_bytes(changed)
    return f"{kind.__name__} {path.name}"


def flip_bits(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.choice((0, 1, len(content) // 2, rng.randrange(len(content) + 1), -1))]


def insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    start = rng.randrange(len(content) + 1)
    piece = rng.choice(
        (rng.randbytes(rng.choice((1, 4, 1000))), content[start : start + 64], b"\0" * 100_000)
    )
    return content[:at] + piece + content[at:]


def overwrite(rng: random.Random, content: bytes) -> bytes:
    """Set two, four or eight bytes to an extreme number: sizes and offsets are such."""
    width = rng.choice((2, 4, 8))
    at = rng.randrange(max(1, len(content) - width))
    value = rng.choice((b"\xff" * width, b"\0" * width, b"\xff" * (width - 1) + b"\x7f"))
    return content[:at] + value + content[at + width :]


def replace_text(rng: random.Random, content: bytes) -> bytes:
    """Replace a number, a quote or a bracket of the text."""
    places = [i for i, byte in enumerate(content[:20_000]) if byte in b'0123456789"[]{},:=']
    if not places:
        return flip_bits(rng, content)
    at = rng.choice(places)
    new = rng.choice(
        (b"nan", b"-1", b"1e999", b"9" * 400, b'"', b"[", b"}", b"\x1b[2J", b"\xff\xfe", b"", b"\n")
    )
    return content[:at] + new + content[at + 1 :]


def replace_all(rng: random.Random, content: bytes) -> bytes:
    """Another file in its place: empty, deeply nested, another format, or a bomb."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in ("../outside", "pickle", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    return rng.choice(
        (
            b"",
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"9" * 100_000,
            b"null",
            b"[]",
            b"{}",
            b"\xff" * 64,
            tar.getvalue(),
            zip_of({"data/0": b"\0" * 50_000_000}),
            b"\x93NUMPY\x01\x00" + _npy_header("(10000000, 10000000)"),
            b"\x80\x04cos\nsystem\n(S'true'\ntR.",
            content * 3,
        )
    )


def _npy_header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return struct.pack("<H", len(text)) + text


def zip_of(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return content.getvalue()


def change_zip(rng: random.Random, content: bytes) -> bytes:
    """Rebuild an archive with a member changed, twice, absent, elsewhere or as a bomb."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError):
        return flip_bits(rng, content)
    number = rng.randrange(len(members))
    name, member = members[number]
    kind = rng.choice(("change", "json", "twice", "absent", "outside", "bomb", "prefix", "store"))
    if kind == "json":
        texts = [i for i, (n, _) in enumerate(members) if n.endswith(".json")]
        number = rng.choice(texts or [number])
        members[number] = (members[number][0], change_json(rng, members[number][1]))
    elif kind == "change":
        members[number] = (name, rng.choice((flip_bits, truncate, insert))(rng, member))
    elif kind == "twice":
        members.append((name, flip_bits(rng, member)))
    elif kind == "absent":
        del members[number]
    elif kind == "outside":
        members[number] = ("../../" + name, member)
    elif kind == "bomb":
        members[number] = (name, b"\0" * 100_000_000)
    rebuilt = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if kind == "bomb" or rng.random() < 0.3 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(rebuilt, "w", how) as archive:
        warnings.simplefilter("ignore")  # of two members with one name
        for member_name, value in members:
            archive.writestr(member_name, value)
    return content + rebuilt.getvalue() if kind == "prefix" else rebuilt.getvalue()


def change_numbers(rng: random.Random, content: bytes) -> bytes:
    """Set one of the 64-bit numbers to NaN, infinity or an extreme."""
    value = rng.choice((float("nan"), float("inf"), -1e300, 1e9, 5e-324))
    at = 8 * rng.randrange(max(1, len(content) // 8))
    return content[:at] + struct.pack("<d", value) + content[at + 8 :]


ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    10**12,
    10**30,
    10**400,
    0.5,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "1",
    "nan",
    "x" * 100_000,
    "\x1b[2J\x00\n",
    "\ud800",
    "../../etc/passwd",
    "left knee",
    [],
    {},
    [[]],
    [None],
    {"id": None},
)


def change_json(rng: random.Random, content: bytes) -> bytes:
    """Change values and keys of a JSON file; a checksum in it is made to match, mostly."""
    try:
        lines = content.splitlines() if content.count(b"}\n{") else [content]
        values = [json.loads(line) for line in lines]
    except (ValueError, RecursionError):
        return flip_bits(rng, content)
    number = rng.randrange(len(values))
    holder = [values[number]]
    for _ in range(rng.choice((1, 1, 1, 3))):
        _change_value(rng, holder)
    value = holder[0]
    text = json.dumps(value) if rng.random() < 0.9 else _deep(json.dumps(value))
    if isinstance(value, dict) and rng.random() < 0.8:
        text = _sealed(value, text)
    lines[number] = text.encode("utf-8", "surrogatepass")
    return b"\n".join(lines) + b"\n"


def _change_value(rng: random.Random, root: list[Any]) -> None:
    """Change a value at a random place, deep or not."""
    parent, key = root, 0
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = rng.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
    kind = rng.choice(("odd", "odd", "odd", "remove", "add", "copy", "scale", "text"))
    value = parent[key]
    if kind == "remove" and parent is not root:
        del parent[key]
    elif kind == "add" and isinstance(value, dict):
        value[rng.choice(("unknown", "", "\x1b", "id"))] = deepcopy(rng.choice(ODD_VALUES))
    elif kind == "add" and isinstance(value, list):
        value.append(rng.choice((value[0] if value else None, deepcopy(rng.choice(ODD_VALUES)))))
    elif kind == "copy" and isinstance(parent, list) and len(parent) > 1:
        parent[key] = deepcopy(parent[rng.randrange(len(parent))])
    elif kind == "scale" and isinstance(value, int | float):
        parent[key] = value * rng.choice((-1, 0, 2, 1000, 10**9))
    elif kind == "text":
        parent[key] = str(value)
    else:
        parent[key] = deepcopy(rng.choice(ODD_VALUES))


def _deep(text: str) -> str:
    return "[" * 900 + text + "]" * 900


def _sealed(value: dict[str, Any], text: str) -> str:
    """The text with the checksum that its kind of file has, so that what it protects is read."""
    from fpd.pipeline.runtime import files
    from fpd.pipeline.store import coverage, manifest

    with contextlib.suppress(Exception):
        if "checksum" in value:
            rest = {key: item for key, item in value.items() if key != "checksum"}
            return json.dumps(rest | {"checksum": files._checksum(rest)})
        if "seal" in value:
            rest = {key: item for key, item in value.items() if key != "seal"}
            return coverage.sealed(rest).decode()
        attributes = value["attributes"]
        for key in attributes:
            if key.endswith("checksum") or key.endswith("digest"):
                attributes[key] = manifest.manifest_checksum(attributes[manifest.MANIFEST])
        return json.dumps(value)
    return text


# The child process


class Hung(BaseException):
    """A command took longer than `MAX_SECONDS`."""


def run_mutations(corpus: Path, first: int, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Run mutations by number; yields the failures."""
    from click.testing import CliRunner

    from fpd.cli import main
    from fpd.stages import evaluate, sweep

    warnings.simplefilter("ignore")
    # What takes seconds, and reads no file.
    evaluate.latency_ms = lambda *_: 1.0
    evaluate.draw_curves = lambda _, path: path.touch()
    sweep.draw = lambda _, path: path.touch()

    def hang(*_: object) -> None:
        raise Hung

    signal.signal(signal.SIGPROF, hang)
    signal.signal(signal.SIGALRM, hang)
    copy = corpus.parent / f"copy-{os.getpid()}"
    for number in range(first, first + count):
        rng = random.Random(f"{seed}/{number}")
        target = rng.choices(TARGETS, [t.share for t in TARGETS])[0]
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(corpus / target.folder, copy)
        files = sorted(p for pattern in target.files for p in copy.glob(pattern) if p.is_file())
        path = rng.choice(files)
        what = f"{number} {target.name}: {mutate(rng, path)}"
        arguments = [
            part.format(copy, **_names(target, copy, path, rng)) for part in target.command
        ]
        print(what, flush=True)  # for a parent that has to end this process
        faulthandler.dump_traceback_later(2 * WAITING * MAX_SECONDS, exit=True)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, started = _memory("VmRSS"), time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WAITING * MAX_SECONDS)
        try:
            result = CliRunner().invoke(main, arguments)
            problem = _problem(result, _memory("VmHWM") - before)
        except Hung:
            problem = "hung: " + traceback.format_exc()[-1500:]
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        if problem is not None:
            seconds = time.monotonic() - started
            yield {"what": what, "problem": problem, "seconds": seconds, "number": number}
    shutil.rmtree(copy, ignore_errors=True)


def _names(target: Target, copy: Path, path: Path, rng: random.Random) -> dict[str, Path]:
    """The files that commands name by "{file}" and the like: the changed one, if it is such."""
    if target.name == "teachers":
        weights = [copy / name for name in ("teacher.pt2", "weights.pth", "weights.safetensors")]
        return {"teacher": path if path in weights else weights[0]}
    boxes = [copy / "boxes.json", copy / "boxes.csv"]
    return {"file": path, "boxes": path if path in boxes else rng.choice(boxes)}


def _problem(result: Any, peak: int) -> str | None:
    """What a command did that it must not."""
    error, output = result.exception, result.output
    if error is not None and not isinstance(error, SystemExit):
        return f"{type(error).__name__}: {str(error)[:300]} in {_last_frames(result)}"
    if peak > MAX_BYTES or "too little memory" in output:
        return f"took {peak / 1e6:.0f} MB: {output[-300:]}"
    if "Traceback" in output:
        return f"printed a traceback: {output[-2000:]}"
    if result.exit_code not in (0, 1):
        return f"exit status {result.exit_code}: {output[-300:]}"
    if result.exit_code == 1 and "Error: " not in output and "problem" not in output:
        return f"failed without a message: {output[-300:]!r}"
    if any((ord(c) < 32 and c not in "\n\r\t") or "\x7f" <= c <= "\x9f" for c in output):
        return f"printed control characters: {output[-300:]!r}"
    return None


def _last_frames(result: Any) -> str:
    frames = traceback.extract_tb(result.exc_info[2])
    own = [frame for frame in frames if "site-packages" not in frame.filename][-2:]
    return "; ".join(f"{f.filename}:{f.lineno} {f.name}" for f in [*own, frames[-1]])


def _memory(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise AssertionError(key)


def main_of_child(corpus: Path, first: int, count: int, seed: int) -> None:
    import torch

    from fpd.stages import evaluate, export, heatmaps, inspect, score, student, verify  # noqa: F401

    torch.set_num_threads(1)
    limit = _memory("VmSize") + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for failure in run_mutations(corpus, first, count, seed):
        print("FAILURE " + json.dumps(failure), flush=True)


# The corpus


@pytest.fixture(scope="module")
def corpus(
    toy_work: Path, portable_toy_work: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A small valid file of every kind, which each command of `TARGETS` accepts."""
    root = tmp_path_factory.mktemp("fuzz") / "corpus"
    make_data(root / "data")
    make_yolo(root / "yolo")
    make_scores(root / "scores")
    make_works(root, toy_work)
    make_portable(root / "portable", portable_toy_work)
    return root


def make_data(root: Path) -> None:
    """A data set for each reader, of three images."""
    import numpy as np
    import scipy.io

    rng = np.random.default_rng(0)
    names = [f"im{n:04d}.jpg" for n in range(1, 4)]
    for folder in ("coco/images", "lsp/images", "lspet/images", "mpii/images", "../plain"):
        for number, name in enumerate(names):
            name = name if folder != "lspet/images" else f"im{number + 1:05d}.jpg"
            _write_image(root / folder / name, rng)
    joints = rng.uniform(20, 80, (14, 3, 3))
    joints[:, 2] = 1
    scipy.io.savemat(root / "lsp" / "joints.mat", {"joints": joints.transpose(1, 0, 2)})
    scipy.io.savemat(root / "lspet" / "joints.mat", {"joints": joints}, do_compression=True)
    _write_json(root / "coco/annotations/a.json", coco_dataset(names))
    boxes = [{"image": name, "x": 10, "y": 10, "w": 60, "h": 70} for name in names]
    _write_json(root.parent / "plain" / "boxes.json", boxes)

    for file in ("train.json", "valid.json"):
        _write_json(root / "mpii" / "annot" / file, [mpii_record(name) for name in names])
    scipy.io.savemat(root / "mpii" / "annot" / "gt_valid.mat", mpii_truth(len(names)))
    pose = [pytorch_pose_record(name, float(valid)) for valid in (0, 1) for name in names]
    _write_json(root / "mpii" / "mpii_annotations.json", pose)
    release = mpii_release(names)
    path = root / "mpii" / "mpii_human_pose_v1_u12_1.mat"
    scipy.io.savemat(path, {"RELEASE": release}, do_compression=True)


def make_yolo(root: Path) -> None:
    """A folder of poses, of three images."""
    import numpy as np

    rng = np.random.default_rng(0)
    names = [f"images/im{n}.jpg" for n in range(3)]
    for name in names:
        _write_image(root / name, rng)
        label = root / name.replace("images", "labels").replace(".jpg", ".txt")
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 0.5 0.5 0.6 0.6 0.4 0.4 2 0.6 0.4 1 0.5 0.7 0\n")
    (root / "train.txt").write_text("\n".join(names))
    (root / "data.yaml").write_text(
        "path: .\ntrain: train.txt\nval: images\nkpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\n"
        "names:\n  0: fly\nkpt_names:\n  0: [head, left wing, right wing]\n"
    )


def _write_image(path: Path, rng: Any, side: tuple[int, int] = (100, 120)) -> None:
    import cv2

    path.parent.mkdir(parents=True, exist_ok=True)
    small = rng.integers(0, 255, (8, 8, 3)).astype("uint8")
    cv2.imwrite(str(path), cv2.resize(small, side[::-1]))


def _write_video(path: Path, code: str) -> None:
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (96, 64))
    for number in range(4):
        writer.write(np.full((64, 96, 3), 50 * number, np.uint8))
    writer.release()


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def coco_dataset(names: list[str]) -> dict[str, Any]:
    return {
        "images": [
            {"id": n, "file_name": name, "width": 120, "height": 100}
            for n, name in enumerate(names)
        ],
        "categories": [
            {
                "id": 3,
                "name": "fly",
                "keypoints": ["head", "left wing", "right wing", "tail"],
                "skeleton": [[1, 2], [1, 3], [1, 4]],
            }
        ],
        "annotations": [
            {
                "id": 10 + n,
                "image_id": n,
                "category_id": 3,
                "bbox": [10.0, 20.0, 40.0, 20.0],
                "area": 500.0,
                "iscrowd": 0,
                "keypoints": [12, 22, 2, 20, 25, 1, 30, 38, 1, 48, 24, 2],
                "num_keypoints": 4,
            }
            for n in range(len(names))
        ],
    }


def mpii_record(name: str) -> dict[str, Any]:
    return {
        "image": name,
        "center": [40.0, 30.0],
        "scale": 0.5,
        "joints": [[10.0 + k, 20.0 + 2 * k] for k in range(JOINTS)],
        "joints_vis": [1] * JOINTS,
    }


def pytorch_pose_record(name: str, valid: float) -> dict[str, Any]:
    return {
        "dataset": "MPI",
        "isValidation": valid,
        "img_paths": name,
        "objpos": [41.0, 30.0],
        "joint_self": [[10.0 + k, 20.0 + 2 * k, 1.0] for k in range(JOINTS)],
        "scale_provided": 0.5,
        "numOtherPeople": 0.0,
    }


def mpii_truth(count: int) -> dict[str, Any]:
    import numpy as np

    from fpd.data.readers.mpii import GROUND_TRUTH_JOINTS

    names = np.empty((1, JOINTS), object)
    names[0, :] = GROUND_TRUTH_JOINTS
    heads = np.zeros((2, 2, count))
    heads[1, 0], heads[1, 1] = 30.0, 40.0
    return {
        "dataset_joints": names,
        "jnt_missing": np.zeros((JOINTS, count), np.uint8),
        "pos_gt_src": np.random.default_rng(1).uniform(1, 90, (JOINTS, 2, count)),
        "headboxes_src": heads,
    }


def mpii_release(names: list[str]) -> Any:
    """The struct of MPII's own file; every fifth image would be a test image."""
    import numpy as np

    def struct_of(**fields: Any) -> Any:
        made = np.zeros((1, 1), dtype=[(name, "O") for name in fields])
        for name, value in fields.items():
            made[0, 0][name] = value
        return made

    def row(structs: list[Any]) -> Any:
        return np.concatenate(structs, axis=1)

    points = [
        struct_of(x=10.0 + k, y=20.0 + 2 * k, id=float(k), is_visible=1.0) for k in range(JOINTS)
    ]
    empty = np.zeros((0, 0))
    images = []
    for name in names:
        person = struct_of(
            x1=10.0,
            y1=20.0,
            x2=40.0,
            y2=60.0,
            annopoints=struct_of(point=row(points)),
            scale=0.5,
            objpos=struct_of(x=41.0, y=30.0),
        )
        images.append(
            struct_of(image=struct_of(name=name), annorect=person, frame_sec=empty, vididx=empty)
        )
    fields = dict.fromkeys(("version", "single_person", "act", "video_list"), empty)
    flags = np.ones((1, len(names)), np.uint8)
    return struct_of(annolist=row(images), img_train=flags, **fields)


def make_scores(root: Path) -> None:
    """Predictions in each format, and what they are scored against."""
    import numpy as np
    import scipy.io

    root.mkdir(parents=True)
    truth = mpii_truth(6)
    scipy.io.savemat(root / "gt_valid.mat", truth)
    predicted = truth["pos_gt_src"].transpose(2, 0, 1) + 1
    scipy.io.savemat(root / "predictions.mat", {"preds": predicted})
    np.save(root / "predictions.npy", predicted)
    np.savez_compressed(root / "predictions.npz", preds=predicted)
    _write_json(root / "predictions.json", {"joints": predicted.tolist()})
    content = coco_dataset(["a.jpg", "b.jpg"])
    content["categories"][0]["name"] = "person"
    content["categories"][0]["keypoints"] = _coco_joints()
    content["categories"][0]["skeleton"] = []
    keypoints = [v for k in range(17) for v in (10 + 2 * k, 20 + k, 2)]
    for annotation in content["annotations"]:
        annotation["keypoints"] = keypoints
    _write_json(root / "truth.json", content)
    results = [
        {"image_id": n, "category_id": 3, "keypoints": keypoints, "score": 0.5} for n in range(2)
    ]
    _write_json(root / "results.json", results)


def _coco_joints() -> list[str]:
    from fpd.data.skeletons import COCO as COCO_SKELETON

    return list(COCO_SKELETON.joints)


def make_works(root: Path, toy_work: Path) -> None:
    """Work directories: with a student to resume, a sweep, photographs, and external teachers."""
    import numpy as np
    from click.testing import CliRunner

    from fpd.cli import main

    def fpd(*arguments: str | Path) -> None:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output

    work = root / "work"
    shutil.copytree(toy_work, work)
    (work / "recipe.toml").write_text('[data]\nreader = "synthetic"\n[store]\nviews = 2\n', "utf-8")
    fpd("sweep", "s", "--grid", "student.alpha=0", "--seeds", "1", "-w", work)

    shutil.copytree(toy_work, root / "resume")
    fpd("run", "student", "-w", root / "resume")
    (root / "resume" / "student" / "record.json").unlink()

    predict = root / "predict"
    predict.mkdir()
    (predict / "work").mkdir()
    shutil.copytree(toy_work / "teacher", predict / "work" / "teacher")
    shutil.copyfile(toy_work / "recipe.json", predict / "work" / "recipe.json")
    for name in ("photo.jpg", "photo.png"):
        _write_image(predict / name, np.random.default_rng(0))
    boxes = [{"image": name, "bbox": [10, 10, 60, 70]} for name in ("photo.jpg", "photo.png")]
    _write_json(predict / "boxes.json", boxes)
    (predict / "boxes.csv").write_text("image,x,y,w,h\nphoto.jpg,1,2,50,60\nphoto.png,0,0,9,9\n")

    for name, code in (("clip.avi", "MJPG"), ("clip.mp4", "mp4v")):
        _write_video(predict / name, code)

    teachers = root / "teachers"
    shutil.copytree(predict / "work", teachers / "work")
    for name, kind in (("student.onnx", "onnx"), ("student.pt2", "torch-export")):
        export = ("export", "--name", "teacher", "--format", kind, "-o", root / name)
        fpd(*export, "-w", teachers / "work")
        (root / name).rename(predict / name)
        (root / f"{name}.json").unlink()
    write_teachers(teachers)


def make_portable(root: Path, portable_toy_work: Path) -> None:
    """A portable store without anything else, and a work directory that has used it."""
    from click.testing import CliRunner

    from fpd.cli import main

    shutil.copytree(portable_toy_work / "heatmaps.zarr", root / "given.zarr")
    used = ["-w", str(root / "used"), "--store", str(root / "given.zarr")]
    epochs = ["--set", "student.epochs=1", "--set", "loader.workers=0"]
    result = CliRunner().invoke(main, ["run", "student", *used, *epochs])
    assert result.exit_code == 0, result.output


def write_teachers(folder: Path) -> None:
    """An hourglass as published, as safetensors, and as an exported program."""
    import torch
    from safetensors.torch import save_file

    from fpd.pipeline.models.settings import HourglassSettings

    network = HourglassSettings(stages=1, channels=8, stem="ports").build(JOINTS).eval()
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": tensors}, folder / "weights.pth")
    save_file(tensors, folder / "weights.safetensors")

    class Convolution(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, JOINTS, 7, 4, 3)

        def forward(self, crops: torch.Tensor) -> torch.Tensor:
            heatmaps: torch.Tensor = self.conv(crops)
            return heatmaps

    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        Convolution().eval(), (torch.zeros(2, 3, 64, 64),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, folder / "teacher.pt2")
    joints = [f"joint {number}" for number in range(JOINTS - 1)] + ["neck"]
    _write_json(folder / "teacher.pt2.json", {"input": [64, 64], "joints": joints})


# The tests


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_each_command_accepts_the_unchanged_files(
    target: Target, corpus: Path, tmp_path: Path
) -> None:
    """Otherwise its mutations would all be refused for the same reason."""
    from click.testing import CliRunner

    from fpd.cli import main

    copy = Path(shutil.copytree(corpus / target.folder, tmp_path / "copy"))
    files = sorted(p for pattern in target.files for p in copy.glob(pattern) if p.is_file())
    path, rng = files[0], random.Random(0)
    arguments = [part.format(copy, **_names(target, copy, path, rng)) for part in target.command]
    result = CliRunner().invoke(main, arguments)
    has_no_test_split = "1 problem:\ntest: has no samples" in result.output
    assert result.exit_code == 0 or has_no_test_split, result.output


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by /proc")
def test_changed_files_end_in_a_message_each(corpus: Path) -> None:
    failures: list[str] = []
    number = 0
    while number < MUTATIONS:
        number = _run_child(corpus, number, MUTATIONS - number, failures)
    assert not failures, f"{len(failures)} of {MUTATIONS}:\n" + "\n".join(failures)


def _run_child(corpus: Path, first: int, count: int, failures: list[str]) -> int:
    """Run mutations in a process. Returns the number of the next one, also if the process ended."""
    arguments = [sys.executable, __file__, str(corpus), str(first), str(count), str(SEED)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    with (
        (corpus.parent / "stderr").open("w+") as errors,
        subprocess.Popen(
            arguments, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child,
    ):
        assert child.stdout is not None
        last = str(first)
        for line in child.stdout:
            if line.startswith("FAILURE "):
                failures.append(line.removeprefix("FAILURE ").strip())
            elif line.split(" ")[0].isdigit():
                last = line.strip()
        status = child.wait()
        if status == 0:
            return first + count
        errors.seek(0)
        failures.append(f"{last} ended the process ({status}): {errors.read()[-1500:]}")
    return int(last.split(" ")[0]) + 1


if __name__ == "__main__":
    corpus_folder, *numbers = sys.argv[1:]
    if len(numbers) == 2:
        numbers.insert(1, "1")
    main_of_child(Path(corpus_folder), *map(int, numbers))
    sys.exit(0)
