"""The data card of a portable store: `README.md` in its root, for whoever gets or publishes it.

It has the front matter of Hugging Face's data sets. The card follows from the manifest alone, so it
is the same whenever it is made. Its last line has the digest of the text above it: a card that was
edited does not match, and is left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from ..runtime.cards import (
    MAX_TEXT,
    UNKNOWN_LICENSE,
    describe_settings,
    describe_teacher,
    escape,
    license_fields,
    quote,
    table,
)
from ..runtime.text import format_bytes
from .manifest import AUDIT, CROPS, STORED_SPLITS, Manifest, is_portable, read_manifest
from .schema import DATA_CARD
from .storage import Storage

MAX_CARD_BYTES = 1 << 20

MAX_JOINTS = 100
"""Joints that are named."""

FILL_IN = "**to be filled in by the publisher**"

SIZE_CATEGORIES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}
"""Hugging Face's categories of data sets by number of samples, below each of these numbers."""

_DIGEST_LINE = re.compile(rb"<!-- fpd: ([0-9a-f]{32}) -->\n\Z")
_LICENSE_LINE = re.compile(rb"^license: ([a-z0-9.+-]+)$", re.MULTILINE)
_LICENSE_NAME_LINE = re.compile(rb"^license_name: (\".*\")$", re.MULTILINE)

READING = """\
import cv2, numpy as np, zarr

store = zarr.open_group("heatmaps.zarr", mode="r")
jpeg = store["crops"][0, 0, : store["crop_sizes"][0, 0]]  # view 0 of the first sample
crop = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]  # uint8 ({crop_px}, {crop_px}, 3) RGB
joints = store["joints"][0, 0]  # ({joints}, 2): x, y in heatmap pixels; NaN: not labeled

coefficients, steps = store["heatmaps"][0, 0], store["steps"][0, 0].astype("f4")
basis = store["basis"][:][(steps < 0).astype(int)][:, None]
blocks = np.maximum(coefficients @ basis, 0) * abs(steps)[:, None, None, None]
blocks = blocks.reshape({joints}, {blocks}, {blocks}, 8, 8).swapaxes(2, 3)
heatmaps = blocks.reshape({joints}, {padded_px}, {padded_px})[:, :{heatmap_px}, :{heatmap_px}]
"""


def write_data_card(storage: Storage, license_name: str | None = None) -> bool:
    """Write the card of a complete portable store, unless somebody has edited the present one.

    Args:
        license_name: the recipe's `store.license`; None: keep that of the present card, if any.

    Returns:
        Whether the card was written.
    """
    manifest = read_manifest(storage)
    if not is_portable(manifest) or AUDIT not in manifest:
        return False
    present = _present_card(storage)
    if present is not None and not is_unedited(present):
        return False
    card = render(manifest, license_name or _license_of(present or b""))
    if card != present:
        storage.write(DATA_CARD, card)
    return card != present


def is_unedited(card: bytes) -> bool:
    """Whether a card is as `render` made it."""
    match = _DIGEST_LINE.search(card)
    return match is not None and match[1] == _digest(card[: match.start()])


def render(manifest: Manifest, license_name: str | None = None) -> bytes:
    """The card of a portable store, in UTF-8.

    Args:
        manifest: of the store, which anybody may have written.
        license_name: under which the store is published; None: the publisher is to fill it in.
    """
    sections = [
        _front_matter(manifest, license_name),
        f"# Heatmaps and crops of {escape(_name(manifest))}",
        _contents(manifest),
        "## How it was made\n\n" + _how_made(manifest),
        "## Whose it is\n\n" + _source(license_name),
        "## What is not in it\n\n" + _not_contained(manifest),
        "## Reading it\n\n" + _reading(manifest),
        "## Training from it\n\n" + _training(),
    ]
    text = ("\n\n".join(sections) + "\n\n").encode()
    return text + b"<!-- fpd: %s -->\n" % _digest(text)


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


def _present_card(storage: Storage) -> bytes | None:
    """The card in a store; None if there is none."""
    try:
        return storage.read(DATA_CARD, MAX_CARD_BYTES)
    except FileNotFoundError:
        return None
    except ValueError:  # larger, or a folder: not one of fpd's
        return b""


def _license_of(card: bytes) -> str | None:
    """The license in an unedited card."""
    named = _LICENSE_NAME_LINE.search(card)
    if named:
        return str(json.loads(named[1]))
    license_id = _LICENSE_LINE.search(card)
    known = license_id is not None and license_id[1] != UNKNOWN_LICENSE.encode()
    return license_id[1].decode() if license_id and known else None


def _front_matter(manifest: Manifest, license_name: str | None) -> str:
    """Hugging Face's metadata, in YAML: JSON's strings are YAML's, too."""
    lines = {"pretty_name": quote(f"Heatmaps and crops of {_name(manifest)}")}
    lines |= license_fields(license_name)
    size = next(
        (text for bound, text in SIZE_CATEGORIES.items() if _samples(manifest) < bound), "n>1B"
    )
    return "\n".join(
        [
            "---",
            *(f"{key}: {value}" for key, value in lines.items()),
            "task_categories:\n- keypoint-detection",
            "tags:\n- pose-estimation\n- knowledge-distillation\n- heatmaps\n- zarr",
            f"size_categories:\n- {size}",
            "---",
        ]
    )


