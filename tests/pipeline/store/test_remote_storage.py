"""Stores behind a URL: the same bytes, resuming and refusals as on disk, with an S3 server.

The server is moto's, in a thread of this process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from torch.utils.data import DataLoader

from fpd.cli import main
from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, apply_overrides, stored_views
from fpd.pipeline.store import (
    StoreReader,
    StoreWriter,
    check_complete,
    coverage,
    open_storage,
    stored_layout,
)
from fpd.pipeline.store.disk_cache import DiskCache
from fpd.pipeline.store.local_storage import LocalStorage
from fpd.pipeline.store.remote_storage import RemoteStorage
from fpd.pipeline.store.schema import ARRAYS, receipt_name, shard_name
from fpd.pipeline.training.dataset import DistillationViews
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student

WHY = "an S3 server and client come with `pip install -e .[dev]`"
s3fs = pytest.importorskip("s3fs", reason=WHY)
server = pytest.importorskip("moto.server", reason=WHY)
aiobotocore_client = pytest.importorskip("aiobotocore.client", reason=WHY)

CPU = torch.device("cpu")
SECRET = "not-to-be-written"
BUCKETS = (f"bucket-{i}" for i in count())
SHARD_REQUESTS = {"PutObject": len(ARRAYS) + 1, "DeleteObject": 1}
EMPTY_STORE_OBJECTS = 7  # metadata of the group and its five arrays, and the basis


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The URL of a running S3 server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it logs every request
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    yield f"http://{host}:{port}"
    s3.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No settings of the user who runs the tests, and no client with earlier settings."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unclosed client session", ResourceWarning)
        gc.collect()  # zarr-python leaves its sessions to the garbage collector


@pytest.fixture
def url(endpoint: str, environment: pytest.MonkeyPatch) -> str:
    """A location in a new bucket, with all settings that are needed to write there."""
    environment.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    environment.setenv("AWS_ACCESS_KEY_ID", "evaluation")
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    bucket = next(BUCKETS)
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/some/run.zarr"


def upload(path: Path, url: str) -> RemoteStorage:
    storage = RemoteStorage(url)
    for name, content in objects(path).items():
        storage.write(name, content)
    return storage


@pytest.fixture
def remote(url: str, whole: Path) -> RemoteStorage:
    """A complete small store behind a URL, to damage."""
    return upload(whole, url)


def objects(location: Path | str) -> dict[str, bytes]:
    """Every object of a store."""
    storage = open_storage(location)
    return {name: storage.read(name) for name in storage.sizes("")}


def with_store(recipe: Recipe, location: Any, *changes: str) -> Recipe:
    """A recipe with its store at a location."""
    overrides = [f'store.location="{location}"', *changes]
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of requests to the server, by kind."""
    counts: Counter[str] = Counter()
    client = aiobotocore_client.AioBaseClient
    original = client._make_api_call

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        counts[method] += 1
        return await original(self, method, *args, **kwargs)

    monkeypatch.setattr(client, "_make_api_call", counted)
    return counts


# The stages


def test_a_remote_store_equals_a_local_one_and_credentials_are_written_nowhere(
    url: str, work: WorkDir
) -> None:
    result = CliRunner().invoke(main, ["cache-heatmaps", "-w", str(work.root), "--store", url])
    assert result.exit_code == 0, result.output
    assert objects(url) == objects(work.store)
    files = [path.read_bytes() for path in work.root.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in [*files, *objects(url).values()])


@pytest.mark.slow
def test_a_student_of_a_remote_store_equals_that_of_a_local_one(
    url: str, work: WorkDir, toy_recipe: Recipe
) -> None:
    upload(work.store, url)
    recipe = with_store(toy_recipe, url)
    of_remote = student.run(work, recipe, CPU)
    of_local = student.run(work, toy_recipe, CPU, name="local")
    assert of_remote["result"]["weights_sha256"] == of_local["result"]["weights_sha256"]
    local = open_storage(work.store)
    expected = coverage(local, stored_layout(local)).bytes()
    assert evaluate.run(work, recipe, CPU)["store"]["bytes"] == expected


