"""The recipe's sections: how networks are trained, heatmaps stored, models evaluated, runs watched.

Each field states its unit and, where it has one, its source. Settings of the data, geometry,
augmentation, networks and Dask clusters are defined where they are used: in `data/`, `models/` and
`runtime/`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ...data.settings import Settings
from ..models.networks import AnyModel
from ..models.settings import HourglassSettings
from ..runtime.text import check_url, parse_bytes

NEEDS_SIGMOID = "expected model.output = sigmoid with {} = bce: it compares probabilities"

UNIT_SCALE = 1.0
"""The factor on a person's box of the crop that all evaluation starts from."""


class Targets(Settings):
    """The heatmap made from a label (paper, eq. 2)."""

    sigma_px: float = Field(
        1.0, gt=0, le=10, description="in heatmap pixels; Newell: 1, HRNet: 2 (at 64 x 64)"
    )
    area_normalized: bool = Field(
        False, description="divide by 2 pi sigma^2, as eq. 2 is written; every port has peak 1"
    )


class Training(Settings):
    """How a network is trained. The paper's: rmsprop, constant 2.5e-4, batch 4, 130 epochs."""

    model: AnyModel = HourglassSettings()
    epochs: int = Field(130, ge=1, description="the paper, section 4: MPII 130, LSP 70")
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        16,
        description="views per step, over all processes. auto: on a GPU, base_batch_size times the "
        "largest power of two, up to 16, that fits its memory in trial steps; on a CPU, "
        "base_batch_size (docs/gpu.md)",
    )
    base_batch_size: int | None = Field(
        None,
        ge=1,
        description="batch_size = auto: the batch size that learning_rate is for. The rate is "
        "multiplied by the square root of the chosen size over this one (Malladi et al., NeurIPS "
        "2022, for AdamW and RMSProp alike)",
    )
    optimizer: Literal["adamw", "rmsprop"] = Field(
        "adamw", description="PyTorch's, with its defaults but for the settings below"
    )
    learning_rate: float = Field(1e-3, gt=0, description="the highest one of the schedule")
    weight_decay: float = Field(0.01, ge=0, description="AdamW only")
    lr_schedule: Literal["one-cycle", "cosine", "constant"] = Field(
        "one-cycle", description="PyTorch's, updated after every step"
    )
    warmup_fraction: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="one-cycle: share of the steps in which the learning rate rises; PyTorch's "
        "default is 0.3",
    )
    loss: Literal["mse", "bce", "kl"] = Field(
        "mse",
        description="mse: squared error (eq. 3). bce: binary cross-entropy; needs model.output = "
        "sigmoid. kl: KL divergence of the maps' spatial softmaxes; it does not see a constant "
        "added to a map, which is fixed when the network is run",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass; auto: bfloat16 on CUDA. Losses are float32"
    )
    compile: bool = Field(False, description="compile the network with torch.compile")
    cuda_graphs: bool = Field(
        True,
        description="on a GPU, in a single process, replay the network's passes from CUDA graphs, "
        "which small batches need (docs/gpu.md). Not with compile or grad_accum_steps",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="initial weights, order of samples, views")
    grad_accum_steps: int = Field(
        1,
        ge=1,
        description="number of parts in which each process passes its share of a batch through the "
        "network, one after another, to save memory; batch statistics are those of one part",
    )
    clip_grad_norm: float | None = Field(
        None,
        gt=0,
        description="largest norm of a step's gradient, over all weights; null: none",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="score and keep an exponential moving average of the weights, with this decay "
        "per step; 0.999 averages over about 1000 steps; null: the weights themselves",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after this many epochs without a better validation PCK; null: never",
    )
    sync_batch_norm: bool = Field(
        True,
        description="under torchrun: batch statistics over the views of all processes, so that the "
        "result does not depend on their number; false is faster, and accurate enough with 16 or "
        "more views per process",
    )

    @property
    def offset_is_free(self) -> bool:
        """Whether training leaves a constant added to a map undetermined (`models.offset`)."""
        return self.loss == "kl"

    @field_validator("batch_size", mode="before")
    @classmethod
    def _batch_size_is_a_number_or_auto(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError(f"expected auto, or a number of views, 1 or more, got {value!r:.80}")

    @model_validator(mode="after")
    def _auto_has_a_base(self) -> Training:
        if self.batch_size == "auto" and self.base_batch_size is None:
            raise ValueError(
                "batch_size = auto needs base_batch_size, the batch size that learning_rate is for"
            )
        return self

    @model_validator(mode="after")
    def _bce_has_probabilities(self) -> Training:
        if self.loss == "bce" and self.model.output != "sigmoid":
            raise ValueError(NEEDS_SIGMOID.format("loss"))
        return self


class Student(Training):
    """A student; with `alpha = 0` it is trained on labels alone and needs no store."""

    alpha: float = Field(0.5, ge=0, le=1, description="weight of the teacher in the loss, eq. 5")
    teacher_scale: Literal["unit", "raw"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "unit",
        description="unit: scale each teacher map to peak 1. raw: use it as it is (eq. 4). A "
        "number between: the new peak is the old one to this power, from 0 (unit) to 1 (raw)",
    )
    peak_floor: float = Field(
        0.1,
        gt=0,
        le=1,
        description="maps with a lower peak are scaled as if their peak were this high",
    )
    kd_loss: Literal["mse", "bce", "kl"] | None = Field(
        None, description="loss against the teacher's maps, with the values of loss; null: as loss"
    )
    kd_visible_only: bool = Field(
        False,
        description="learn from the teacher only where there is a label, as the authors' code does",
    )
    confidence_weighting: bool = Field(
        False, description="weight each teacher map by its peak, up to 1"
    )
    init_from: str | None = Field(
        None,
        description="start from these weights: a model's folder, by its path or its path below the "
        "work directory (another student's name, for example), or a .safetensors file",
    )
    fold: tuple[int, int] | None = Field(
        None,
        description="cross-validation: [k, n] trains on the training samples outside part k of n "
        "and validates on that part",
    )

    @property
    def offset_is_free(self) -> bool:
        on_labels = {self.loss} if self.alpha < 1 else set()
        on_teacher = {self.kd_loss or self.loss} if self.alpha > 0 else set()
        return on_labels | on_teacher == {"kl"}

    @field_validator("fold")
    @classmethod
    def _fold_is_one_of_n(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] < value[1]:
            raise ValueError(f"expected [k, n] with 0 <= k < n, got {list(value)}")
        return value

    @model_validator(mode="after")
    def _kd_bce_has_probabilities(self) -> Student:
        if self.kd_loss == "bce" and self.model.output != "sigmoid":
            raise ValueError(NEEDS_SIGMOID.format("kd_loss"))
        return self


def parse_training(tree: dict[str, Any]) -> Training:
    """The training settings in a record."""
    kind = Student if "alpha" in tree else Training
    return kind.model_validate(tree)


TeacherAlignment = Literal["none", "torso", "body", "labels"]
"""See `Store.teacher_alignment`."""


class Store(Settings):
    """The heatmap store."""

    views: int = Field(4, ge=1, le=1_000_000, description="augmented views of each sample")
    seed: int = Field(0, ge=0, lt=2**63, description="of the views' augmentation")
    max_error: float = Field(
        0.1,
        ge=0.004,
        le=0.25,
        description="largest error of a stored pixel, as a share of its map's peak (of 0.1 where "
        "the peak is lower); negative values are stored as 0",
    )
    flip_averaged: bool = Field(
        True,
        description="average the teacher's output with its output on the flipped crop, flipped "
        "back (two passes a view). The student then flips views itself, and one stored view serves "
        "both ways. Only where augmentation.flip is on",
    )
    shard_samples: int = Field(512, ge=1, le=65536, description="samples in a file")
    batch_size: int = Field(32, ge=1, description="views in one forward pass of the teacher")
    location: str | None = Field(
        None, description="folder or fsspec URL; null: heatmaps.zarr in the work directory"
    )
    portable: bool = Field(
        False,
        description="store the views themselves, as JPEG, and the labels: students then need "
        "nothing but the store (docs/portable.md). The teacher is run on what the JPEG decodes to",
    )
    crop_quality: int = Field(
        90, ge=30, le=100, description="JPEG quality of the crops in a portable store"
    )
    splits: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("validation", "test"),
        description="splits of which a portable store has the unaugmented crops: validation to "
        "select weights, test to evaluate, train to cross-validate",
    )
    source_names: bool = Field(
        False,
        description="keep sample ids, which contain names of image files, in a portable store; "
        "false: their hashes",
    )
    license: str | None = Field(
        None, description="for the data card of a portable store, such as CC-BY-4.0"
    )
    teacher_crops: Literal["own", "student"] = Field(
        "own",
        description="crops that external teachers are run on. own: cut from the photograph at the "
        "size of their input. student: the students', resized",
    )
    teacher_alignment: TeacherAlignment = Field(
        "none",
        description="how the crops of external teachers are turned upright. torso: by the hips and "
        "shoulders that a first pass finds. body: centered and scaled as well, by points of the "
        "first pass that few teachers have (BlazePose). labels: by the labeled hips and shoulders "
        "of a sample, otherwise as torso. none: as the student's",
    )
    teachers: tuple[str, ...] = Field(
        (),
        description="external teachers, averaged: files, folders or package.module:factory "
        "(docs/teachers.md); none: the teacher of the work directory",
    )

    @model_validator(mode="after")
    def _aligned_crops_are_cut(self) -> Store:
        if self.teacher_alignment != "none" and self.teacher_crops != "own":
            raise ValueError(
                "expected teacher_crops = own where teacher_alignment turns them, got "
                f"teacher_crops = {self.teacher_crops}, teacher_alignment = "
                f"{self.teacher_alignment}"
            )
        return self

    @field_validator("location")
    @classmethod
    def _location_has_no_secrets(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            check_url(value)
        return value


class Loader(Settings):
    """Reading and cropping."""

    workers: int | None = Field(
        None,
        ge=0,
        le=256,
        description="processes; null: 1 on a CPU, up to 8 with a GPU, and more, up to its cores, "
        "after an epoch that spent over a tenth of its time waiting for data",
    )
    prefetch: int = Field(4, ge=1, le=64, description="batches that each process reads ahead")
    shuffle_shards: Literal["auto", "all"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="number of the store's shards whose views are mixed at a time; all: the whole "
        "epoch's. auto: all of a local store of up to about 3 million views; 16 of a larger or "
        "remote one, or fewer, so that they fit twice into the cache. The weights depend on it",
    )
    cache_dir: str | None = Field(
        None,
        description="folder on a local disk that keeps a remote store's shards, for any number of "
        "runs and processes; null: each process keeps up to 256 MiB in memory",
    )
    cache_size: str = Field("20GB", description="largest size of that folder, such as 1.5 TiB")

    @property
    def cache_bytes(self) -> int:
        """`cache_size` in bytes."""
        return parse_bytes(self.cache_size)

    @field_validator("cache_size")
    @classmethod
    def _cache_size_is_a_size(cls, value: str) -> str:
        parse_bytes(value)
        return value


class TestTimeAugmentation(Settings):
    """How `fpd evaluate` runs finished models. During training, each sample takes one pass."""

    __test__ = False  # pytest would collect it by its name

    flip_test: bool = Field(
        False,
        description="average the output with that on the flipped crop, flipped back (Newell et "
        "al., ECCV 2016)",
    )
    scales: tuple[float, ...] = Field(
        (UNIT_SCALE,),
        description="average over crops of the person's box times each of these; 1 among them",
    )

    @field_validator("scales")
    @classmethod
    def _unit_scale_is_among_them(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        fit = all(0.25 <= scale <= 4 for scale in value)
        if not fit or len(set(value)) != len(value) or UNIT_SCALE not in value:
            raise ValueError(f"expected different factors of 0.25 to 4, 1 among them, got {value}")
        return value


class Monitor(Settings):
    """What a run records while it trains (docs/monitoring.md). The weights do not depend on it."""

    contact_sheet_every: int = Field(
        5,
        ge=0,
        description="epochs between contact sheets; the first and the last epoch also have one; 0: "
        "none",
    )
    contact_sheet_samples: int = Field(8, ge=1, le=64, description="rows of a contact sheet")
    tensorboard: bool = Field(
        False, description="write TensorBoard event files; needs the tensorboard package"
    )


SWEPT = ("student.", "targets.", "store.views")
"""The settings that a sweep may vary; its students share one store."""


class Sweep(Settings):
    """A grid of students to compare, trained on one store (`fpd sweep`)."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {}, description="settings by dotted key, with the values of each: every combination"
    )
    points: dict[str, dict[str, Any]] = Field(
        {}, description="named students, each with settings by dotted key; crossed with the grid"
    )
    seeds: int = Field(
        3, ge=1, le=1000, description="runs of each student, with student.seed from 0 on"
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="cross-validation: score each student on every one of this many parts of the "
        "training samples, trained on the others; null: on the test samples",
    )

    @model_validator(mode="after")
    def _only_students_vary(self) -> Sweep:
        for key in (*self.grid, *(key for point in self.points.values() for key in point)):
            if not key.startswith(SWEPT) or key in ("student.seed", "student.fold"):
                raise ValueError(
                    f"expected settings of student or targets, or store.views, got {key!r}; "
                    "runs of several seeds or folds are the sweep's own seeds and folds"
                )
        return self
