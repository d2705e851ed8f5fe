"""The check of a cluster's workers; the worker is this process, and the cluster is made up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
import torch
from torch import Tensor

from fpd.data.samples import SampleSet
from fpd.pipeline.caching import spot_check, worker
from fpd.pipeline.caching.compare import ROUNDING
from fpd.pipeline.caching.inputs import StoreInputs
from fpd.pipeline.caching.spot_check import (
    Cells,
    Gate,
    SpotCheck,
    SpotChecker,
    approve,
    encode_cells,
    make_spot_checker,
)
from fpd.pipeline.caching.worker import Job, make
from fpd.pipeline.config.recipe import Recipe, apply_overrides
from fpd.pipeline.models.predictor import HeatmapPredictor
from fpd.pipeline.store import Layout, StoreReader, open_storage
from fpd.pipeline.teachers import load_teacher
from fpd.pipeline.workdir import WorkDir

from .answering import AnsweringTeacher

CPU = torch.device("cpu")
ADDRESS = "tcp://worker:1"
VIEWS = ((0, 3), (1, 17))
"""The second one is in a shard of two samples."""


@dataclass
class Result:
    """A finished task."""

    value: Any

    def result(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@dataclass
class Client:
    """A client whose worker is this process; it keeps what was approved."""

    error: Exception | None = None
    approved: list[str] = field(default_factory=list)

    def run(self, function: Callable[[str], None], process: str, workers: list[str]) -> None:
        assert workers == [ADDRESS]
        if self.error is not None:
            raise self.error
        function(process)
        self.approved.append(process)


def zeros(crop_BSS3: Tensor) -> Tensor:
    return torch.zeros(len(crop_BSS3), 16, 16, 16)


def brightness(crop_BSS3: Tensor) -> Tensor:
    """Maps whose peaks are no fainter than a trained teacher's."""
    gray_BSS = crop_BSS3.float().mean(-1) / 255
    return torch.nn.functional.avg_pool2d(gray_BSS, 4)[:, None].expand(-1, 16, -1, -1) + 0.1


def not_a_number(crop_BSS3: Tensor) -> Tensor:
    return torch.full((len(crop_BSS3), 16, 16, 16), torch.nan)


@pytest.fixture(autouse=True)
def _in_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class DaskWorker:
        address: str

    monkeypatch.setattr(distributed, "get_worker", lambda: DaskWorker(ADDRESS))
    monkeypatch.setattr(spot_check, "APPROVAL_WAIT_S", 0.0)


@pytest.fixture
def predictor(work: WorkDir, toy_recipe: Recipe, toy_samples: SampleSet) -> HeatmapPredictor:
    source = load_teacher(work.teacher, toy_recipe, toy_samples.skeleton, allow_code=False)
    return source.predictor(CPU)


InputsOf = Callable[[HeatmapPredictor], StoreInputs]


@pytest.fixture
def inputs_of(toy_recipe: Recipe, toy_samples: SampleSet) -> InputsOf:
    return lambda answer: StoreInputs(AnsweringTeacher(answer), toy_recipe, toy_samples, CPU)


MakeChecker = Callable[[HeatmapPredictor], SpotChecker]


@pytest.fixture
def make_checker(inputs_of: InputsOf) -> Iterator[MakeChecker]:
    checkers: list[SpotChecker] = []

    def make(answer: HeatmapPredictor) -> SpotChecker:
        checkers.append(SpotChecker(inputs_of(answer), VIEWS))
        return checkers[-1]

    yield make
    for checker in checkers:
        checker.close()


@pytest.fixture
def encode(inputs_of: InputsOf) -> Callable[..., Cells]:
    def encode(check: SpotCheck, answer: HeatmapPredictor) -> Cells:
        return encode_cells(check, "process", inputs_of(answer))

    return encode


def check(checker: SpotChecker, result: Any, client: Client | None = None) -> Client:
    client = client or Client()
    checker.start(client, Result(result)).result()  # type: ignore[arg-type]
    return client


def content(store: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_cells_are_what_the_store_has(
    work: WorkDir, layout: Layout, predictor: HeatmapPredictor, encode: Callable[..., Cells]
) -> None:
    """Up to rounding: the teacher's batch is another one."""
    cells = encode(SpotCheck("command", VIEWS), predictor)
    reader = StoreReader(open_storage(work.store), layout)
    assert cells.address == ADDRESS
    for (view, index), cell in zip(VIEWS, cells.cells, strict=True):
        stored = reader.read(view, index)
        assert np.array_equal(cell.parameters, stored.parameters)
        assert np.abs(cell.peaks - stored.peaks).max() < 1e-3


def test_a_process_writes_nothing_before_it_is_approved(
    work: WorkDir, job: Job, make_checker: MakeChecker, predictor: HeatmapPredictor
) -> None:
    checker, client = make_checker(predictor), Client()
    (work.store / "heatmaps" / "receipts" / "1" / "2.json").unlink()
    before = content(work.store)
    for _ in range(2):  # whether the first answer arrives or is lost
        cells = make(job, 1, 2, checker.check)
        assert isinstance(cells, Cells)
        assert content(work.store) == before
    check(checker, cells, client)
    assert client.approved == [cells.process]
    receipt = make(job, 1, 2, checker.check)
    assert isinstance(receipt, dict)
    assert (receipt["view"], receipt["shard"]) == (1, 2)
    assert isinstance(make(job, 1, 1, SpotCheck("other", VIEWS)), dict)  # it is complete
    (work.store / "heatmaps" / "receipts" / "1" / "2.json").unlink()
    another = make(job, 1, 2, SpotCheck("other", VIEWS))
    assert isinstance(another, Cells), "every command approves for itself"


def test_a_task_waits_for_the_approval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot_check, "APPROVAL_WAIT_S", 60.0)
    gate, command = Gate(), SpotCheck("command", VIEWS)
    assert not gate.admits(command)
    approval = threading.Timer(0.05, approve, [gate.process(command)])
    approval.start()
    assert gate.admits(command)
    approval.join()
    assert not Gate().admits(command), "a teacher that was loaded again is checked again"


