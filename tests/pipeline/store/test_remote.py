"""Stores behind a URL: the same bytes, resume and refusals as on disk, against a real S3 server.

The server is moto's, in a thread of this process. The toy store has 2 views of 3 shards.
"""

from __future__ import annotations

import gc
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
from fpd.pipeline.store import Files, StoreReader, coverage, files_at, stored_layout
from fpd.pipeline.store.schema import ARRAYS, receipt_name, shard_name
from fpd.pipeline.store.storage import LocalFiles, RemoteFiles
from fpd.pipeline.training.dataset import DistillationViews
from fpd.pipeline.workdir import WorkDir
from fpd.stages import evaluate, heatmaps, student

WHY = "an S3 server and client come with `pip install -e .[dev]`"
s3fs = pytest.importorskip("s3fs", reason=WHY)
server = pytest.importorskip("moto.server", reason=WHY)
aiobotocore_client = pytest.importorskip("aiobotocore.client", reason=WHY)

CPU = torch.device("cpu")
SECRET = "not-to-be-kept"
BUCKETS = (f"bucket-{i}" for i in count())
SHARD_REQUESTS = {"PutObject": len(ARRAYS) + 1, "DeleteObject": 1}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The URL of a running S3 server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
    s3 = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    host, port = s3.get_host_and_port()
    yield f"http://{host}:{port}"
    s3.stop()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No setting of whoever runs the tests, and no client with earlier ones."""
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
    """Where a store may be put: a new bucket, and all that it takes to write there."""
    environment.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    environment.setenv("AWS_ACCESS_KEY_ID", "evaluation")
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    bucket = next(BUCKETS)
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/some/run.zarr"


@pytest.fixture
def filled(url: str, toy_work: Path) -> Files:
    """A whole remote store, to damage."""
    files = files_at(url)
    for name, content in objects(WorkDir(toy_work).store).items():
        files.write(name, content)
    return files


def objects(location: Path | str) -> dict[str, bytes]:
    """Every object of a store."""
    files = files_at(location)
    return {name: files.read(name) for name in files.sizes("")}


def at(recipe: Recipe, location: Any, *changes: str) -> Recipe:
    """A recipe with its store elsewhere."""
    overrides = [f'store.location="{location}"', *changes]
    return apply_overrides(recipe.model_dump(mode="json"), overrides)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Requests to the server, by kind, as they are made."""
    found: Counter[str] = Counter()
    client = aiobotocore_client.AioBaseClient
    call = client._make_api_call

    async def pluralize(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        found[method] += 1
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(client, "_make_api_call", pluralize)
    return found


# The stages


def test_a_remote_store_and_its_student_are_those_of_a_local_one(
    url: str, work: WorkDir, toy_recipe: Recipe
) -> None:
    recipe = at(toy_recipe, url)
    assert heatmaps.run(work, recipe, CPU)["written"] == 6
    assert objects(url) == objects(work.store)
    remote = student.run(work, recipe, CPU)
    local = student.run(WorkDir(work.root), toy_recipe, CPU, name="local")
    assert remote["result"]["weights_sha256"] == local["result"]["weights_sha256"]
    bill = evaluate.run(work, recipe, CPU)["store"]
    local_files = files_at(work.store)
    assert bill["bytes"] == coverage(local_files, stored_layout(local_files)).bytes()


@pytest.mark.parametrize("puts", [4, 9, 12, 37])
def test_a_lost_connection_is_gone_on_from_by_the_same_command(
    url: str, work: WorkDir, toy_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    write, done = RemoteFiles.write, count()

    def write_some(self: RemoteFiles, name: str, content: bytes) -> None:
        if next(done) >= puts:
            raise OSError(5, "the connection is lost", url)
        write(self, name, content)

    recipe = at(toy_recipe, url)
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFiles, "write", write_some)
        with pytest.raises(OSError, match="the connection is lost"):
            heatmaps.run(work, recipe, CPU)
    assert len(objects(url)) == puts
    # Seven objects make an empty store, five each shard.
    assert heatmaps.run(work, recipe, CPU)["written"] == 6 - max(0, puts - 7) // 5
    assert objects(url) == objects(work.store)


def test_more_views_extend_it_to_the_bytes_of_one_made_so_large(
    filled: RemoteFiles, work: WorkDir, toy_recipe: Recipe, tmp_path: Path
) -> None:
    assert heatmaps.run(work, at(toy_recipe, filled.url, "store.views=3"), CPU)["written"] == 3
    large = tmp_path / "large.zarr"
    heatmaps.run(work, at(toy_recipe, large, "store.views=3"), CPU)
    assert objects(filled.url) == objects(large)


def missing(files: Files, name: str) -> None:
    files.delete(name)


def truncated(files: Files, name: str) -> None:
    files.write(name, files.read(name)[:100])


def emptied(files: Files, name: str) -> None:
    files.write(name, b"")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (missing, shard_name(ARRAYS[0], 1, 2)),
        (truncated, shard_name(ARRAYS[0], 1, 2)),
        (truncated, receipt_name(1, 2)),
        (emptied, receipt_name(1, 2)),
    ],
)
def test_a_damaged_object_is_found_and_mended(
    filled: RemoteFiles,
    work: WorkDir,
    toy_recipe: Recipe,
    damage: Callable[[Files, str], None],
    name: str,
) -> None:
    damage(filled, name)
    assert coverage(filled, stored_layout(filled)).missing == [(1, 2)]
    recipe = at(toy_recipe, filled.url)
    with pytest.raises(ValueError, match=r"incomplete: 5 of 6 shards .*fpd cache-heatmaps"):
        student.run(work, recipe, CPU)
    assert heatmaps.run(work, recipe, CPU)["written"] == 1
    assert objects(filled.url) == objects(work.store)


