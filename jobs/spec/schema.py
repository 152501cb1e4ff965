"""The job spec: every key that a job can have, with its meaning, its default and its limits.

The schema is the documentation: ``sumgrad config schema`` prints it, ``sumgrad init`` writes it out
with comments, and an unknown key is refused with the nearest one named.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sumgrad.cluster.errors import ClusterUnreachable
from sumgrad.cluster.ray_backend.session import check_address
from sumgrad.model.activations import make_activation
from sumgrad.model.divergences import resolve_divergence
from sumgrad.model.errors import OptionError
from sumgrad.model.initializers import make_initializer
from sumgrad.model.optimizers import make_optimizer

#: Numbers are strict, so that `yes` is not taken for 1 nor 64.0 for 64.
Number = Annotated[float, Field(strict=True)]
PositiveNumber = Annotated[float, Field(strict=True, gt=0.0)]
NonNegative = Annotated[float, Field(strict=True, ge=0.0)]
#: Three years: more than a clock's arithmetic can take is as good as never.
Seconds = Annotated[float, Field(strict=True, ge=0.0, le=1e8)]
PositiveSeconds = Annotated[float, Field(strict=True, gt=0.0, le=1e8)]
Fraction = Annotated[float, Field(strict=True, gt=0.0, lt=1.0)]
Count = Annotated[int, Field(strict=True, gt=0)]
#: What is an index or a size somewhere, so that it has to fit into a machine's word.
Size = Annotated[int, Field(strict=True, gt=0, lt=2**31)]
#: A name, or a mapping of a name and its options.
NameOrOptions = str | dict[str, Any]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _empty_section(cls, value: Any, info: ValidationInfo) -> Any:
        """A section whose keys are all commented out reads as null, and means its defaults."""
        default = cls.model_fields[str(info.field_name)].default
        return default if value is None and isinstance(default, _Section) else value


def _told(make: Callable[[], object], key: str = "") -> None:
    """Build something, and say what is wrong with it as pydantic wants to hear it.

    Args:
        make: Builds it.
        key: The key of the section that is to blame, where the whole section is being checked.
    """
    try:
        make()
    except OptionError as error:
        facts = {"message": error.message, "hint": error.hint, "key": key}
        raise PydanticCustomError("option", "{message}", facts) from None


def _checked(make: Callable[[NameOrOptions], object]) -> AfterValidator:
    """A validator that builds the named thing, so that a wrong name or option is told at once."""

    def check(value: NameOrOptions | None) -> NameOrOptions | None:
        if value is not None:
            _told(lambda: make(value))
        return value

    return AfterValidator(check)


def _expect_address(address: str) -> str:
    """What cannot be an address is told before anything is begun, in the words of who uses it."""
    try:
        check_address(address)
    except ClusterUnreachable as error:
        message = error.message.removeprefix("cluster.address ")
        facts = {"message": message, "hint": error.hint, "key": ""}
        raise PydanticCustomError("option", "{message}", facts) from None
    return address


PathOrFraction = Fraction | str | None


class RejectSpec(_Section):
    """An extra class, 'none of the above', trained on non-digits made from the digits."""

    label: str = "none"
    """The name of the extra class."""
    ratio: Fraction = 0.3
    """Non-digits made for each digit, in the training and in the test rows."""
    kinds: tuple[str, ...] = ("noise", "scrambled", "halves")
    """The kinds of non-digits to train with."""
    unseen: tuple[str, ...] = ("seams",)
    """Kinds that are kept out of training, to test whether rejection carries over."""


class DataSpec(_Section):
    """Where the rows come from and what they mean."""

    train: str
    """Training rows: a file, a folder or a glob of Parquet, CSV, Arrow or Feather files, an IDX
    image file (plain or gzip), or `digits`, the 1,797 digits that scikit-learn ships."""
    validation: PathOrFraction = None
    """Validation rows: another file, or the fraction of the training rows to hold out."""
    test: PathOrFraction = None
    """Test rows: another file, or the fraction of the training rows to hold out."""
    label: str | tuple[str, ...] = "label"
    """The label column. For a regression also a list of columns, or a list column."""
    features: str | tuple[str, ...] | None = None
    """Feature columns, or one list column; default: every column but the label."""
    task: Literal["classification", "regression"] | None = None
    """Default: classification with a KL divergence, regression with L2."""
    positive: Annotated[int, Field(strict=True)] | str | None = None
    """The class that counts as 1 with a single sigmoid output; all the others count as 0."""
    scaling: Literal["none", "minmax", "standard"] = "minmax"
    """Of the features, fitted on the training rows only. `minmax`: to 0–1; `standard`: to mean 0
    and deviation 1. Each column is scaled by itself; an image's pixels and a list column share
    one range."""
    reject: RejectSpec | None = None
    """An extra class for images, 'none of the above', such as `{label: none, ratio: 0.3}`."""


class LayerSpec(_Section):
    """One layer: an affine map and an activation."""

    units: Size
    """Outputs of the layer. (With `max` over subsets: its inputs; each subset gives one output.)"""
    activation: Annotated[NameOrOptions, _checked(make_activation)] = "identity"
    """A name, or a mapping such as `{name: leaky_relu, slope: 0.1}`."""
    initializer: Annotated[NameOrOptions | None, _checked(make_initializer)] = None
    """Default: chosen by the activation (He for ReLU and its kin, Xavier otherwise)."""

    @model_validator(mode="after")
    def _units_fit(self) -> Self:
        _told(lambda: make_activation(self.activation).affine_width(self.units), "activation")
        return self


class ModelSpec(_Section):
    """The network and what it is trained to make small."""

    layers: Annotated[tuple[LayerSpec, ...], Field(min_length=1)]
    """From the first hidden layer to the output layer."""
    divergence: str = "kl"
    """`kl` (two-class for one sigmoid output, multi-class for softmax) or `l2`."""
    dtype: Literal["float32", "float64"] = "float32"
    """The arithmetic of training."""

    @model_validator(mode="after")
    def _divergence_fits(self) -> Self:
        output = make_activation(self.layers[-1].activation)
        _told(lambda: resolve_divergence(self.divergence, output), "divergence")
        return self


class ScheduleSpec(_Section):
    """How the learning rate changes; times are in epochs and may be fractions."""

    name: Literal["constant", "step", "cosine"] = "constant"
    """constant, step or cosine."""
    every: PositiveNumber = 10.0
    """`step`: epochs between two drops."""
    factor: PositiveNumber = 0.5
    """`step`: what η is multiplied with at each drop."""
    epochs: PositiveNumber | None = None
    """`cosine`: epochs until the final rate; default: all that the warm-up leaves."""
    final: Annotated[float, Field(strict=True, ge=0.0, le=1.0)] = 0.0
    """`cosine`: the final rate as a fraction of η."""
    warmup: NonNegative = 0.0
    """Epochs of linear growth to η that come first, with any schedule."""


class OptimizerSpec(_Section):
    """How the weights follow the gradient. The default is `W ← W − (η/T)·∇Loss`."""

    name: Annotated[str, _checked(lambda name: make_optimizer(str(name)))] = "gradient_descent"
    """gradient_descent, momentum, nesterov, rmsprop, adam or adamw."""
    eta: PositiveNumber = 0.1
    """The learning rate η."""
    batch_size: Size | Literal["full"] = 64
    """Instances per update over all workers together, or `full`: every row in each step."""
    weight_decay: Number | None = None
    """λ of the penalty (λ/2)·‖W‖², default 0; adamw decouples it, default 0.01."""
    momentum: Number | None = None
    """momentum, nesterov: μ, default 0.9."""
    rho: Number | None = None
    """rmsprop: how much of the mean square is kept, default 0.99."""
    beta1: Number | None = None
    """adam, adamw: how much of the mean is kept, default 0.9."""
    beta2: Number | None = None
    """adam, adamw: how much of the mean square is kept, default 0.999."""
    epsilon: Number | None = None
    """rmsprop, adam, adamw: ε of the denominator, default 1e-8."""
    schedule: ScheduleSpec = ScheduleSpec()

    @property
    def options(self) -> dict[str, float]:
        """The optimiser's own numbers, where they were given."""
        names = ("weight_decay", "momentum", "rho", "beta1", "beta2", "epsilon")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        for option, value in self.options.items():
            one = {option: value}
            _told(lambda one=one: make_optimizer(self.name, **one), option)  # type: ignore[misc]
        return self


