"""The recipe's sections: how networks are trained, heatmaps stored, models asked, runs watched.

Each field states its unit and, where it has one, its source. Data, geometry, augmentation and
networks have theirs where they are used: `data/`, `models/`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..data.settings import Settings, added
from .models import AnyModel, HourglassSettings
from .sizes import parse_bytes

NEEDS_SIGMOID = "expected model.output = sigmoid with {} = bce: it compares probabilities"

PLAIN_SCALE = 1.0
"""The factor on a person's box of the crop that all evaluation starts from."""


class Targets(Settings):
    """The label's heatmap (paper, eq. 2)."""

    sigma_px: float = Field(
        1.0, gt=0, le=10, description="heatmap pixels; Newell: 1, HRNet: 2 (at 64 x 64)"
    )
    area_normalised: bool = Field(
        False, description="divide by 2 pi sigma^2, as eq. 2 is written; every port has peak 1"
    )


class Training(Settings):
    """How a network is trained. The paper's: rmsprop, constant 2.5e-4, batch 4, 130 epochs."""

    model: AnyModel = HourglassSettings()
    epochs: int = Field(130, ge=1, description="the paper, section 4: MPII 130, LSP 70")
    batch: int = Field(16, ge=1, description="views a step, of all processes together")
    optimiser: Literal["adamw", "rmsprop"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, description="its peak, where it has a schedule")
    weight_decay: float = Field(0.01, ge=0, description="AdamW only")
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    warm_up: float = added(
        0.15,
        gt=0,
        lt=1,
        description="one-cycle: the share of steps in which the rate climbs; PyTorch's is 0.3",
    )
    loss: Literal["mse", "bce", "distribution"] = added(
        "mse",
        description="squared error (eq. 3); binary cross-entropy, which needs model.output = "
        "sigmoid; or divergence of the maps' spatial softmaxes, which is blind to how high a map "
        "lies: that is set when the network is asked",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass; auto: bfloat16 on CUDA. Losses are float32"
    )
    compile: bool = Field(False, description="compile the network with torch.compile first")
    seed: int = Field(0, ge=0, lt=2**32, description="initial weights, order of samples, views")
    accumulate: int = Field(
        1,
        ge=1,
        description="parts in which a process takes its share of a batch through the network, one "
        "after the other: less memory; batch statistics are a part's",
    )
    clip_norm: float | None = Field(
        None, gt=0, description="longest gradient of a step, by its norm over all weights"
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="score and keep an exponential moving average of the weights, of which each "
        "step leaves this share; 0.999 looks back some 1000 steps",
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation PCK"
    )
    sync_batch_norm: bool = Field(
        True,
        description="under torchrun: batch statistics of all processes' views, so that the number "
        "of processes changes nothing; false is faster and does where each process has 16 or more",
    )

    @property
    def level_is_free(self) -> bool:
        """Whether nothing says how high a map lies as a whole; see `levelling`."""
        return self.loss == "distribution"

    @model_validator(mode="after")
    def _probabilities_where_needed(self) -> Training:
        if self.loss == "bce" and self.model.output != "sigmoid":
            raise ValueError(NEEDS_SIGMOID.format("loss"))
        return self