@pytest.mark.slow
def test_a_student_of_a_remote_portable_store_needs_a_bounded_cache_only(
    url: str, portable_work: WorkDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(portable_work.store, url)
    store_bytes = sum(map(len, objects(url).values()))
    cache, limit = tmp_path / "cache", store_bytes // 3
    largest = 0
    add = DiskCache.add

    def watched(self: DiskCache, path: Path, content: bytes) -> bool:
        nonlocal largest
        kept = add(self, path, content)
        largest = max(largest, sum(file.stat().st_size for file in cache.glob("*/*/*")))
        return kept

    monkeypatch.setattr(DiskCache, "add", watched)
    options = ["--store", url, "--cache-dir", str(cache), "--cache-size", f"{limit}"]
    options += ["--set", "loader.shuffle_shards=2"]
    for location, work in ((url, tmp_path / "remote"), (portable_work.store, tmp_path / "local")):
        options[1] = str(location)
        result = CliRunner().invoke(main, ["run", "student", "-w", str(work), *options])
        assert result.exit_code == 0, result.output
    assert 0 < largest <= limit
    remote, local = (WorkDir(tmp_path / name).student("student") for name in ("remote", "local"))
    assert remote.weights.read_bytes() == local.weights.read_bytes()


def test_a_store_in_memory(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = with_store(toy_recipe, "memory://here/run.zarr")
    try:
        assert heatmaps.run(work, recipe, CPU)["written"] == 6
        assert objects("memory://here/run.zarr") == objects(work.store)
        assert heatmaps.run(work, recipe, CPU, overwrite=True)["written"] == 6
        student.run(work, recipe, CPU)
    finally:
        fsspec.filesystem("memory").store.clear()


def test_a_file_url_is_a_path(work: WorkDir, toy_recipe: Recipe) -> None:
    storage = open_storage(f"file://{work.store}")
    assert isinstance(storage, LocalStorage)
    assert storage == open_storage(work.store)
    recipe = with_store(toy_recipe, f"file://{work.store}")
    assert heatmaps.run(work, recipe, CPU)["written"] == 0


# Writing


@pytest.mark.parametrize("puts", [4, 13])
def test_writing_resumes_after_a_lost_connection(
    small: Any, url: str, whole: Path, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    write, writes = RemoteStorage.write, count()

    def write_some(self: RemoteStorage, name: str, content: bytes) -> None:
        if next(writes) >= puts:
            raise OSError(5, "the connection is lost", url)
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStorage, "write", write_some)
        with pytest.raises(OSError, match="the connection is lost"):
            small.write(small.open(url))
    assert len(objects(url)) == puts
    writer = small.open(url)
    written = max(0, puts - EMPTY_STORE_OBJECTS) // SHARD_REQUESTS["PutObject"]
    assert len(writer.coverage().missing) == 6 - written
    small.write(writer).finish()
    assert objects(url) == objects(whole)


def test_an_extended_store_equals_one_made_at_once(
    small: Any, remote: RemoteStorage, tmp_path: Path
) -> None:
    writer = small.open(remote.url, views=3)
    assert writer.coverage().missing == [(2, 0), (2, 1), (2, 2)]
    small.write(writer).finish()
    small.write(small.open(tmp_path / "large.zarr", views=3)).finish()
    extended, at_once = objects(remote.url), objects(tmp_path / "large.zarr")
    assert extended.keys() == at_once.keys()
    for name, content in extended.items():
        as_stored: Callable[[bytes], Any] = json.loads if name.endswith("zarr.json") else bytes
        assert as_stored(content) == as_stored(at_once[name])


@pytest.mark.parametrize(
    ("name", "kept_bytes"), [(shard_name(ARRAYS[0], 1, 2), 100), (receipt_name(1, 2), None)]
)
def test_a_damaged_object_is_found_and_written_again(
    small: Any, remote: RemoteStorage, whole: Path, name: str, kept_bytes: int | None
) -> None:
    content = remote.read(name)
    remote.delete(name)
    if kept_bytes is not None:
        remote.write(name, content[:kept_bytes])
    assert coverage(remote, small.layout).missing == [(1, 2)]
    with pytest.raises(ValueError, match=r"5 of 6 shards .*fpd cache-heatmaps"):
        check_complete(remote, small.layout, "w")
    small.write(small.open(remote.url)).finish()
    assert objects(remote.url) == objects(whole)


def test_a_store_made_for_another_run_is_refused(small: Any, remote: RemoteStorage) -> None:
    manifest = small.manifest() | {"max_error": 0.2}
    with pytest.raises(ValueError, match=r"does not fit this run: max_error.*--overwrite"):
        StoreWriter(remote, manifest, 2, "w")


def test_removing_a_store_leaves_its_neighbors(remote: RemoteStorage) -> None:
    neighbor = RemoteStorage(remote.url + "-2")
    neighbor.write("zarr.json", b"a neighbor")
    remote.remove()
    assert remote.sizes("") == {}
    assert neighbor.read("zarr.json") == b"a neighbor"


def test_an_interrupted_removal_leaves_a_store_to_remove(
    remote: RemoteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RemoteStorage, "delete", lambda self, name: None)
        remote.remove()
    assert (list(remote.sizes("")), remote.exists()) == (["zarr.json"], True)
    remote.remove()
    assert (remote.sizes(""), remote.exists()) == ({}, False)


# Reading


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loader_workers_read_a_store_that_their_parent_has_open(
    url: str, toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, context: str
) -> None:
    path = WorkDir(toy_work).store
    storage = upload(path, url)
    layout = stored_layout(storage)
    remote, local = StoreReader(storage, layout), StoreReader(open_storage(path), layout)
    views = DistillationViews(stored_views(toy_recipe, toy_samples), remote)
    keys = [(i, view) for view in range(2) for i in range(18)]
    remote.read(view=0, index=0)
    loader = DataLoader(views, batch_sampler=[keys], num_workers=1, multiprocessing_context=context)
    (batch,) = loader
    expected = np.stack([local.read(view, i).coefficients for i, view in keys])
    np.testing.assert_array_equal(batch["coefficients"], expected)
    np.testing.assert_array_equal(remote.read(view=1, index=17).coefficients, expected[-1])


def test_a_store_of_another_layout_is_read_through_zarr(
    small: Any, url: str, whole: Path, tmp_path: Path
) -> None:
    source = zarr.open_group(whole, mode="r")
    target = zarr.create_group(tmp_path / "other.zarr", attributes=dict(source.attrs))
    for name in ARRAYS:
        target.create_array(name, data=source[name][:], chunks=(2, *source[name].shape[1:]))
    storage = upload(tmp_path / "other.zarr", url)
    reader = StoreReader(storage, small.layout, check_digests=False)
    for view, index in [(0, 0), (1, 9)]:
        small.check(reader.read(view, index), view, index)


def test_an_object_larger_than_the_limit_is_refused(remote: RemoteStorage) -> None:
    remote.write("large", bytes(1000))
    assert remote.read("large", limit=1000) == bytes(1000)
    with pytest.raises(ValueError, match="more than 999"):
        remote.read("large", limit=999)


def test_an_empty_object_that_represents_a_folder_is_ignored(url: str) -> None:
    system, root = fsspec.url_to_fs(url)
    system.pipe_file(f"{root}/", b"")
    assert open_storage(url).sizes("") == {}


# Requests: each takes some hundredths of a second, and costs money


def test_a_shard_takes_one_put_per_object(
    small: Any, remote: RemoteStorage, requests: Counter[str]
) -> None:
    writer = small.open(remote.url)
    requests.clear()
    small.write(writer, [(0, 1)])
    # The audit is removed from the manifest first, which is read twice and written once.
    assert requests == Counter(SHARD_REQUESTS) + Counter(GetObject=2, PutObject=1)
    requests.clear()
    small.write(writer, [(0, 2)])
    assert requests == SHARD_REQUESTS


def test_coverage_lists_each_folder_once_and_reads_each_receipt_once(
    small: Any, remote: RemoteStorage, requests: Counter[str]
) -> None:
    requests.clear()
    assert not coverage(remote, small.layout).missing
    assert requests == {"ListObjectsV2": 2 * (len(ARRAYS) + 1) + 1, "GetObject": 6}


def test_receipts_are_read_concurrently_but_not_without_limit(
    small: Any, remote: RemoteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = aiobotocore_client.AioBaseClient
    original, in_flight, most = client._make_api_call, 0, 0

    async def slow(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.2)
        in_flight -= 1
        return await original(self, method, *args, **kwargs)

    monkeypatch.setattr(client, "_make_api_call", slow)
    monkeypatch.setattr("fpd.pipeline.store.remote_storage.MAX_IN_FLIGHT", 2)
    assert not coverage(remote, small.layout).missing
    assert most == 2


def test_many_objects_are_read_at_a_time(small: Any, remote: RemoteStorage) -> None:
    names = [receipt_name(0, 0), "missing", receipt_name(1, 2), ARRAYS[0]]
    contents = [remote.read(names[0]), None, remote.read(names[2]), None]
    assert remote.read_many(names, 10**6) == contents
    assert remote.read_many(names, len(contents[0] or b"") - 1)[0] is None
    assert remote.object_sizes(names) == {names[i]: len(contents[i] or b"") for i in (0, 2)}
    assert remote.read_many([], 1) == []


def test_a_lost_connection_leaves_receipts_unread(
    small: Any, remote: RemoteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(*_: Any, **__: Any) -> Any:
        raise OSError(5, "the connection is lost")

    monkeypatch.setattr(aiobotocore_client.AioBaseClient, "_make_api_call", lost)
    assert remote.read_many([receipt_name(0, 0)], 10**6) == [None]
    assert remote.object_sizes([receipt_name(0, 0)]) == {}


def test_a_cached_student_reads_each_object_once(
    url: str, work: WorkDir, toy_recipe: Recipe, requests: Counter[str], tmp_path: Path
) -> None:
    upload(work.store, url)
    recipe = with_store(toy_recipe, url, f'loader.cache_dir="{tmp_path / "cache"}"')
    of_cached = student.run(work, recipe, CPU, name="first")
    local = student.run(work, toy_recipe, CPU, name="local")
    assert of_cached["result"]["weights_sha256"] == local["result"]["weights_sha256"]
    assert len(list((tmp_path / "cache").glob("*/*/*"))) == 6 * len(ARRAYS)
    first = requests["GetObject"]
    requests.clear()
    student.run(work, recipe, CPU, name="second")
    assert requests["GetObject"] == first - 6 * len(ARRAYS)


def test_a_reader_gets_each_object_of_a_shard_once(
    small: Any, remote: RemoteStorage, requests: Counter[str]
) -> None:
    reader = StoreReader(remote, small.layout)
    reader.read(view=0, index=0)
    requests.clear()
    for index in range(4, 8):
        reader.read(view=0, index=index)
    assert requests == {"GetObject": len(ARRAYS) + 1}  # and its receipt


# Refusals, in one line each


def refusal(work: WorkDir, command: str, location: str) -> str:
    """The only line that a command prints."""
    arguments = [*command.split(), "-w", str(work.root), "--store", location]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.output.splitlines() if line]
    return line


def test_a_missing_bucket(url: str, work: WorkDir) -> None:
    message = refusal(work, "cache-heatmaps", "s3://nowhere/run.zarr")
    assert "s3://nowhere/run.zarr" in message
    assert "bucket does not exist" in message
    message = refusal(work, "run student", "s3://nowhere/run.zarr")
    assert "s3://nowhere/run.zarr is missing" in message


def test_missing_credentials(url: str, environment: pytest.MonkeyPatch, work: WorkDir) -> None:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    message = refusal(work, "cache-heatmaps", url)
    assert url in message
    assert "Unable to locate credentials" in message


def test_an_unreachable_server(url: str, environment: pytest.MonkeyPatch, work: WorkDir) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    message = refusal(work, "run student", url)
    assert url in message
    assert "Could not connect to the endpoint URL" in message


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, work: WorkDir) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    message = refusal(work, "cache-heatmaps", "s3://bucket/run.zarr")
    assert "s3://bucket/run.zarr cannot be opened" in message
    assert "pip install 'fast-pose-distillation[s3]'" in message


@pytest.mark.parametrize(
    ("location", "reason"),
    [("nosuch://bucket/run.zarr", "Protocol not known"), ("s3://", "expected a location such as")],
)
def test_a_url_that_cannot_be_a_store(work: WorkDir, location: str, reason: str) -> None:
    message = refusal(work, "cache-heatmaps", location)
    assert location in message
    assert reason in message
