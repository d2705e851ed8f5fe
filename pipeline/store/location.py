"""Opens the storage at a path or URL."""

from __future__ import annotations

import re
from pathlib import Path

from ..runtime.text import check_url
from .local_storage import LocalStorage
from .remote_storage import RemoteStorage
from .storage import Storage

EXECUTING_PROTOCOLS = {"dask", "jlab", "jupyter", "pyscript", "reference"}
"""fsspec's protocols that connect to something that runs code, or that render templates: a recipe
of somebody else could name them (fsspec/implementations/dask.py, jupyter.py, reference.py)."""


def open_storage(location: str | Path) -> Storage:
    """The storage at a path or URL. Nothing has to exist there yet.

    Raises:
        ValueError: the URL is incomplete, holds a password or could run code, or its protocol needs
            a package that is not installed.
    """
    if isinstance(location, Path) or "://" not in location:
        return LocalStorage(Path(location))
    check_url(location)
    protocol, path = location.split("://", 1)
    executing = EXECUTING_PROTOCOLS & set(re.split(r"::|://", location))
    if executing:
        raise ValueError(
            f"expected a location such as s3://bucket/run.zarr, got the protocol "
            f"{min(executing)}://, by which another machine or a file of references could run "
            "code here"
        )
    if not path.strip("/"):
        raise ValueError(f"expected a location such as s3://bucket/run.zarr, got {location}")
    return LocalStorage(Path(path)) if protocol == "file" else RemoteStorage(location.rstrip("/"))