class Student(Training):
    """A student; `alpha = 0` trains on labels alone and needs no store."""

    alpha: float = Field(0.5, ge=0, le=1, description="the teacher's part in the loss, eq. 5")
    teacher_peaks: Literal["unit", "raw"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "unit",
        description="scale each teacher map to peak 1, or take it as it is (eq. 4), or anything in "
        "between: this power of its peak becomes its peak, 0 being unit, 1 raw",
    )
    peak_floor: float = Field(
        0.1,
        gt=0,
        le=1,
        description="a map whose peak is below is scaled as if it were this high",
    )
    teacher_loss: Literal["mse", "bce", "distribution"] | None = added(
        None,
        description="how heatmaps are compared with the teacher's maps: squared error, binary "
        "cross-entropy, or divergence of their spatial softmaxes; none given: as with labels",
    )
    mask_teacher: bool = added(
        False,
        description="learn from the teacher only where there is a label, as the authors' code does",
    )
    weigh_by_peak: bool = added(
        False, description="have each of the teacher's maps count by its peak, up to 1"
    )
    init_from: str | None = added(
        None,
        description="start from these weights: a model's folder, by its path or by that below the "
        "work directory (another student's name, say), or a .safetensors file",
    )

    fold: tuple[int, int] | None = added(
        None,
        description="cross-validation: [k, n] trains on the training people outside part k of n, "
        "and validates on that part",
    )

    @property
    def level_is_free(self) -> bool:
        by_labels = {self.loss} if self.alpha < 1 else set()
        by_teacher = {self.teacher_loss or self.loss} if self.alpha > 0 else set()
        return by_labels | by_teacher == {"distribution"}

    @field_validator("fold")
    @classmethod
    def _fold_is_one_of_n(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError(f"expected [k, n] with 0 <= k < n, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _cross_entropy_needs_probabilities(self) -> Student:
        if self.teacher_loss == "bce" and self.model.output != "sigmoid":
            raise ValueError(NEEDS_SIGMOID.format("teacher_loss"))
        return self


def parse_training(tree: dict[str, Any]) -> Training:
    """What a record has of how its network was trained."""
    kind = Student if "alpha" in tree else Training
    return kind.model_validate(tree)


class Store(Settings):
    """The heatmap store."""

    views: int = Field(4, ge=1, le=1_000_000, description="augmented views of each person")
    seed: int = Field(0, ge=0, lt=2**63, description="what the views' augmentation is drawn from")
    max_error: float = Field(
        0.1,
        ge=0.004,
        le=0.25,
        description="largest error of a stored pixel, as a share of its map's peak (of 0.1 where "
        "the peak is lower); below 0 everything is stored as 0",
    )
    mirror_averaged: bool = Field(
        True,
        description="average the teacher's answer with its mirrored twin (two passes a view): "
        "mirroring is then the student's, and one stored view serves both ways. Only where "
        "augmentation.mirror is on",
    )
    shard_samples: int = Field(512, ge=1, le=65536, description="samples in a file")
    batch: int = Field(32, ge=1, description="views in a pass of the teacher")
    location: str | None = Field(
        None, description="folder or fsspec URL; none given: heatmaps.zarr in the work directory"
    )
    teachers: tuple[str, ...] = added(
        (),
        description="who teaches, averaged: files, folders or package.module:factory "
        "(docs/teachers.md); none given: the teacher of the work directory",
    )


class Loader(Settings):
    """Reading and cutting crops."""

    workers: int | None = Field(
        None, ge=0, le=256, description="processes; none given: 1 on CPU, up to 8 beside a GPU"
    )
    prefetch: int = Field(4, ge=1, le=64, description="batches that each process reads ahead")


class Passes(Settings):
    """How `fpd evaluate` asks finished models. While one trains, it is asked once a person."""

    flip: bool = Field(
        False, description="average each answer with its mirrored twin (Newell et al., ECCV 2016)"
    )
    scales: tuple[float, ...] = Field(
        (PLAIN_SCALE,),
        description="average over crops of the person's box times each of these; 1 among them",
    )

    @field_validator("scales")
    @classmethod
    def _plain_scale_is_among_them(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        fit = all(0.25 <= scale <= 4 for scale in value)
        if not fit or len(set(value)) != len(value) or PLAIN_SCALE not in value:
            raise ValueError(f"expected different factors of 0.25 to 4, 1 among them, got {value}")
        return value


class Cluster(Settings):
    """Caching with many workers (docs/cluster.md). No byte of the store depends on it."""

    retries: int = Field(2, ge=0, le=100, description="how often a shard that failed is tried anew")
    worker_losses: int = Field(
        10,
        ge=0,
        le=1000,
        description="how often a shard may lose its worker (preempted, out of memory) before it "
        "counts as failed. Of clusters started here; a scheduler that is joined has its own "
        "distributed.scheduler.allowed-failures",
    )
    resources: dict[str, float] = Field(
        {},
        description="what a shard takes of its worker's declared resources while it is made; with "
        "GPU = 1, workers need `dask worker --resources GPU=1`",
    )
    memory_limit: str = Field(
        "auto",
        description="of a worker started here, such as 8GiB: beyond 95 % it is killed and started "
        "anew. auto: its share of the machine's; none: no limit",
    )
    connect_s: float = Field(30.0, gt=0, le=86400, description="how long to wait for a scheduler")

    @field_validator("resources")
    @classmethod
    def _amounts_are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        if not all(amount > 0 for amount in value.values()):
            raise ValueError("expected amounts above zero, such as {GPU = 1}")
        return value

    @field_validator("memory_limit")
    @classmethod
    def _limit_is_a_size(cls, value: str) -> str:
        if value not in ("auto", "none"):
            parse_bytes(value)
        return value


class Monitor(Settings):
    """What a run shows while it trains (docs/watching.md). No weight depends on it."""

    contact_sheet_every: int = Field(
        5,
        ge=0,
        description="epochs from one contact sheet to the next, besides those of the first and the "
        "last epoch; 0: none",
    )
    contact_sheet_people: int = Field(8, ge=1, le=64, description="rows of a contact sheet")
    tensorboard: bool = Field(
        False, description="write TensorBoard's files; needs the tensorboard package"
    )


SWEPT = ("student.", "targets.", "store.views")
"""What a sweep may vary: all students of one learn from one store."""


class Sweep(Settings):
    """A grid of students to be compared, on one store (`fpd sweep`)."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="settings by dotted key, and the values of each: every combination"
    )
    points: dict[str, dict[str, Any]] = Field(
        {}, description="named students, each with settings by dotted key; crossed with the grid"
    )
    seeds: int = Field(3, ge=1, le=1000, description="runs of each, from student.seed 0 on")
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="score each on every one of so many parts of the training people, trained on "
        "the others, instead of on the test people",
    )

    @model_validator(mode="after")
    def _students_alone_are_varied(self) -> Sweep:
        for key in (*self.grid, *(key for point in self.points.values() for key in point)):
            if not key.startswith(SWEPT) or key in ("student.seed", "student.fold"):
                raise ValueError(
                    f"expected settings of student or targets, or store.views, got {key!r}; "
                    "runs of several seeds or folds are the sweep's own seeds and folds"
                )
        return self