def _contents(manifest: Manifest) -> str:
    audit, geometry = manifest[AUDIT], manifest["geometry"]
    joints = manifest["joints"][:MAX_JOINTS]
    more = len(manifest["joints"]) - len(joints)
    names = ", ".join(map(escape, joints)) + (f" and {more} more" if more else "")
    rows = [
        ["train", str(_samples(manifest)), f"{audit['views']} augmented, with heatmaps"],
        *(
            [name, str(entry.get("samples")), "1, not augmented"]
            for name, entry in sorted(manifest[STORED_SPLITS].items())
        ),
    ]
    crops = manifest[CROPS]["splits"]
    for row in rows:
        if row[0] != "train" and row[0] not in crops:
            row[2] = "none"
    return (
        "What a human pose network needs to be trained by distillation: crops of people, the "
        "heatmaps that a larger network, the teacher, predicts for them, and their labels. A "
        "portable store of [fpd](https://pypi.org/project/fast-pose-distillation/), as a Zarr v3 "
        "group.\n\n"
        + table([["split", "people", "crops of each"], *(list(map(escape, row)) for row in rows)])
        + f"\n\nHeatmaps, crops and labels of the training views take "
        f"{format_bytes(audit['bytes'])}. Crops have {geometry['crop_px']} x "
        f"{geometry['crop_px']} pixels, heatmaps {geometry['heatmap_px']} x "
        f"{geometry['heatmap_px']}. Joints: {names}."
    )


def _how_made(manifest: Manifest) -> str:
    crops = manifest[CROPS]
    augmentation = describe_settings(manifest["augmentation"])
    flipped = (
        "; the teacher's output is averaged with that on the flipped crop, and students flip "
        "the views themselves"
        if manifest["flip_averaged"]
        else ""
    )
    lines = [
        f"Teacher: {describe_teacher(manifest['teacher'])}. {_teacher_crops(manifest['teacher'])}",
        f"Views: drawn with seed {escape(manifest['seed'])} from {augmentation}{flipped}.",
        f"Crops: JPEG of quality {escape(crops.get('quality'))}.",
        "Heatmaps: 8 x 8 cosine transform, quantized. They differ from the teacher's output by at "
        f"most {_percent(manifest['max_error'])} of a map's peak; measured while writing: "
        f"{_errors(manifest.get('encoding_error'))}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _errors(errors: Any) -> str:
    if not isinstance(errors, Mapping) or "max_error" not in errors:
        return "unknown"
    displacement = errors.get("mean_displacement_px")
    moved = f"{displacement:.3f}" if isinstance(displacement, int | float) else "unknown"
    return (
        f"{_percent(errors['max_error'])}, and decoded joints displaced by {moved} heatmap pixels "
        "on average"
    )


def _source(license_name: str | None) -> str:
    shown = escape(license_name.lower()) if license_name else FILL_IN
    return (
        f"- Source data set: {FILL_IN} (name, address, version)\n"
        f"- Citation: {FILL_IN}\n"
        f"- License: {shown}. The crops are parts of the source's photographs: its license and "
        "terms apply to them, and it may not permit to publish them."
    )


def _not_contained(manifest: Manifest) -> str:
    has_names = manifest[CROPS].get("source_names") is True
    names = (
        "Sample ids are those of the source, which contain names of its image files."
        if has_names
        else "There are no names or paths of files: sample ids are hashes of the source's."
    )
    return (
        "There are no photographs: each crop shows the surroundings of one person, at the "
        f"resolution of the network's input. {names} Nothing hides who is in a picture."
    )


def _reading(manifest: Manifest) -> str:
    geometry = manifest["geometry"]
    blocks = -(-geometry["heatmap_px"] // 8)
    code = READING.format(
        crop_px=geometry["crop_px"],
        joints=len(manifest["joints"]),
        blocks=blocks,
        padded_px=8 * blocks,
        heatmap_px=geometry["heatmap_px"],
    )
    return (
        "With Zarr alone; the path is that of the folder of this file, or its URL:\n\n"
        f"```python\n{code}```\n\n"
        "The groups `train`, `validation` and `test` have labels in pixels of the photograph, "
        "boxes and PCK's units of length."
    )


def _training() -> str:
    return (
        "Settings and labels are in the store:\n\n"
        "```console\n"
        "$ pip install fast-pose-distillation\n"
        "$ fpd run student -w work/new --store heatmaps.zarr\n"
        "```"
    )


def _name(manifest: Manifest) -> str:
    """The data set's name by its reader, such as lsp+lspet."""
    return str(manifest["datasets"][-1].get("name"))[:MAX_TEXT].removesuffix("/train")


def _samples(manifest: Manifest) -> int:
    return int(manifest["datasets"][-1]["samples"])


def _teacher_crops(entry: Any) -> str:
    if isinstance(entry, dict) and "crop_px" in entry:
        turned = ", turned upright" if "alignment" in entry else ""
        wider = "wider " if entry.get("crop_box", 1) != 1 else ""
        return (
            f"It was run on {wider}crops of the same views in {escape(entry['crop_px'])} x "
            f"{escape(entry['crop_px'])} pixels, cut from the photographs{turned}."
        )
    return "It was run on the decoded crops, so it saw the pixels that are here."


def _percent(share: Any) -> str:
    return f"{100 * share:.3g} %" if isinstance(share, int | float) else "an unknown share"
