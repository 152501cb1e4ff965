"""The job spec: every key of a job with its meaning, default and limits.

The schema is also the reference: ``sumgrad config schema`` prints it, and ``sumgrad init`` writes
it as a commented file.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sumgrad.cluster.address import check_address
from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.jobs.support.validation import problem_error
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import resolve_divergence
from sumgrad.model.errors import OptionError
from sumgrad.model.initializers import make_initializer
from sumgrad.model.optimizers import OPTIMIZER_ALIASES, make_optimizer

# Numbers are strict, so that `yes` is not taken for 1 nor 64.0 for 64.
Number = Annotated[float, Field(strict=True)]
PositiveNumber = Annotated[float, Field(strict=True, gt=0.0)]
NonNegative = Annotated[float, Field(strict=True, ge=0.0)]
#: Up to three years: larger values overflow the arithmetic of clocks.
Seconds = Annotated[float, Field(strict=True, ge=0.0, le=1e8)]
PositiveSeconds = Annotated[float, Field(strict=True, gt=0.0, le=1e8)]
Fraction = Annotated[float, Field(strict=True, gt=0.0, lt=1.0)]
Count = Annotated[int, Field(strict=True, gt=0)]
Size = Annotated[int, Field(strict=True, gt=0, lt=2**31)]  #: An index or the size of an array.
NameOrOptions = str | dict[str, Any]  #: A name, or a mapping of a name and its options.
PathOrFraction = Fraction | str | None

_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
#: Data sets that are installed with scikit-learn; as `data.train` they are names, not paths.
BUILTIN = ("digits", "diabetes")
#: Ways to make out-of-distribution images from images.
OutOfDistributionKind = Literal["halves", "negatives", "noise", "scrambled", "seams"]
Kinds = tuple[OutOfDistributionKind, ...]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _default_for_null(cls, value: Any, info: ValidationInfo) -> Any:
        """Use the defaults of a section that is null because all its keys are commented out."""
        default = cls.model_fields[str(info.field_name)].default
        return default if value is None and isinstance(default, _Section) else value


def _check_options(make: Callable[[], object], key: str = "") -> None:
    """Build something, and report an `OptionError` at a key of the validated section."""
    try:
        make()
    except OptionError as error:
        raise problem_error(error.message, error.hint, key) from None


def _buildable(make: Callable[[NameOrOptions], object]) -> AfterValidator:
    """Return a validator that builds the named thing, which checks its name and its options."""

    def check(value: NameOrOptions | None) -> NameOrOptions | None:
        if value is not None:
            _check_options(lambda: make(value))
        return value

    return AfterValidator(check)


def _check_cluster_address(address: str) -> str:
    try:
        check_address(address)
    except ClusterUnreachable as error:
        message = error.message.removeprefix("cluster.address ")
        raise problem_error(message, error.hint) from None
    return address


def _check_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise problem_error(
            f"{name!r} should have only letters, digits, dots, dashes and underscores, "
            "at most 100, and begin with a letter or a digit"
        )
    return name


def _check_unique(names: Sequence[str], key: str) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise problem_error(f"'{name}' is named twice", key=key)


class RejectSpec(_Section):
    """An extra class, 'none of the above', trained on images made from those of the data set."""

    label: str = "none"
    """Name of the extra class."""
    ratio: Fraction = 0.3
    """Number of out-of-distribution images per image of the data set, between 0 and 1."""
    kinds: Annotated[Kinds, Field(min_length=1)] = ("noise", "scrambled", "halves")
    """Kinds to train and test with: noise (random pixels), scrambled (permuted pixels), halves (the
    upper and lower half of two classes), seams (two halves side by side) or negatives."""
    unseen: Kinds = ("seams",)
    """Kinds to test with only, which shows whether the network rejects images of a new kind."""

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        _check_unique(self.kinds, "kinds")
        _check_unique(self.unseen, "unseen")
        for kind in self.unseen:
            if kind in self.kinds:
                raise problem_error(f"'{kind}' is also in data.reject.kinds", key="unseen")
        return self


class DataSpec(_Section):
    """The data set: where the rows are, and what their columns mean."""

    train: str
    """Training rows: a file, a folder or a glob of Parquet, CSV, TSV, Arrow or Feather files (CSV
    and TSV also gzip); an IDX image file (plain or gzip), or the folder of MNIST's IDX files; or
    `digits` or `diabetes`, which are installed with scikit-learn."""
    validation: PathOrFraction = None
    """Validation rows: a source like `train`, or the fraction to hold out of the training rows that
    `test` leaves."""
    test: PathOrFraction = None
    """Test rows: a source like `train`, or the fraction of the training rows to hold out."""
    label: str | tuple[str, ...] = "label"
    """Label column. A regression can have a list of columns, or a column of lists."""
    features: str | tuple[str, ...] | None = None
    """Feature columns, or one column of lists. Default: every column but the label."""
    task: Literal["classification", "regression"] | None = None
    """Default: classification with a KL divergence, regression with L2."""
    positive: Annotated[int, Field(strict=True)] | str | None = None
    """Class with target 1 if the network has a single sigmoid output; all others have target 0."""
    scaling: Literal["none", "minmax", "standard"] = "minmax"
    """Scaling of the features, fitted to the training rows. `minmax`: to 0–1; `standard`: to mean 0
    and standard deviation 1. Each column is scaled separately; the pixels of an image, and the
    items of a list column, are scaled together."""
    reject: RejectSpec | None = None
    """Adds a class 'none of the above' for images, such as `{label: none, ratio: 0.3}`."""

    @property
    def sources(self) -> dict[str, str]:
        """The sources that have a name, by split; a fraction of the training rows has none."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: source for split, source in splits.items() if isinstance(source, str)}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The label columns, also if there is one."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def feature_columns(self) -> tuple[str, ...] | None:
        """The feature columns, also if there is one; None for all but the label."""
        return (self.features,) if isinstance(self.features, str) else self.features

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        label, features = self.label_columns, self.feature_columns
        for key, columns in (("label", label), ("features", features)):
            if columns == ():
                raise problem_error("names no column", key=key)
            _check_unique(columns or (), key)
        labels = set(label)
        for name in features or ():
            if name in labels:
                raise problem_error(f"'{name}' is the label", key="features")
        return self