class EarlyStoppingSpec(_Section):
    """Stop when the validation loss no longer falls, and keep the best weights."""

    patience: Count = 5
    """Epochs without a better validation loss."""
    min_delta: NonNegative = 0.0
    """How much lower a validation loss must be to count as better."""


class StopSpec(_Section):
    """When training ends."""

    max_epochs: Count = 100
    """The budget: passes over the training rows."""
    tolerance: NonNegative = 1e-4
    """Converged when the training loss changes by less than this, relatively; 0 turns it off."""
    patience: Count = 3
    """… for so many epochs in a row."""
    early_stopping: EarlyStoppingSpec | None = None
    """Such as `{patience: 5}`: stop when the validation loss no longer falls, keep the best."""


#: Beyond it one parameter driver would be what all of them wait for.
MAX_WORKERS = 1024
Workers = Annotated[int, Field(strict=True, gt=0, le=MAX_WORKERS)]


class WorkerRange(_Section):
    """How many workers there may be."""

    min: Workers = 1
    """With fewer, the run waits."""
    max: Workers | None = None
    """More join, up to so many, when the cluster has room; default: all CPUs there are."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max is not None and self.max < self.min:
            facts = {"message": f"is less than min ({self.min})", "hint": "", "key": "max"}
            raise PydanticCustomError("option", "{message}", facts)
        return self


WorkerCount = Annotated[
    Annotated[Workers, Tag("number")] | Annotated[WorkerRange, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, dict | WorkerRange) else "number"),
]


class ClusterSpec(_Section):
    """Where it runs. The weights do not depend on any of this but `microbatch_size`."""

    address: Annotated[str, AfterValidator(_expect_address)] = "local"
    """`inline` (this process, no Ray), `local` (Ray on this machine), `auto` (the cluster that this
    machine is one of), or a cluster's address, `host:port`."""
    workers: WorkerCount | None = None
    """Gradient workers: a number, or a range such as `{min: 2, max: 8}` within which the run may
    shrink and grow; default: one for each CPU, and one at least. On a cluster, workers beyond the
    least make room for other jobs."""
    resource_timeout: Seconds = 300.0
    """With fewer workers than it needs a run waits so long for more, and then ends with exit code
    3; `sumgrad resume` goes on."""
    microbatch_size: Size | None = None
    """Rows of a microbatch, the unit of work and of exact summing; default: half of a step's, but
    from 32 to 256."""

    @property
    def worker_range(self) -> WorkerRange:
        """How many workers there may be, whichever way it was said."""
        if isinstance(self.workers, int):
            return WorkerRange(min=self.workers, max=self.workers)
        return self.workers or WorkerRange()


