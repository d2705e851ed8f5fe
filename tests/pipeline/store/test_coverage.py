"""A shard is complete if its receipt matches its files, and not otherwise."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from fpd.pipeline.store import (
    StoreReader,
    check_complete,
    coverage,
    open_storage,
    read_manifest,
    shard_bytes,
)
from fpd.pipeline.store.coverage import sealed

# The package has a function of this name.
coverage_module = import_module("fpd.pipeline.store.coverage")

RECEIPT = "heatmaps/receipts/1/2.json"
HEATMAPS = "heatmaps/c/1/2/0/0/0/0"


def test_a_complete_store_lacks_nothing(small: Any, whole: Path) -> None:
    storage = open_storage(whole)
    present = coverage(storage, small.layout)
    assert (present.missing, present.total, len(present.receipts)) == ([], 6, 6)
    assert (present.complete_views, present.samples()) == (2, 20)
    check_complete(storage, small.layout, "w")
    files = [
        content
        for name, content in small.content(whole).items()
        if "/c/" in name and not name.startswith("basis/")
    ]
    assert len(files) == 24
    assert present.bytes() == shard_bytes(storage, small.layout) == sum(map(len, files))


def edit_receipt(store: Path, change: Callable[[Any], Any], *, seal: bool = True) -> None:
    """Replace a receipt by another one, with a correct seal."""
    receipt = change(json.loads((store / RECEIPT).read_text()))
    if seal and isinstance(receipt, dict):
        (store / RECEIPT).write_bytes(sealed(receipt))
    else:
        (store / RECEIPT).write_text(json.dumps(receipt))


def with_larger_file(receipt: dict[str, Any], name: str) -> dict[str, Any]:
    receipt["arrays"][name]["bytes"] += 1
    return receipt


def without(receipt: dict[str, Any], *keys: str) -> dict[str, Any]:
    parent = receipt
    for key in keys[:-1]:
        parent = parent[key]
    del parent[keys[-1]]
    return receipt


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no receipt": lambda s: (s / RECEIPT).unlink(),
    "another file size": lambda s: edit_receipt(s, lambda r: with_larger_file(r, "peaks")),
    "no entry of an array": lambda s: edit_receipt(s, lambda r: without(r, "arrays", "steps")),
    "no number of samples": lambda s: edit_receipt(s, lambda r: without(r, "samples")),
    "another number of samples": lambda s: edit_receipt(s, lambda r: r | {"samples": 4}),
    "no errors": lambda s: edit_receipt(s, lambda r: without(r, "encoding_error")),
    "an infinite error": lambda s: edit_receipt(
        s, lambda r: r | {"encoding_error": {"max_error": float("inf")}}
    ),
    "NaN for an error": lambda s: edit_receipt(
        s, lambda r: r | {"encoding_error": {"max_error": float("nan")}}
    ),
    "a text for an error": lambda s: edit_receipt(s, lambda r: r | {"encoding_error": {"a": "b"}}),
    "a canary outside the shard": lambda s: edit_receipt(
        s, lambda r: r | {"canaries": [{"row": 9}]}
    ),
    "canaries that are a number": lambda s: edit_receipt(s, lambda r: r | {"canaries": 1}),
    "10^12 samples": lambda s: edit_receipt(s, lambda r: r | {"samples": 10**12}),
    "no digests": lambda s: edit_receipt(
        s, lambda r: r | {"arrays": {n: {"bytes": a["bytes"]} for n, a in r["arrays"].items()}}
    ),
    "a wrong seal": lambda s: edit_receipt(
        s, lambda r: r | {"encoding_error": {"max_error": 0.01}}, seal=False
    ),
    "a list": lambda s: edit_receipt(s, lambda r: [r]),
    "half a receipt": lambda s: (s / RECEIPT).write_bytes((s / RECEIPT).read_bytes()[:100]),
    "not text": lambda s: (s / RECEIPT).write_bytes(bytes(range(128, 256)) * 4),
    "a huge receipt": lambda s: (s / RECEIPT).write_bytes(
        (s / RECEIPT).read_bytes() + b" " * (1 << 16)
    ),
    "deep nesting": lambda s: (s / RECEIPT).write_bytes(b"[" * 60_000),
    "a folder": lambda s: ((s / RECEIPT).unlink(), (s / RECEIPT).mkdir()),
    "no heatmaps": lambda s: (s / HEATMAPS).unlink(),
    "no parameters": lambda s: (s / "parameters/c/1/2/0").unlink(),
    "truncated heatmaps": lambda s: os.truncate(s / HEATMAPS, 30),
    "empty steps": lambda s: os.truncate(s / "steps/c/1/2/0", 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_reported_missing_and_written_again(
    small: Any, store: Path, damage: str
) -> None:
    before, storage = small.content(store), open_storage(store)
    DAMAGES[damage](store)
    assert coverage(storage, small.layout).missing == [(1, 2)]
    with pytest.raises(
        ValueError,
        match=r"5 of 6 shards .* 1 of 2 views .*`fpd cache-heatmaps -w some/where`.*"
        r"`--set store\.views=1`",
    ):
        check_complete(storage, small.layout, "some/where")
    if damage == "a folder":
        (store / RECEIPT).rmdir()
    small.write(small.open(store)).finish()
    assert small.content(store) == before


def test_a_receipt_of_another_shard_does_not_count(small: Any, store: Path) -> None:
    """Copied over a shard whose files have the same sizes."""
    for name in (*(f"{array}/c/1/{{}}" for array in small.arrays[1:]), "heatmaps/c/1/{}"):
        shutil.rmtree(store / name.format(1))
        shutil.copytree(store / name.format(0), store / name.format(1))
    receipts = (store / f"heatmaps/receipts/1/{shard}.json" for shard in (0, 1))
    shutil.copy(*receipts)
    assert coverage(open_storage(store), small.layout).missing == [(1, 1)]


def test_missing_shards_are_counted_by_shard_and_by_view(small: Any, store: Path) -> None:
    storage = open_storage(store)
    for name in ("0/0", "1/2", "1/1"):
        (store / f"heatmaps/receipts/{name}.json").unlink()
    present = coverage(storage, small.layout)
    assert (present.missing, present.complete_views) == ([(0, 0), (1, 1), (1, 2)], 0)
    with pytest.raises(ValueError, match=r"3 of 6 shards .* 0 of 2") as caught:
        check_complete(storage, small.layout, "w")
    assert "store.views" not in str(caught.value)  # there is no complete view to train on
    assert coverage(storage, small.layout, views=[1]).missing == [(1, 1), (1, 2)]
    assert not coverage(storage, small.layout, views=[]).missing


def test_fewer_views_are_complete_while_later_ones_are_written(small: Any, store: Path) -> None:
    writer = small.open(store, views=4)
    small.write(writer, [(2, 1), (3, 0)])
    assert coverage(writer.storage, writer.layout).complete_views == 2
    check_complete(writer.storage, small.layout, "w")


def test_damage_within_a_file_of_the_right_size_is_refused_by_the_reader(
    small: Any, store: Path
) -> None:
    before = small.content(store)
    encoded = bytearray(before[HEATMAPS])
    encoded[-1] ^= 1
    (store / HEATMAPS).write_bytes(encoded)
    assert coverage(open_storage(store), small.layout).missing == []
    with pytest.raises(ValueError, match="view 1 of sample 8"):
        StoreReader(open_storage(store), small.layout).read(1, 8)
    small.write(small.open(store), [(1, 2)]).finish()
    assert small.content(store) == before


def test_errors_are_summed_up_as_maxima_and_means_over_samples(small: Any, tmp_path: Path) -> None:
    writer = small.open(tmp_path / "heatmaps.zarr", views=1)
    assert writer.coverage().encoding_error() == {}
    for shard, (largest, mean) in enumerate([(0.02, 1.0), (0.04, 2.0), (0.01, 6.0)]):
        rows = writer.layout.rows(shard)
        writer.write(small.shard(0, rows, shard, max_error=largest, mean_peak=mean))
    # 4, 4 and 2 samples.
    expected = pytest.approx({"max_error": 0.04, "mean_peak": (4 * 1 + 4 * 2 + 2 * 6) / 10})
    assert writer.coverage().encoding_error() == expected
    writer.finish()
    manifest = read_manifest(writer.storage)
    assert manifest.pop("encoding_error") == expected
    assert manifest.pop("audit") == {
        "views": 1,
        "samples": 10,
        "shards": 3,
        "bytes": writer.coverage().bytes(),
    }
    assert manifest == small.manifest()


def test_a_layout_of_more_samples_lacks_the_added_shards(small: Any, whole: Path) -> None:
    layout = replace(small.layout, segments=(10, 1))
    assert coverage(open_storage(whole), layout).missing == [(0, 3), (1, 3)]


# The audit: readers need not check every shard again


def test_only_some_shards_of_an_audited_store_are_checked(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_module, "SHARDS_CHECKED", 2)  # (0, 0) and (1, 0)
    (store / RECEIPT).unlink()
    check_complete(open_storage(store), small.layout, "w")
    (store / "heatmaps/receipts/1/0.json").unlink()
    with pytest.raises(ValueError, match="4 of 6 shards"):
        check_complete(open_storage(store), small.layout, "w")


def test_an_audit_ends_when_a_shard_is_written(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_module, "SHARDS_CHECKED", 2)
    before = small.content(store)
    writer = small.open(store)
    small.write(writer, [(0, 1)])
    assert "audit" not in read_manifest(writer.storage)
    (store / RECEIPT).unlink()
    with pytest.raises(ValueError, match="5 of 6 shards"):
        check_complete(writer.storage, small.layout, "w")
    assert "audit" not in read_manifest(writer.storage)
    small.write(writer).finish()
    assert small.content(store) == before


def test_an_audit_does_not_cover_more_views_or_samples(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_module, "SHARDS_CHECKED", 0)
    small.open(store, views=3, samples=small.samples(11))
    check_complete(open_storage(store), small.layout, "w")
    for larger in ({"views": 3}, {"segments": (10, 1)}):
        with pytest.raises(ValueError, match="is incomplete"):
            check_complete(open_storage(store), replace(small.layout, **larger), "w")
    fewer = replace(small.layout, views=1)
    assert shard_bytes(open_storage(store), fewer) == coverage(open_storage(store), fewer).bytes()