class LayerSpec(_Section):
    """One layer: an affine map and an activation."""

    units: Size
    """Number of outputs. (With `max` over subsets: of inputs; each subset has one output.)"""
    activation: Annotated[NameOrOptions, _buildable(make_activation)] = "identity"
    """A name, or a mapping such as `{name: leaky_relu, slope: 0.1}`."""
    initializer: Annotated[NameOrOptions | None, _buildable(make_initializer)] = None
    """Default: He for ReLU and its variants, Xavier for other activations."""

    @model_validator(mode="after")
    def _check_units(self) -> Self:
        activation = make_activation(self.activation)
        _check_options(lambda: activation.affine_width(self.units), "activation")
        return self


class ModelSpec(_Section):
    """The network, and the divergence that training minimizes."""

    layers: Annotated[tuple[LayerSpec, ...], Field(min_length=1)]
    """Layers from the first hidden one to the output layer."""
    divergence: str = "kl"
    """`kl` (two-class with one sigmoid output, multi-class with softmax) or `l2`."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type of the weights and of all computations."""

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        last = self.layers[-1]
        return make_activation(last.activation).output_width(last.units)

    @model_validator(mode="after")
    def _check_divergence(self) -> Self:
        output = make_activation(self.layers[-1].activation)
        _check_options(lambda: resolve_divergence(self.divergence, output), "divergence")
        return self


