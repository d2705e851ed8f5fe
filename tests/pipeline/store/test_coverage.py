"""What counts as there: a shard whose receipt matches its files, and nothing else."""

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

from fpd.pipeline.store import StoreReader, check_complete, coverage, files_at, read_manifest
from fpd.pipeline.store.coverage import sealed

# The package has a function of this name.
coverage_module = import_module("fpd.pipeline.store.coverage")

RECEIPT = "heatmaps/receipts/1/2.json"
HEATMAPS = "heatmaps/c/1/2/0/0/0/0"


def test_a_whole_store_has_no_gaps(small: Any, whole: Path) -> None:
    files = files_at(whole)
    found = coverage(files, small.layout)
    assert (found.missing, found.total, len(found.receipts)) == ([], 6, 6)
    assert (found.whole_views, found.samples()) == (2, 20)
    check_complete(files, small.layout, Path("w"))
    shards = [
        data
        for name, data in small.content(whole).items()
        if "/c/" in name and not name.startswith("basis/")
    ]
    assert len(shards) == 24
    assert found.bytes() == sum(map(len, shards))


def edit_receipt(store: Path, change: Callable[[Any], Any], *, seal: bool = True) -> None:
    """Put another receipt in place, sealed as if it had been written so."""
    receipt = change(json.loads((store / RECEIPT).read_text()))
    if seal and isinstance(receipt, dict):
        (store / RECEIPT).write_bytes(sealed(receipt))
    else:
        (store / RECEIPT).write_text(json.dumps(receipt))


def grow(receipt: dict[str, Any], name: str) -> dict[str, Any]:
    receipt["arrays"][name]["bytes"] += 1
    return receipt


def without(receipt: dict[str, Any], *keys: str) -> dict[str, Any]:
    at = receipt
    for key in keys[:-1]:
        at = at[key]
    del at[keys[-1]]
    return receipt


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no receipt": lambda s: (s / RECEIPT).unlink(),
    "a receipt of another size": lambda s: edit_receipt(s, lambda r: grow(r, "heatmaps")),
    "a receipt of another size of peaks": lambda s: edit_receipt(s, lambda r: grow(r, "peaks")),
    "a receipt without an array": lambda s: edit_receipt(
        s, lambda r: without(r, "arrays", "steps")
    ),
    "a receipt without arrays": lambda s: edit_receipt(s, lambda r: without(r, "arrays")),
    "a receipt without its count": lambda s: edit_receipt(s, lambda r: without(r, "samples")),
    "a receipt of another count": lambda s: edit_receipt(s, lambda r: r | {"samples": 4}),
    "a receipt without its errors": lambda s: edit_receipt(
        s, lambda r: without(r, "encoding_error")
    ),
    "a receipt changed by hand": lambda s: edit_receipt(
        s, lambda r: r | {"encoding_error": {"max_error": 0.01}}, seal=False
    ),
    "a receipt that is a list": lambda s: edit_receipt(s, lambda r: [r]),
    "a receipt of nothing": lambda s: edit_receipt(s, lambda _: None),
    "an empty receipt": lambda s: (s / RECEIPT).write_bytes(b""),
    "half a receipt": lambda s: (s / RECEIPT).write_bytes((s / RECEIPT).read_bytes()[:100]),
    "a receipt of zeros": lambda s: (s / RECEIPT).write_bytes(b"\0" * 300),
    "a receipt of noise": lambda s: (s / RECEIPT).write_bytes(bytes(range(128, 256)) * 4),
    "a huge receipt": lambda s: (s / RECEIPT).write_bytes(
        (s / RECEIPT).read_bytes() + b" " * (1 << 16)
    ),
    "an endlessly nested receipt": lambda s: (s / RECEIPT).write_bytes(b"[" * 60_000),
    "a folder for a receipt": lambda s: ((s / RECEIPT).unlink(), (s / RECEIPT).mkdir()),
    "no heatmaps": lambda s: (s / HEATMAPS).unlink(),
    "no steps": lambda s: (s / "steps/c/1/2/0").unlink(),
    "no peaks": lambda s: (s / "peaks/c/1/2/0").unlink(),
    "no parameters": lambda s: (s / "parameters/c/1/2/0").unlink(),
    "truncated heatmaps": lambda s: os.truncate(s / HEATMAPS, 30),
    "empty heatmaps": lambda s: os.truncate(s / HEATMAPS, 0),
    "truncated parameters": lambda s: os.truncate(s / "parameters/c/1/2/0", 10),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_missing_is_found_named_and_made_again(
    small: Any, store: Path, damage: str
) -> None:
    before, files = small.content(store), files_at(store)
    DAMAGES[damage](store)
    assert coverage(files, small.layout).missing == [(1, 2)]
    with pytest.raises(
        ValueError,
        match=r"is incomplete: 5 of 6 shards are there, the first 1 of 2 views are whole; .*"
        r"`fpd cache-heatmaps -w some/where`, or train on the whole ones with "
        r"`--set store\.views=1`",
    ):
        check_complete(files, small.layout, Path("some/where"))
    if damage == "a folder for a receipt":
        (store / RECEIPT).rmdir()
    small.write(small.open(store)).finish()
    assert small.content(store) == before