def test_a_store_made_for_something_else_is_refused_and_overwritten_on_request(
    filled: RemoteFiles, work: WorkDir, toy_recipe: Recipe
) -> None:
    files_at(filled.url + "-2").write("zarr.json", b"a neighbor")
    recipe = at(toy_recipe, filled.url, "store.max_error=0.2")
    for stage in (heatmaps, student):
        with pytest.raises(ValueError, match=r"does not fit this run: max_error.*--overwrite"):
            stage.run(work, recipe, CPU)
    assert heatmaps.run(work, recipe, CPU, overwrite=True)["written"] == 6
    assert files_at(filled.url + "-2").read("zarr.json") == b"a neighbor"


def test_a_removal_that_stops_midway_leaves_a_store_to_remove(
    filled: RemoteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFiles, "delete", lambda self, name: None)
        filled.remove()
    assert (list(filled.sizes("")), filled.exists()) == (["zarr.json"], True)
    filled.remove()
    assert (filled.sizes(""), filled.exists()) == ({}, False)


def test_credentials_are_in_no_file(url: str, work: WorkDir) -> None:
    said = CliRunner().invoke(main, ["cache-heatmaps", "-w", str(work.root), "--store", url])
    assert said.exit_code == 0, said.output
    files = [path.read_bytes() for path in work.root.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in [*files, *objects(url).values()])


# Reading


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers_read_it_though_their_parent_has_it_open(
    filled: RemoteFiles, work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet, context: str
) -> None:
    layout = stored_layout(filled)
    remote, local = (StoreReader(files, layout) for files in (filled, files_at(work.store)))
    views = DistillationViews(stored_views(toy_recipe, toy_samples), remote)
    keys = [(i, view) for view in range(2) for i in range(18)]
    remote.read(view=0, index=0)
    loader = DataLoader(views, batch_sampler=[keys], num_workers=1, multiprocessing_context=context)
    (batch,) = loader
    wanted = np.stack([local.read(view, i).coefficients for i, view in keys])
    np.testing.assert_array_equal(batch["coefficients"], wanted)
    np.testing.assert_array_equal(remote.read(view=1, index=17).coefficients, wanted[-1])