class ScheduleSpec(_Section):
    """How the learning rate changes. Times are in epochs and can be fractions."""

    name: Literal["constant", "step", "cosine"] = "constant"
    """constant, step or cosine."""
    every: PositiveNumber = 10.0
    """`step`: epochs between two decays."""
    factor: PositiveNumber = 0.5
    """`step`: factor by which η is multiplied at each decay."""
    epochs: PositiveNumber | None = None
    """`cosine`: epochs until the final rate. Default: all epochs after the warmup."""
    final: Annotated[float, Field(strict=True, ge=0.0, le=1.0)] = 0.0
    """`cosine`: final rate as a fraction of η."""
    warmup: NonNegative = 0.0
    """Epochs of linear increase to η before the schedule starts."""


class OptimizerSpec(_Section):
    """The weight update. Default: `W ← W − (η/T)·S`, with the sum S of a batch's T gradients."""

    name: Annotated[
        str,
        _buildable(lambda name: make_optimizer(str(name))),
        AfterValidator(lambda name: OPTIMIZER_ALIASES.get(name, name)),
    ] = "gradient_descent"
    """gradient_descent (or sgd), momentum, nesterov, rmsprop, adam or adamw."""
    eta: Annotated[PositiveNumber, Field(validation_alias=AliasChoices("eta", "learning_rate"))] = (
        0.1
    )
    """Learning rate η. `learning_rate` is accepted as well."""
    batch_size: Size | Literal["full"] = 64
    """Rows per update over all workers, or `full`: all training rows in each update."""
    weight_decay: Number | None = None
    """λ of the penalty (λ/2)·‖W‖². Default 0; adamw decouples it, default 0.01."""
    momentum: Number | None = None
    """momentum, nesterov: μ. Default 0.9."""
    rho: Number | None = None
    """rmsprop: decay rate of the mean square. Default 0.99."""
    beta1: Number | None = None
    """adam, adamw: decay rate of the mean. Default 0.9."""
    beta2: Number | None = None
    """adam, adamw: decay rate of the mean square. Default 0.999."""
    epsilon: Number | None = None
    """rmsprop, adam, adamw: ε in the denominator. Default 1e-8."""
    schedule: ScheduleSpec = ScheduleSpec()

    @property
    def options(self) -> dict[str, float]:
        """The options of this optimizer that the spec sets."""
        names = {"weight_decay", "momentum", "rho", "beta1", "beta2", "epsilon"}
        return self.model_dump(include=names, exclude_none=True)

    @model_validator(mode="after")
    def _check_each_option(self) -> Self:
        for option, value in self.options.items():
            _check_options(partial(make_optimizer, self.name, **{option: value}), option)
        return self


class EarlyStoppingSpec(_Section):
    """Stop when the validation loss no longer falls, and keep the best weights."""

    patience: Count = 5
    """Epochs to wait for a better validation loss."""
    min_delta: NonNegative = 0.0
    """How much lower a validation loss must be to count as better."""


class StopSpec(_Section):
    """When training ends."""

    max_epochs: Count = 100
    """Maximum number of passes over the training rows."""
    tolerance: NonNegative = 1e-4
    """Converged when the relative change of the training loss is below this value; 0: never."""
    patience: Count = 3
    """Number of consecutive epochs below `tolerance`."""
    early_stopping: EarlyStoppingSpec | None = None
    """Such as `{patience: 5}`: stop when the validation loss no longer falls; keep the best
    weights."""


MAX_WORKERS = 1024  #: The driver serves every worker itself; more would only wait for it.
Workers = Annotated[int, Field(strict=True, gt=0, le=MAX_WORKERS)]