def test_a_receipt_of_another_shard_does_not_vouch(small: Any, store: Path) -> None:
    """Copied over a shard whose files have the same sizes."""
    for name in (*(f"{array}/c/1/{{}}" for array in small.arrays[1:]), "heatmaps/c/1/{}"):
        shutil.rmtree(store / name.format(1))
        shutil.copytree(store / name.format(0), store / name.format(1))
    first, second = (store / f"heatmaps/receipts/1/{shard}.json" for shard in (0, 1))
    shutil.copy(first, second)
    assert coverage(files_at(store), small.layout).missing == [(1, 1)]


def test_gaps_are_counted_by_shard_and_by_view(small: Any, store: Path) -> None:
    files = files_at(store)
    for name in ("0/0", "1/2", "1/1"):
        (store / f"heatmaps/receipts/{name}.json").unlink()
    found = coverage(files, small.layout)
    assert (found.missing, found.whole_views) == ([(0, 0), (1, 1), (1, 2)], 0)
    with pytest.raises(ValueError, match="3 of 6 shards are there, the first 0 of 2") as caught:
        check_complete(files, small.layout, Path("w"))
    assert "store.views" not in str(caught.value)  # there is no whole view to train on
    assert coverage(files, small.layout, views=[1]).missing == [(1, 1), (1, 2)]
    assert not coverage(files, small.layout, views=[]).missing


def test_a_student_of_fewer_views_is_served_while_later_ones_are_written(
    small: Any, store: Path
) -> None:
    writer = small.open(store, views=4)
    small.write(writer, [(2, 1), (3, 0)])
    found = coverage(writer.files, writer.layout)
    assert found.whole_views == 2
    check_complete(writer.files, small.layout, Path("w"))


def test_damage_that_sizes_do_not_show_is_refused_by_the_reader(small: Any, store: Path) -> None:
    before = small.content(store)
    encoded = bytearray(before[HEATMAPS])
    encoded[-1] ^= 1
    (store / HEATMAPS).write_bytes(encoded)
    assert coverage(files_at(store), small.layout).missing == []
    with pytest.raises(ValueError, match="view 1 of sample 8"):
        StoreReader(files_at(store), small.layout).read(1, 8)
    small.write(small.open(store), [(1, 2)]).finish()
    assert small.content(store) == before


def test_measured_errors_are_maxima_and_means_over_samples(small: Any, tmp_path: Path) -> None:
    writer = small.open(tmp_path / "heatmaps.zarr", views=1)
    assert writer.coverage().measured() == {}
    for shard, (largest, mean) in enumerate([(0.02, 1.0), (0.04, 2.0), (0.01, 6.0)]):
        rows = writer.layout.rows(shard)
        writer.write(small.shard(0, rows, shard, max_error=largest, mean_peak=mean))
    # 4, 4 and 2 people.
    expected = pytest.approx({"max_error": 0.04, "mean_peak": (4 * 1 + 4 * 2 + 2 * 6) / 10})
    assert writer.coverage().measured() == expected
    writer.finish()
    manifest = read_manifest(writer.files)
    assert manifest.pop("encoding_error") == expected
    assert manifest.pop("audit") == {
        "views": 1,
        "samples": 10,
        "shards": 3,
        "bytes": writer.coverage().bytes(),
    }
    assert manifest == small.manifest()


def test_a_layout_of_more_samples_misses_the_added_shards(small: Any, whole: Path) -> None:
    layout = replace(small.layout, segments=(10, 1))
    assert coverage(files_at(whole), layout).missing == [(0, 3), (1, 3)]


# The audit: what `finish` saw saves readers from looking at every shard again


def test_of_an_audited_store_some_shards_are_looked_at(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_module, "SHARDS_LOOKED_AT", 2)  # (0, 0) and (1, 0)
    (store / RECEIPT).unlink()
    check_complete(files_at(store), small.layout, "w")
    (store / "heatmaps/receipts/1/0.json").unlink()
    with pytest.raises(ValueError, match="4 of 6 shards"):
        check_complete(files_at(store), small.layout, "w")


def test_an_audit_ends_when_a_shard_is_written_again(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_module, "SHARDS_LOOKED_AT", 2)
    before = small.content(store)
    writer = small.open(store)
    small.write(writer, [(0, 1)])
    assert "audit" not in read_manifest(writer.files)
    (store / RECEIPT).unlink()
    with pytest.raises(ValueError, match="5 of 6 shards"):
        check_complete(writer.files, small.layout, "w")
    assert "audit" not in read_manifest(writer.files)
    small.write(writer).finish()
    assert small.content(store) == before


def test_an_audit_of_fewer_views_or_samples_is_none_of_more(
    small: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_module, "SHARDS_LOOKED_AT", 0)
    small.open(store, views=3, people=small.people(11))
    check_complete(files_at(store), small.layout, "w")
    for more in ({"views": 3}, {"segments": (10, 1)}):
        with pytest.raises(ValueError, match="is incomplete"):
            check_complete(files_at(store), replace(small.layout, **more), "w")