def test_a_store_of_another_layout_is_read_through_zarr(
    url: str, work: WorkDir, tmp_path: Path
) -> None:
    layout = stored_layout(files_at(work.store))
    source = zarr.open_group(work.store, mode="r")
    target = zarr.create_group(tmp_path / "other.zarr", attributes=dict(source.attrs))
    for name in ARRAYS:
        target.create_array(name, data=source[name][:], chunks=(2, *source[name].shape[1:]))
    for name, content in objects(tmp_path / "other.zarr").items():
        files_at(url).write(name, content)
    remote, local = (StoreReader(files_at(place), layout) for place in (url, work.store))
    for view, index in [(0, 0), (1, 17)]:
        for found, wanted in zip(remote.read(view, index), local.read(view, index), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_an_object_larger_than_expected_is_refused_unread(filled: RemoteFiles) -> None:
    filled.write("large", bytes(1000))
    assert filled.read("large", limit=1000) == bytes(1000)
    with pytest.raises(ValueError, match="more than 999"):
        filled.read("large", limit=999)


def test_an_empty_object_that_marks_a_folder_is_none_of_a_store(url: str) -> None:
    system, root = fsspec.url_to_fs(url)
    system.pipe_file(f"{root}/", b"")
    assert files_at(url).sizes("") == {}


# Requests: each takes some hundredths of a second, and money


def test_a_shard_is_one_put_an_object(
    filled: RemoteFiles, work: WorkDir, toy_recipe: Recipe, requests: Counter[str]
) -> None:
    recipe = at(toy_recipe, filled.url)
    heatmaps.run(work, recipe, CPU)
    whole = Counter(requests)
    filled.delete(receipt_name(0, 1))
    requests.clear()
    heatmaps.run(work, recipe, CPU)
    # The audit is taken out of the manifest first: read twice, written once. The receipt that is
    # missing is not read before.
    more = Counter(SHARD_REQUESTS) + Counter(GetObject=2, PutObject=1)
    assert requests == whole + more - Counter(GetObject=1)


def test_coverage_lists_each_folder_once_and_reads_each_receipt_once(
    filled: RemoteFiles, requests: Counter[str]
) -> None:
    layout = stored_layout(filled)
    requests.clear()
    assert not coverage(filled, layout).missing
    assert requests == {"ListObjectsV2": 2 * (len(ARRAYS) + 1), "GetObject": 6}


def test_a_reader_gets_each_object_of_a_shard_once(
    filled: RemoteFiles, requests: Counter[str]
) -> None:
    reader = StoreReader(filled, stored_layout(filled))
    reader.read(view=0, index=0)
    requests.clear()
    for index in range(8, 16):
        reader.read(view=0, index=index)
    assert requests == {"GetObject": len(ARRAYS)}


# One clear sentence


def refused(work: WorkDir, command: str, location: str) -> str:
    """The one sentence that a command ends with."""
    words = [*command.split(), "-w", str(work.root), "--store", location]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 1, said.output
    assert isinstance(said.exception, SystemExit)
    (line,) = [line for line in said.output.splitlines() if line]
    return line


COMMANDS = pytest.mark.parametrize("command", ["cache-heatmaps", "run student", "evaluate"])


def test_a_bucket_that_is_not_there(url: str, work: WorkDir) -> None:
    said = refused(work, "cache-heatmaps", "s3://nowhere/run.zarr")
    assert "s3://nowhere/run.zarr" in said
    assert "bucket does not exist" in said
    said = refused(work, "run student", "s3://nowhere/run.zarr")
    assert "s3://nowhere/run.zarr is missing" in said


@COMMANDS
def test_no_credentials(
    url: str, environment: pytest.MonkeyPatch, work: WorkDir, command: str
) -> None:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    said = refused(work, command, url)
    assert url in said
    assert "Unable to locate credentials" in said


@COMMANDS
def test_no_server(url: str, environment: pytest.MonkeyPatch, work: WorkDir, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    said = refused(work, command, url)
    assert url in said
    assert "Could not connect to the endpoint URL" in said


def test_no_s3fs(monkeypatch: pytest.MonkeyPatch, work: WorkDir) -> None:
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    said = refused(work, "cache-heatmaps", "s3://bucket/run.zarr")
    assert "s3://bucket/run.zarr cannot be opened" in said
    assert "pip install fpd[s3]" in said


@pytest.mark.parametrize(
    ("location", "why"),
    [("nosuch://bucket/run.zarr", "Protocol not known"), ("s3://", "expected a place such as")],
)
def test_a_url_that_leads_nowhere(work: WorkDir, location: str, why: str) -> None:
    said = refused(work, "cache-heatmaps", location)
    assert location in said
    assert why in said


# Other URLs


def test_memory_holds_a_store(work: WorkDir, toy_recipe: Recipe) -> None:
    recipe = at(toy_recipe, "memory://here/run.zarr")
    try:
        assert heatmaps.run(work, recipe, CPU)["written"] == 6
        assert objects("memory://here/run.zarr") == objects(work.store)
        assert heatmaps.run(work, recipe, CPU, overwrite=True)["written"] == 6
        student.run(work, recipe, CPU)
    finally:
        fsspec.filesystem("memory").store.clear()


def test_a_file_url_is_a_path(work: WorkDir, toy_recipe: Recipe) -> None:
    files = files_at(f"file://{work.store}")
    assert isinstance(files, LocalFiles)
    assert files == files_at(work.store)
    assert heatmaps.run(work, at(toy_recipe, f"file://{work.store}"), CPU)["written"] == 0
