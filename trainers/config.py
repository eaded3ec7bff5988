"""config: every option of a run in one frozen value, dumped beside its checkpoints. Presets are functions."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from shards.errors import UsageError
from streaming.augment import Augment
from streaming.augment import preset as augment_preset
from streaming.stages import OnBadRow, Pad
from streaming.store import Remote
from trainers.options import MaskConfig, MelConfig, ModelConfig, OptimConfig

T = TypeVar("T")
Monitor = Literal["valid/accuracy", "valid/macro_accuracy", "valid/loss", "valid/map", "valid/macro_auc"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of `python -m trainers train`."""

    data: str | None = None
    """The pack, a folder or URL: with train/ and, where there are, valid/ and test/. A=7,B=3 mixes packs so."""
    name: str | None = None
    """The run's name, new each time; preset and time unless given."""
    resume: str | None = None
    """Go on with the run of this name, with its own options; a changed one is refused by name. Its packs may move."""
    runs: str = "runs"
    """Folder or URL of all runs."""
    preset: Literal["base", "demo", "seed"] = "base"
    """Where the other options' defaults come from: base (real runs), demo (a laptop), seed (the 2018 experiment)."""
    config: str | None = None
    """A run's config.json to repeat; flags given beside it win."""
    dry_run: bool = False
    """Look at every node, data and storage as a run does before its first step, tell what was found, and end."""
    epochs: int = 20
    """Passes over the training split."""
    batch_size: int = 256
    """Rows of the global batch, over all ranks."""
    rebatch: bool = False
    """Let --resume go on with another --batch-size."""
    seed: int = 0
    """Names the order, the augmentation and the first weights."""
    label: str = "instrument_family_str"
    """The column to learn: of text or whole numbers (pitch moves with the note), or lists (see docs/training.md)."""
    where: str | None = None
    """Which rows of every split, by a condition on the index: "pitch >= 40 and velocity in (100, 127)"."""
    limit: int | None = None
    """Train on so many rows of each pack, drawn fairly; the same ones for any seed."""
    balance: str | None = None
    """LABEL or LABEL=POWER: repeat training rows of rare classes; 0.5 goes half the way (default), 1 all of it."""
    class_weights: float | None = None
    """Weigh training rows by their class's frequency to minus this power: 0.5 goes half the way, 1 all of it."""
    crop_seconds: float = 2.5
    """Length of a training crop; evaluation hears whole notes, or --views of this length."""
    views: int = 0
    """Crops spread evenly over each note whose answers an evaluation averages; 0 hears the whole note."""
    pad: Pad = "zero"
    """What follows a note that is shorter than the crop: silence, or the note again."""
    on_bad_row: OnBadRow = "raise"
    """mask: a row that can't be read becomes silence of weight 0; at most 1 % of them, else the run ends."""
    verify_reads: bool = True
    """Read notes whole and check them; without, only the crop is read, and damage is heard, not seen."""
    remote: Remote | None = None
    """How data at a URL is read: through a mirror on each node's disk, or ranged; the mirror where there is room."""
    mirror_gb: float | None = None
    """What a node's mirror may take; half of what its disk has for it unless given; more data comes in windows."""
    lanes: int = 1
    """Windows that are open side by side (see docs/order.md); chosen where --mirror-gb is too little for all data."""
    window: int | None = None
    """Rows of a window; all rows are shuffled together unless given."""
    world_size: int | None = None
    """Ranks; every GPU of this machine unless given, or one rank on a CPU."""
    min_world_size: int | None = None
    """Fewest ranks to go on with while nodes are away; it grows back to --world-size as they return. Ray only."""
    readers: int | None = None
    """DataLoader processes a rank; 0 reads in the training process. Chosen from the cores unless given."""
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """auto takes cuda, else mps, else cpu."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """What the network computes in; auto takes bfloat16 on cuda that has it, else float32. The mel stays float32."""
    micro_batch: int | None = None
    """Rows that a rank puts through the network at once; its share of the batch in pieces, where memory is short."""
    compile: bool = False
    """Let torch.compile make the network faster; the first step takes a minute longer."""
    init_from: str | None = None
    """Weights to begin with: timm (its hub's), a .safetensors file, or a run (folder or URL: its best checkpoint)."""
    local: bool = False
    """Train in this process, without Ray; torchrun's processes do so without being told."""
    address: str | None = None
    """A running Ray cluster; this machine alone unless given (inside a Ray job: that cluster)."""
    max_failures: int = 3
    """How often Ray starts the ranks anew after one is lost."""
    log_every: int = 10
    """Steps from log line to log line."""
    checkpoint_seconds: float = 300.0
    """A checkpoint at least this often, beside one at each epoch's end."""
    log_rows: bool = False
    """Write each rank's keys and a hash of what entered the mel, step by step, to rows/."""
    monitor: Monitor | None = None
    """What keeps the best checkpoint: valid/accuracy, or valid/map where a row has many classes, unless given."""
    baseline_rows: int = 2000
    """Training notes that the report's logistic regression sees; 0 leaves it out."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Where numbers and pictures go beside metrics.jsonl: tensorboard, mlflow, wandb, or package.module:attribute."""
    stall_seconds: float = 300.0
    """Without a step for so long, ranks write what they hang in to stalls/, and fail; 0 lets them hang."""
    transforms: tuple[str, ...] = ()
    """Your own, run on each training crop after --augment's, in this order: package.module:attribute of each."""
    augment: Augment = dataclasses.field(default_factory=lambda: augment_preset("default"))
    mel: MelConfig = dataclasses.field(default_factory=MelConfig)
    masks: MaskConfig = dataclasses.field(default_factory=MaskConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "world_size", "min_world_size", "log_every", "limit", "lanes", "window",
                     "micro_batch"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if self.min_world_size is not None and self.min_world_size > (self.world_size or self.min_world_size):
            raise UsageError(
                f"min_world_size must not exceed world_size ({self.world_size}), got {self.min_world_size}"
            )
        for name in ("readers", "max_failures", "baseline_rows", "views"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"{name} must not be negative, got {value}")
        for name in self.transforms:
            if not all(name.partition(":")[::2]):
                raise UsageError(f"transforms must be named package.module:attribute, got {name!r}")
        if self.monitor is not None and self.monitor not in get_args(Monitor):
            raise UsageError(f"monitor must be one of {', '.join(get_args(Monitor))}, got {self.monitor!r}")
        if self.class_weights is not None and not 0 < self.class_weights <= 1:
            raise UsageError(
                f"class_weights must be a power over 0 and up to 1, got {self.class_weights:g}: 0.5 is usual"
            )
        if self.mirror_gb is not None and self.mirror_gb <= 0:
            raise UsageError(f"mirror_gb must be positive, got {self.mirror_gb}")
        if self.stall_seconds < 0:
            raise UsageError(f"stall_seconds must not be negative, got {self.stall_seconds:g}: 0 lets ranks hang")
        if self.crop_seconds <= 0:
            raise UsageError(f"crop_seconds must be positive, got {self.crop_seconds}: 2.5 is usual")

    @property
    def mirror_bytes(self) -> int | None:
        """The mirror's budget in bytes."""
        return None if self.mirror_gb is None else round(self.mirror_gb * 1e9)


def base() -> TrainConfig:
    """For real runs: resnet18 on NSynth or the like."""
    return TrainConfig()


def demo() -> TrainConfig:
    """For the demo: a small network, 1,000 notes, a few minutes on two cores."""
    return TrainConfig(
        preset="demo",
        epochs=30,
        batch_size=32,
        world_size=2,
        readers=1,
        model=ModelConfig(name="test_resnet"),
        optim=OptimConfig(lr=3e-3, label_smoothing=0.1),
    )


def seed() -> TrainConfig:
    """The 2018 experiment, for a pack of NSynth: 77.6 to 84.1 % on valid in its author's runs.

    A frozen resnet18 of ImageNet's weights hears acoustic notes whole, as they are, for three epochs. His head had two
    layers and dropout, where timm's has one.
    """
    return TrainConfig(
        preset="seed",
        where="instrument_source_str == 'acoustic'",
        epochs=3,
        batch_size=64,
        crop_seconds=4.0,
        init_from="timm",
        augment=augment_preset("none"),
        optim=OptimConfig(lr=3e-3, weight_decay=0.01, frozen_epochs=3),
    )


PRESETS = {"base": base, "demo": demo, "seed": seed}


def to_json(config: TrainConfig) -> dict[str, Any]:
    """Return the config as nested plain values."""
    return dataclasses.asdict(config)


def from_json(values: dict[str, Any], *, name: str) -> TrainConfig:
    """Build a config from what `to_json` gave; `name` is what errors call it.

    Raises:
        UsageError: it holds an option that doesn't exist here.
    """
    values = dict(values)
    for part, kind in (
        ("augment", Augment),
        ("mel", MelConfig),
        ("masks", MaskConfig),
        ("model", ModelConfig),
        ("optim", OptimConfig),
    ):
        if isinstance(values.get(part), dict):
            values[part] = _build(kind, values[part], name=name)
    return _build(TrainConfig, values, name=name)


def _build(kind: type[T], values: dict[str, Any], *, name: str) -> T:
    known = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for option in values:
        if option not in known:
            raise UsageError(f"{name} has an option {option!r} that {kind.__name__} doesn't know: remove it")
    # JSON has no tuples, and no option here is a list
    return kind(**{option: tuple(value) if isinstance(value, list) else value for option, value in values.items()})


def read_config(path: Path) -> TrainConfig:
    """Read a run's config.json.

    Raises:
        UsageError: it isn't there, isn't JSON, or holds an unknown option.
    """
    try:
        return from_json(json.loads(path.read_bytes()), name=str(path))
    except FileNotFoundError as error:
        raise UsageError(f"config {path} does not exist: give a run's config.json") from error
    except json.JSONDecodeError as error:
        raise UsageError(f"config {path} is not JSON ({error}): give a run's config.json") from error
