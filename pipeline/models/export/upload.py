"""Uploads an exported model to the Hugging Face hub (`fpd export --push-to-hub ORG/NAME`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .formats import import_or_explain

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

NO_RIGHT = (401, 403)
"""HTTP statuses: the token is wrong, or has no right to write."""


@dataclass(frozen=True)
class HubTarget:
    """Where to upload to.

    Attributes:
        repository: "ORG/NAME" of a model.
        private: only its owners may read it.
    """

    repository: str
    private: bool = False


def check_target(target: HubTarget) -> None:
    """Check what can be checked before the work: the name, the package, and a token.

    Raises:
        ValueError: naming what is missing.
    """
    if not REPOSITORY.fullmatch(target.repository) or ".." in target.repository:
        raise ValueError(
            "--push-to-hub: expected ORG/NAME, such as my-team/lsp-student, found "
            f"{target.repository!r}"
        )
    if _package().get_token() is None:
        raise ValueError(
            "--push-to-hub needs a token of the Hugging Face hub that may write, found none: log "
            "in with `hf auth login`, or set HF_TOKEN"
        )


def _package() -> ModuleType:
    return import_or_explain(("huggingface_hub",), "--push-to-hub", "hub")[0]


def upload(target: HubTarget, files: Mapping[str, Path]) -> str:
    """Upload files in one commit; the repository is created if there is none.

    Args:
        files: by their paths in the repository, where they replace those of the same names.

    Returns:
        The repository's URL.

    Raises:
        ValueError: the hub refuses, or cannot be reached; or the repository exists and is public,
            although a private one is asked for.
    """
    hub = _package()
    api = hub.HfApi(library_name="fpd")
    try:
        url = str(api.create_repo(target.repository, private=target.private, exist_ok=True))
        is_public = target.private and not api.model_info(target.repository).private
        if not is_public:
            operations = [hub.CommitOperationAdd(name, path) for name, path in files.items()]
            message = f"Upload {next(iter(files))}"
            api.create_commit(target.repository, operations, commit_message=message)
    except Exception as error:  # of many types, from huggingface_hub and from its HTTP client
        raise ValueError(_failure(target, error)) from None
    if is_public:
        raise ValueError(
            f"{target.repository} exists on the Hugging Face hub and is public: nothing was "
            "uploaded; make it private in its settings, or leave out --private"
        )
    return url


def _failure(target: HubTarget, error: Exception) -> str:
    """Why an upload failed, in one sentence."""
    kind = type(error).__name__
    response: Any = getattr(error, "response", None)
    if getattr(response, "status_code", None) in NO_RIGHT:
        return (
            f"the Hugging Face hub refused to write to {target.repository} ({kind}): expected a "
            "token that may write there; log in with `hf auth login`, or set HF_TOKEN"
        )
    return (
        f"{target.repository} could not be uploaded to the Hugging Face hub ({kind}): run the same "
        "command again with a connection, or `hf upload` the files"
    )