class CheckpointSpec(_Section):
    """How often a run is saved on the way, in its folder, so that `sumgrad resume` can go on."""

    every_seconds: PositiveSeconds | None = 60.0
    """After so many seconds; null for never."""
    every_steps: Count | None = None
    """And after so many steps; writing goes on beside training, which does not wait for it."""
    keep: Count = 2
    """So many of the last checkpoints are kept, and the best."""


class TrackingSpec(_Section):
    """Where the curves are kept."""

    uri: str = "sqlite:///mlflow.db"
    """Any MLflow tracking URI. The default needs no server."""
    experiment: str = "sumgrad"
    """The MLflow experiment that the run belongs to."""
    on_unavailable: Literal["buffer", "fail"] = "buffer"
    """A server that does not answer at the start: `buffer` keeps everything in the run's folder and
    delivers it later; `fail` does not begin."""


class JobSpec(_Section):
    """A training job."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """The job's name: letters, digits, dots, dashes and underscores."""
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    """Of the initial weights, the order of the rows, held-out rows and made non-digits."""
    data: DataSpec
    model: ModelSpec
    optimizer: OptimizerSpec = OptimizerSpec()
    stop: StopSpec = StopSpec()
    cluster: ClusterSpec = ClusterSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    tracking: TrackingSpec = TrackingSpec()
    output: str = "runs"
    """The folder that gets a sub-folder for each run, with its checkpoints and its model; default:
    what `SUMGRAD_OUTPUT` in the environment names, or `runs`."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.stop.early_stopping is not None and self.data.validation is None:
            facts = {
                "message": "needs validation rows",
                "hint": "set data.validation, such as 0.1",
                "key": "stop.early_stopping",
            }
            raise PydanticCustomError("option", "{message}", facts)
        return self

    @property
    def task(self) -> Literal["classification", "regression"]:
        """What the labels are: classes, or numbers."""
        if self.data.task is not None:
            return self.data.task
        return "regression" if self.model.divergence == "l2" else "classification"