@pytest.mark.parametrize("scale", [0.0, 0.9, torch.inf])
def test_another_output_is_refused(
    scale: float,
    make_checker: MakeChecker,
    encode: Callable[..., Cells],
    toy_recipe: Recipe,
    toy_samples: SampleSet,
) -> None:
    """Zeros, maps that are lower by a tenth, and other views than the command's."""
    checker, client = make_checker(brightness), Client()
    if scale == torch.inf:
        cells = encode(SpotCheck("command", VIEWS[::-1]), brightness)
    else:
        cells = encode(checker.check, lambda crop: brightness(crop) * scale)
    with pytest.raises(ValueError, match=r"wrote no shard; .*spot_check_views=0") as caught:
        check(checker, cells, client)
    message = str(caught.value)
    assert f"the worker {ADDRESS} (" in message
    assert any(f"view {v} of sample {toy_samples.ids[i]} " in message for v, i in VIEWS)
    assert f"allowed is {toy_recipe.store.max_error + ROUNDING:g}. " in message
    assert ("by inf" in message) == (scale == torch.inf)
    assert client.approved == []


def test_an_output_here_that_is_not_a_number_approves_nobody(
    make_checker: MakeChecker, encode: Callable[..., Cells]
) -> None:
    checker = make_checker(not_a_number)
    with pytest.raises(ValueError, match=r"is refused: .* by nan"):
        check(checker, encode(checker.check, zeros))


def test_rounding_is_not_refused(make_checker: MakeChecker, encode: Callable[..., Cells]) -> None:
    checker = make_checker(brightness)
    cells = encode(checker.check, lambda crop: brightness(crop) * 1.005)  # as much as TF32's
    assert check(checker, cells).approved == ["process"]


def test_a_lost_worker_is_not_an_error(
    make_checker: MakeChecker, predictor: HeatmapPredictor, encode: Callable[..., Cells]
) -> None:
    """Before its cells are fetched, also if another made the shard, and before it is approved."""
    checker = make_checker(predictor)
    assert check(checker, RuntimeError("lost")).approved == []
    assert check(checker, {"view": 0}).approved == []
    cells = encode(checker.check, predictor)
    assert check(checker, cells, Client(OSError("lost"))).approved == []


def test_a_teacher_that_fails_here_is_reported(make_checker: MakeChecker) -> None:
    def fail(crop: Tensor) -> Tensor:
        raise RuntimeError("no CUDA")

    with pytest.raises(ValueError, match=r"RuntimeError: no CUDA\)\. .*spot_check_views=0"):
        check(make_checker(fail), None)


def test_the_teacher_runs_once_for_all_workers(
    make_checker: MakeChecker, predictor: HeatmapPredictor, encode: Callable[..., Cells]
) -> None:
    passes: list[int] = []

    def counted(crop: Tensor) -> Tensor:
        passes.append(len(crop))
        return predictor(crop)

    checker = make_checker(counted)
    for _ in range(3):
        check(checker, encode(checker.check, predictor))
    assert passes == [1, 1]


def test_the_recipe_says_how_many_views_are_checked(
    toy_recipe: Recipe, toy_samples: SampleSet, layout: Layout
) -> None:
    tasks = layout.tasks()
    for count in (0, 3):
        settings = toy_recipe.model_dump(mode="json")
        recipe = apply_overrides(settings, [f"cluster.spot_check_views={count}"])
        inputs = StoreInputs(AnsweringTeacher(zeros), recipe, toy_samples, CPU)
        checker = make_spot_checker(inputs, layout, tasks)
        assert (checker is None) == (count == 0)
        if checker is not None:
            checker.close()
            shards = {(view, layout.locate(index)[0]) for view, index in checker.check.views}
            assert len(shards) == count
            assert shards <= set(tasks)


def test_a_worker_keeps_its_approval_with_its_teacher(job: Job) -> None:
    """Two threads of a GPU's worker share one teacher, and one approval."""
    assert worker._context(job).gate is worker._context(job).gate