class WorkerRange(_Section):
    """The numbers of workers that a run can have."""

    min: Workers = 1
    """With fewer, the run continues for 10 s while lost workers are replaced, then waits."""
    max: Workers | None = None
    """The run grows to this number when the cluster has free CPUs. Default: the number of CPUs."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            raise problem_error(f"is less than min ({self.min})", key="max")
        return self


WorkerCount = Annotated[
    Annotated[Workers, Tag("number")] | Annotated[WorkerRange, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | WorkerRange) else "number"),
]


class ClusterSpec(_Section):
    """Where the job runs. Of these keys only `microbatch_size` changes the weights."""

    address: Annotated[str, AfterValidator(_check_cluster_address)] = "local"
    """`inline` (this process, no Ray), `local` (Ray on this machine), `auto` (the cluster that this
    machine belongs to), or the address `host:port` of a cluster."""
    workers: WorkerCount | None = None
    """Number of gradient workers, or a range such as `{min: 2, max: 8}` in which the run shrinks
    and grows. Default: one for each CPU. On a cluster, a run releases workers above its minimum
    when other jobs need CPUs."""
    resource_timeout: Seconds = 300.0
    """Seconds to wait for enough workers. Then the run ends with exit code 3; `sumgrad resume`
    continues it. A submitted job waits up to 30 days by default."""
    microbatch_size: Size | None = None
    """Rows per microbatch, the unit of work and of deterministic summing. Default: half of a batch,
    but at least 32 and at most 256."""

    @property
    def worker_range(self) -> WorkerRange:
        """The number of workers as a range."""
        if isinstance(self.workers, int):
            return WorkerRange(min=self.workers, max=self.workers)
        return self.workers or WorkerRange()


class CheckpointSpec(_Section):
    """How often a run is saved in its folder, for `sumgrad resume`."""

    every_seconds: PositiveSeconds | None = 60.0
    """Seconds between two checkpoints; null: never."""
    every_steps: Count | None = None
    """Steps between two checkpoints. Checkpoints are written in the background."""
    keep: Count = 2
    """Number of recent checkpoints to keep, besides the best."""


class TrackingSpec(_Section):
    """Where MLflow keeps parameters, curves and models."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow tracking URI. The default needs no server."""
    experiment: str = "sumgrad"
    """MLflow experiment of the run."""
    on_unavailable: Literal["buffer", "fail"] = "buffer"
    """If the server does not answer at the start, `buffer` trains, keeps everything in the run's
    folder and delivers it later; `fail` does not start the run."""


class JobSpec(_Section):
    """A training job."""

    name: Annotated[
        str, AfterValidator(_check_name), Field(json_schema_extra={"pattern": f"^{_NAME}$"})
    ]
    """Name of the job: letters, digits, dots, dashes and underscores."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    """Seed of the initial weights, the order of rows, held-out rows and made images."""
    data: DataSpec
    model: ModelSpec
    optimizer: OptimizerSpec = OptimizerSpec()
    stop: StopSpec = StopSpec()
    cluster: ClusterSpec = ClusterSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    tracking: TrackingSpec = TrackingSpec()
    output: str = "runs"
    """Folder of all runs; each run has a folder in it. Default: the environment variable
    `SUMGRAD_OUTPUT`, or `runs`."""

    @property
    def task(self) -> Literal["classification", "regression"]:
        """Whether labels are classes or numbers."""
        if self.data.task is not None:
            return self.data.task
        return "regression" if self.model.divergence == "l2" else "classification"

    @model_validator(mode="after")
    def _check_sections_together(self) -> Self:
        labels = self.data.label_columns
        if self.task == "classification" and len(labels) > 1:
            problem = f"a classification has one label column, not {len(labels)}"
            hint = "for a regression set model.divergence to l2"
            raise problem_error(problem, hint, "data.label")
        is_multi_class = self.task == "classification" and self.model.outputs > 1
        if self.data.reject is not None and not is_multi_class:
            problem = "a reject class needs a classification with one output per class"
            raise problem_error(problem, key="data.reject")
        if self.stop.early_stopping is not None and self.data.validation is None:
            hint = "set data.validation, such as 0.1"
            raise problem_error("needs validation rows", hint, "stop.early_stopping")
        return self
