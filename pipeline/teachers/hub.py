"""Teachers on the Hugging Face hub: `hf:ORG/NAME`, `hf:ORG/NAME@REVISION`, `hf:ORG/NAME/FILE.onnx`.

A repository is a ViTPose, unless a file of it is named. Files that are in the hub's cache are used
as they are, without a connection; others are downloaded (`huggingface_hub`; HF_HOME and
HF_HUB_OFFLINE apply). Only data are fetched: safetensors, JSON, and the named file with those whose
names begin like it, as external data of ONNX do.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from ...data.io.files import read_bytes

REFERENCE = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(@(?P<revision>[A-Za-z0-9][\w.-]{0,95}))?"
    r"(/(?P<file>[\w. /-]{1,300}\.(onnx|tflite)))?"
)
VITPOSE_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]*vitpose[\w.-]*", re.IGNORECASE)

PREFIX = "hf:"
VITPOSE_FILES = [
    "config.json",
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
]
MAX_INDEX_BYTES = 16 << 20


class HubRef(NamedTuple):
    """A model on the hub.

    Attributes:
        repo: "ORG/NAME".
        revision: a branch, tag or commit; None: the main branch.
        file: the path of a file in the repository; None: the repository is a ViTPose.
    """

    repo: str
    revision: str | None
    file: str | None


def parse(name: str) -> HubRef | None:
    """Parse `hf:ORG/NAME[@REVISION][/FILE]`, or an id `ORG/NAME` of a ViTPose; None: it is neither.

    An id without the prefix counts only if no folder ORG exists here.
    """
    stated = name.startswith(PREFIX)
    match = REFERENCE.fullmatch(name.removeprefix(PREFIX))
    if match is None or ".." in name:
        return None
    if not stated:
        base = name.partition("@")[0]
        if not VITPOSE_ID.fullmatch(base) or match["file"] or Path(base).parent.exists():
            return None
    return HubRef(match["repo"], match["revision"], match["file"])


def cached(ref: HubRef) -> Path | None:
    """The model's file or folder in the hub's cache; None: it is not there, or not complete."""
    try:
        path = _snapshot(ref, local_files_only=True)
    except Exception:  # of many types; also if huggingface_hub is not installed
        return None
    return path if _is_complete(path) else None


def fetch(ref: HubRef) -> Path:
    """The model's file or folder, downloaded if it is not in the hub's cache.

    Raises:
        ValueError: it cannot be downloaded, or does not exist.
    """
    path = cached(ref)
    if path is not None:
        return path
    try:
        path = _snapshot(ref, local_files_only=False)
    except ImportError as error:
        raise ValueError(
            f"expected huggingface_hub, to download {ref.repo}, found none ({error}): "
            "pip install 'fast-pose-distillation[hub]'"
        ) from None
    except Exception as error:  # of many types, from huggingface_hub and from its HTTP client
        raise ValueError(_failure(ref, error)) from None
    if not _is_complete(path):
        wanted = ref.file or "config.json and *.safetensors"
        raise ValueError(
            f"expected {wanted} in {ref.repo} on the Hugging Face hub, found none; a single file "
            f"of it is named as hf:{ref.repo}/FILE.onnx"
        )
    return path


def root_of(ref: HubRef, path: Path) -> Path:
    """The folder in the hub's cache that files of the repository are in, also through links."""
    depth = 1 if ref.file is None else len(Path(ref.file).parts) + 1
    return path.parents[depth]


def _snapshot(ref: HubRef, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = VITPOSE_FILES if ref.file is None else [f"{ref.file}*"]
    folder = snapshot_download(
        ref.repo,
        revision=ref.revision,
        allow_patterns=patterns,
        local_files_only=local_files_only,
    )
    return Path(folder) if ref.file is None else Path(folder) / ref.file


def _is_complete(path: Path) -> bool:
    if path.suffix in (".onnx", ".tflite"):
        return path.is_file()
    index = path / "model.safetensors.index.json"
    if index.is_file() and not (path / "model.safetensors").is_file():
        try:
            shards: Any = json.loads(read_bytes(index, MAX_INDEX_BYTES, "JSON"))["weight_map"]
            names = {str(name) for name in shards.values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        if not all(re.fullmatch(r"[\w.-]+", name) and (path / name).is_file() for name in names):
            return False
    return (path / "config.json").is_file() and any(path.glob("*.safetensors"))


def _failure(ref: HubRef, error: Exception) -> str:
    """Why a download failed, in one sentence."""
    kind = type(error).__name__
    at = f" at revision {ref.revision}" if ref.revision else ""
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "GatedRepoError"):
        return (
            f"the Hugging Face hub has no {ref.repo}{at} that this machine may read ({kind}): "
            "check its name, or log in with `hf auth login`"
        )
    return (
        f"{ref.repo}{at} is not in the Hugging Face hub's cache here, and could not be downloaded "
        f"({kind}): run `hf download {ref.repo}` on a machine with a connection and copy its cache "
        "(HF_HOME), or name a folder or file with the model"
    )
