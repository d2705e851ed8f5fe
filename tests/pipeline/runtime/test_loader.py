"""Data loaders over batches of keys: order, errors, and an end that does end."""

from __future__ import annotations

import errno
import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fpd.data.samples import SampleSet
from fpd.pipeline.config.recipe import Recipe, stored_views
from fpd.pipeline.runtime.loader import in_batches, make_loader
from fpd.pipeline.store import StoreReader, open_storage, stored_layout
from fpd.pipeline.training.dataset import DistillationViews
from fpd.pipeline.training.sampler import EpochSampler
from fpd.pipeline.workdir import WorkDir

CPU = torch.device("cpu")


def distillation_views(work: Path, recipe: Recipe, samples: SampleSet) -> DistillationViews:
    storage = open_storage(WorkDir(work).store)
    store = StoreReader(storage, stored_layout(storage))
    return DistillationViews(stored_views(recipe, samples), store)


def test_batches_are_all_in_order() -> None:
    batches = in_batches(range(23), 10)
    assert [len(batch) for batch in batches] == [10, 10, 3]
    assert [index for batch in batches for index in batch] == list(range(23))


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_give_the_batches_in_order(
    toy_work: Path, toy_recipe: Recipe, toy_samples: SampleSet, workers: int
) -> None:
    dataset = distillation_views(toy_work, toy_recipe, toy_samples)
    sampler = EpochSampler(toy_samples, 8, 0, 2)
    loader = make_loader(dataset, sampler, CPU, workers=workers, prefetch=4)
    for epoch, start in ((0, 0), (1, 1), (1, 0)):
        sampler.set_epoch(epoch, start)
        batches = list(loader)
        assert [b["index"].tolist() for b in batches] == [[i for i, _ in b] for b in sampler]
        for batch, keys in zip(batches, sampler, strict=True):
            for name in ("coefficients", "crop"):
                expected = np.stack([dataset[key][name] for key in keys])
                np.testing.assert_array_equal(batch[name].numpy(), expected)
    assert {name: tensor.dtype for name, tensor in batches[0].items()} == {
        "crop": torch.uint8,
        "joints": torch.float32,
        "affine": torch.float64,
        "parameters": torch.float64,
        "index": torch.int64,
        "coefficients": torch.int8,
        "steps": torch.float16,
        "peaks": torch.float16,
        "flipped": torch.bool,
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reaches_the_training_process(
    work: WorkDir,
    toy_recipe: Recipe,
    toy_samples: SampleSet,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # PyTorch waits this long for a worker that has failed.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    (work.store / "heatmaps/c/0/2/0/0/0/0").unlink()
    dataset = distillation_views(work.root, toy_recipe, toy_samples)
    loader = make_loader(dataset, [[(16, 0)]], CPU, workers=workers, prefetch=4)
    with pytest.raises(ValueError, match=r"view 0 of sample 16 \(shard 2\) cannot be read"):
        next(iter(loader))
    del loader
    gc.collect()


class Failing:
    """A data set that fails as where a resource has run out."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("Unable to allocate 3.00 GiB"), "too little memory"),
        (
            RuntimeError("unable to write to file </torch_1_2_3>: No space left"),
            "/dev/shm, is full",
        ),
    ],
)
def test_exhausted_memory_in_a_worker_is_one_sentence(
    error: BaseException, message: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    loader = make_loader(Failing(error), [[(0, 0)]], CPU, workers=workers, prefetch=2)
    with pytest.raises(ValueError, match=message) as raised:
        next(iter(loader))
    assert "\n" not in str(raised.value)
    del loader, raised
    gc.collect()


def test_a_full_dev_shm_at_the_start_of_the_workers_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where multiprocessing makes its semaphores: the error names no file."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("_multiprocessing.SemLock", full)
    loader = make_loader(Failing(ValueError()), [[(0, 0)]], CPU, workers=1, prefetch=2)
    with pytest.raises(ValueError, match="/dev/shm, is full"):
        next(iter(loader))


BROKEN = """
import torch
from fpd.pipeline.runtime.loader import make_loader

class Broken:
    def __getitem__(self, key):
        raise ValueError("an image that breaks late")

loader = make_loader(
    Broken(), [[(0, 0)], [(1, 0)]], torch.device("cpu"), workers=2, prefetch=4
)
batches = iter(loader)
try:
    next(batches)
except ValueError as error:
    kept = error  # as a traceback keeps the loader
    print("caught")
"""


@pytest.mark.slow
def test_a_process_whose_workers_failed_ends() -> None:
    """Workers ignore a first SIGTERM, and Python sends one only before it waits for them."""
    run = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout == "caught\n"


class Reporting:
    """Reports errors as a thread of `multiprocessing` does that passes on a batch's memory."""

    def __getitem__(self, key: tuple[int, int]) -> torch.Tensor:
        for error in (ConnectionResetError("cut"), EOFError("cut"), KeyError("a bug")):
            sys.excepthook(type(error), error, None)
        return torch.zeros(1)


def test_a_worker_is_silent_about_a_batch_that_a_stopped_command_did_not_fetch(
    capfd: pytest.CaptureFixture[str],
) -> None:
    list(make_loader(Reporting(), [[(0, 0)]], CPU, workers=1, prefetch=1))
    errors = capfd.readouterr().err
    assert "a bug" in errors and "cut" not in errors
