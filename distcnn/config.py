"""What a run is: the typed, frozen configuration. Each field's docstring is its help text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from distcnn.geometry import Activation, Block, Layer, Pooling, Volume, layer_table
from distcnn.location import Location, location

IMAGE = Volume(size=28, depth=1)
NUM_CLASSES = 10
_NUM_TRAINING_IMAGES = 60_000  # Of the official training split, whichever the source.
# Of a run that is reproducible across workers. A shard costs, besides its images, as much as about
# 25 of them: `make bench-reproducible` shows what becomes of the speed with smaller ones.
_IMAGES_PER_SHARD = 64

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
T = TypeVar("T")


class Section(BaseModel):
    """A frozen group of fields; each field's docstring is its help text."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataConfig(Section):
    """Which images, and how they are divided and augmented."""

    source: Literal["auto", "fashion-mnist", "synthetic"] = "auto"
    """`auto` takes Fashion-MNIST where it can be had, else the embedded synthetic set."""
    directory: Path | None = None
    """Folder with the four official `.gz` files, tried after `DISTCNN_DATA_DIR`."""
    num_train: Positive | None = None
    """Train on this many images, an equal share of each class; all that are left by default."""
    num_val: Positive = 5000
    """Images of the training split, an equal share of each class, set aside for validation."""
    flip: bool = False
    """Mirror each training image left to right with probability one half."""
    shift: Annotated[int, Field(ge=0, lt=IMAGE.size)] = 0
    """Shift each training image by up to this many pixels along each axis."""

    @property
    def num_images_per_epoch(self) -> int:
        """How many images are trained on."""
        return self.num_train or _NUM_TRAINING_IMAGES - self.num_val


class ModelConfig(Section):
    """The network: blocks of convolution, batch norm, activation, pooling; then one FC layer.

    A value given as a list holds one entry per block; a single value holds for all of them.
    """

    channels: Annotated[tuple[Positive, ...], Field(min_length=1)] = (16, 32)
    """Kernels of each convolution; as many blocks as entries."""
    kernel_size: Positive | tuple[Positive, ...] = 5
    """Width of the convolution's kernels, in pixels."""
    stride: Positive | tuple[Positive, ...] = 1
    """Step of the convolution, in pixels."""
    padding: NonNegative | tuple[NonNegative, ...] = 2
    """Zeros around the convolution's input, in pixels."""
    pooling: Pooling | tuple[Pooling, ...] = "max"
    """Summary of a neighbourhood: its maximum, average, L2 norm, or an average whose weights
    fall with the distance from the central pixel."""
    pool_size: Positive | tuple[Positive, ...] = 2
    """Width of the pooling window, in pixels."""
    pool_stride: Positive | tuple[Positive, ...] | None = None
    """Step of the pooling window, in pixels; its width by default."""
    activation: Activation | tuple[Activation, ...] = "relu"
    """The non-linearity after each convolution."""
    batch_norm: bool = True
    """Normalise each convolution's output over the batch (the shard, where there are several)."""

    initial_scale: Annotated[float, Field(gt=0)] = 1.0
    """Factor on the random weights that all layers begin with; away from 1, an improper start."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks, each with its own values."""
        pool_stride = self.pool_size if self.pool_stride is None else self.pool_stride
        return tuple(
            Block(
                channels=channels,
                kernel_size=_of_block(self.kernel_size, index),
                stride=_of_block(self.stride, index),
                padding=_of_block(self.padding, index),
                pooling=_of_block(self.pooling, index),
                pool_size=_of_block(self.pool_size, index),
                pool_stride=_of_block(pool_stride, index),
                activation=_of_block(self.activation, index),
                batch_norm=self.batch_norm,
            )
            for index, channels in enumerate(self.channels)
        )

    @property
    def layers(self) -> list[Layer]:
        """The article's table of this network."""
        return layer_table(IMAGE, self.blocks, NUM_CLASSES)

    @property
    def num_parameters(self) -> int:
        """Of all layers."""
        return sum(layer.num_parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Of an image on its way forward."""
        return sum(layer.multiply_adds for layer in self.layers)

    @model_validator(mode="after")
    def _one_value_per_block(self) -> Self:
        for name, value in self:
            if isinstance(value, tuple) and len(value) != len(self.channels):
                raise ValueError(
                    f"{name} has {len(value)} values for {len(self.channels)} blocks;"
                    " give one value, or one per entry of channels"
                )
        return self

    @model_validator(mode="after")
    def _volumes_come_out_whole(self) -> Self:
        _ = self.layers
        return self


def _of_block(value: T | tuple[T, ...], index: int) -> T:
    return value[index] if isinstance(value, tuple) else value  # pyright: ignore[reportReturnType]


class OptimizerConfig(Section):
    """How gradients become steps."""

    name: Literal["adam", "adamw", "sgd"] = "adam"
    """The update rule."""
    lr: Annotated[float, Field(gt=0)] = 0.001
    """Learning rate; the peak of it where a schedule varies it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Pull of the weights towards zero (decoupled from the gradient in `adamw`)."""
    momentum: Fraction = 0.9
    """Share of the last step that `sgd` carries on; the Adams do not use it."""


class ScheduleConfig(Section):
    """How the learning rate moves over a run, by the step."""

    name: Literal["constant", "one-cycle", "cosine"] = "constant"
    """`one-cycle`: up and down again along cosines; `cosine`: linear warm-up, then down."""
    warmup_fraction: Fraction = 0.0
    """Share of the steps in which the rate rises to `optimizer.lr`."""

    @model_validator(mode="after")
    def _one_cycle_goes_up(self) -> Self:
        if self.name == "one-cycle" and self.warmup_fraction == 0:
            raise ValueError("one-cycle rises first: set warmup_fraction above 0, 0.25 say")
        return self


TrackerName = Literal["mlflow", "wandb"]


class TrainingConfig(Section):
    """How long and in what pieces."""

    epochs: Positive = 3
    """Passes over the training images."""
    global_batch_size: Positive = 128
    """Images per optimizer step, over all workers; an epoch's incomplete last batch is left out."""
    num_shards: Positive | None = None
    """Pieces of a batch, computed one after another in the memory of one, their gradients weighted
    by their sizes. Batch norm normalises within a shard, so this is part of the result. By default
    1; where a run is reproducible across workers, one for each 64 images, and two at least."""
    reproducible: Literal["same-workers", "across-workers"] = "same-workers"
    """Where a run gives the same bits again: on as many workers, or on any number of them up to
    `num_shards`."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Arithmetic of the convolutions; `auto` takes bfloat16 where the device is faster with it."""
    label_smoothing: Fraction = 0.0
    """Share of the target that is spread evenly over the classes."""
    average_weights: Fraction = 0.0
    """Decay per step of a running average of the weights, which is then what is evaluated and
    kept; 0 keeps the last weights themselves."""
    early_stopping: Positive | None = None
    """Stop after this many epochs without a better validation accuracy."""
    checkpoint_every_steps: Positive | None = None
    """Checkpoint after every so many steps too, besides the end of each epoch."""
    keep_checkpoints: Positive = 2
    """How many of the newest checkpoints are kept, besides the best one."""
    trackers: tuple[TrackerName, ...] = ()
    """Told of every row of measures besides: `mlflow`, `wandb`; which server, and whose account, is
    for their own environment variables."""

    @property
    def is_same_on_any_workers(self) -> bool:
        """Whether its result must not depend on the number of workers."""
        return self.reproducible == "across-workers"

    @property
    def shards(self) -> int:
        """Pieces of a batch: `num_shards`, or its default."""
        if self.num_shards is not None:
            return self.num_shards
        if not self.is_same_on_any_workers:
            return 1
        return min(self.global_batch_size, max(2, self.global_batch_size // _IMAGES_PER_SHARD))

    @model_validator(mode="after")
    def _no_empty_shard(self) -> Self:
        if self.shards > self.global_batch_size:
            raise ValueError(
                f"num_shards = {self.shards} exceeds global_batch_size ="
                f" {self.global_batch_size}; a shard needs one image at least"
            )
        return self


class EvaluationConfig(Section):
    """How a network is evaluated."""

    flip_average: bool = False
    """Average the class probabilities over an image and its mirror."""
    shift_average: bool = False
    """Average them over an image and the four that are moved by a pixel, each as above."""

    @property
    def num_views(self) -> int:
        """How many images the network looks at to tell one."""
        return (5 if self.shift_average else 1) * (2 if self.flip_average else 1)


class WorkersConfig(Section):
    """What trains. Left open, it is decided on the machine at the start and then recorded."""

    count: Positive = 1
    """Processes that train together, each on its part of every batch (`distcnn launch`)."""
    min: Positive | None = None
    """Elastic, with `max`: begin, and go on, with as few as this."""
    max: Positive | None = None
    """Elastic: as many as this while there is room for them; they come and go with the nodes. It
    stands in the place of `count`."""
    cpus: Annotated[float, Field(gt=0)] | None = None
    """CPUs of each worker, a fraction too; it computes with as many threads, one at least. By
    default all cores of the machine, shared among its workers; one on a cluster that is given, and
    where a run is reproducible across workers."""
    gpus: Annotated[int | float, Field(ge=0, le=1)] | None = None
    """GPUs of each worker; one where there is one for each by default. A worker that is alone may
    have a fraction: trials of a sweep that share a GPU."""
    placement: Literal["pack", "spread"] = "pack"
    """`pack` puts workers on as few nodes as possible, `spread` on as many."""
    accelerator_type: str | None = None
    """Only on nodes with this accelerator, as Ray names it (`A100`, `H100`, ...)."""
    label_selector: dict[str, str] = {}
    """Only on nodes with these labels, as Ray's label selectors have it (`{zone: a}`)."""

    @property
    def threads(self) -> int:
        """Threads that each worker computes with."""
        assert self.cpus is not None, "the config is resolved before training"
        return max(1, int(self.cpus))

    @property
    def is_elastic(self) -> bool:
        """Whether their number may change while a run goes on."""
        return self.min is not None

    @property
    def least(self) -> int:
        """How many there have to be for a run to begin, or to go on."""
        return self.count if self.min is None else self.min

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_it_may_be(cls, values: Any) -> Any:
        # Also where a count stands below, in a config that this one extends.
        if isinstance(values, dict) and values.get("max"):
            return {**values, "count": values["max"]}
        return values

    @model_validator(mode="after")
    def _bounds_are_two_and_in_order(self) -> Self:
        if (self.min is None) != (self.max is None):
            raise ValueError("min and max go together: set both, or count")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min = {self.min} exceeds max = {self.max}")
        if self.is_elastic and "ray.io/node-id" in self.label_selector:
            raise ValueError(
                "label_selector has ray.io/node-id, but which nodes elastic workers are on changes;"
                " select them by another label"
            )
        return self

    @model_validator(mode="after")
    def _no_two_workers_on_one_gpu(self) -> Self:
        if self.count > 1 and self.gpus not in (None, 0, 1):
            raise ValueError(
                f"gpus = {self.gpus} for count = {self.count}: NCCL refuses two workers on one GPU,"
                " so only a worker that is alone may have a fraction; set gpus to 0 or 1, or"
                " count=1"
            )
        return self


class RecoveryConfig(Section):
    """What a launched run does about what fails around it."""

    max_failures: NonNegative = 3
    """Restarts after failures (a worker or a node that died or hung), in all."""
    max_preemptions: NonNegative = 100
    """Restarts after nodes were taken away with notice; these are nobody's failure."""
    wait_for_workers_seconds: Annotated[float, Field(ge=0)] = 600
    """How long to wait for workers that the cluster could have but has not free."""


def _as_location(value: object) -> Location:
    if isinstance(value, Location):
        return value
    if isinstance(value, str):
        return location(value)
    raise PydanticCustomError("location_type", "Input should be a folder, or s3://bucket/prefix")


class StorageConfig(Section):
    """Where runs are kept."""

    directory: Annotated[Location, PlainValidator(_as_location), PlainSerializer(str)] = Path(
        "runs"
    )
    """Folder, or s3://bucket/prefix, in which a run gets its own folder, `<name>-<time>`."""


class RunConfig(Section):
    """One training run, complete."""

    name: Name = "article"
    """The first part of the run directory's name."""
    seed: Seed = 0
    """Start of every random choice: weights, validation split, order, augmentation."""
    workload: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] | None = None
    """Somebody's own LightningModule and data, `package.module:factory`, in the place of the
    article's; `data`, `model`, `schedule` and `evaluation` are then for the factory to use."""
    parameters: dict[str, Any] = {}
    """What the workload's factory is called with, by name, besides this config."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    workers: WorkersConfig = WorkersConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    storage: StorageConfig = StorageConfig()

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a run's result, as plain values; how failures are met does not.

        Of workers whose number may change, only what they compute with.
        """
        plain = self.to_plain()
        del plain["recovery"], plain["training"]["trackers"]
        workers = self.workers
        if self.training.is_same_on_any_workers or workers.is_elastic:
            # Not how many there are, nor where.
            plain["workers"] = {"cpus": workers.threads, "gpus": bool(workers.gpus)}
        return plain

    @property
    def num_shards_per_worker(self) -> int:
        """Into how many shards each worker cuts its part of a batch."""
        return -(-self.training.shards // self.workers.count)

    @model_validator(mode="after")
    def _every_worker_has_a_shard(self) -> Self:
        count, shards = self.workers.count, self.training.shards
        if self.training.is_same_on_any_workers and count > shards:
            raise ValueError(
                f"workers.count = {count} exceeds training.num_shards = {shards}, of which each"
                " worker needs one where a run is reproducible across workers; lower it, or raise"
                " training.num_shards (another number of shards is another run)"
            )
        return self

    @property
    def _most_shards(self) -> int:
        """Of all workers together, however many of them there are."""
        shards = self.training.shards
        if self.training.is_same_on_any_workers:
            return shards
        counts = range(self.workers.least, self.workers.count + 1)
        return max(count * -(-shards // count) for count in counts)

    @model_validator(mode="after")
    def _every_worker_has_images(self) -> Self:
        batch, count = self.training.global_batch_size, self.workers.count
        if self._most_shards > batch:
            raise ValueError(
                f"workers.count = {count} leaves a worker without an image in each of its shards,"
                f" of training.global_batch_size = {batch}; lower it, or raise the batch size"
            )
        return self

    @model_validator(mode="after")
    def _batch_norm_has_more_than_one_value(self) -> Self:
        smallest_shard = self.training.global_batch_size // self._most_shards
        for layer in self.model.layers:
            if layer.name.startswith("Batch norm") and layer.output.size**2 * smallest_shard == 1:
                raise ValueError(
                    f"{layer.name} has one value per channel in a shard of one image and needs two:"
                    " lower training.num_shards or workers.count, or set model.batch_norm=false"
                )
        return self

    @model_validator(mode="after")
    def _a_workload_is_saved_between_epochs(self) -> Self:
        training = self.training
        if self.workload is not None:
            if training.is_same_on_any_workers:
                raise ValueError(
                    "training.reproducible = across-workers is for the article's network alone, and"
                    " this config has a workload: set same-workers"
                )
            if training.checkpoint_every_steps is not None:
                raise ValueError(
                    "training.checkpoint_every_steps is for the article's network alone; a workload"
                    " is saved at the end of each epoch"
                )
        elif self.parameters:
            raise ValueError("parameters are for a workload's factory: set workload")
        return self

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Self:
        """Validate plain values, as YAML and JSON hold them.

        Strictly: a quoted number, or `yes` for a number, is an error and not a guess.

        Raises:
            pydantic.ValidationError: with every wrong field.
        """
        return cls.model_validate_json(json.dumps(values, default=str), strict=True)

    def to_plain(self) -> dict[str, Any]:
        """The values as YAML and JSON hold them; `from_plain` takes them back."""
        return self.model_dump(mode="json")

    def with_values(self, **sections: dict[str, Any]) -> Self:
        """A copy with some fields of some sections replaced, validated again."""
        plain = self.to_plain()
        for section, values in sections.items():
            plain[section] = {**plain[section], **values}
        return self.from_plain(plain)
