"""fields: what NSynth says of a note. Names, types and numbers; every file here speaks of notes by them."""

import pyarrow as pa

FAMILIES = (
    "bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal",
)  # fmt: skip
SOURCES = ("acoustic", "electronic", "synthetic")
QUALITIES = (
    "bright", "dark", "distortion", "fast_decay", "long_release", "multiphonic", "nonlinear_env", "percussive",
    "reverb", "tempo-synced",
)  # fmt: skip
VELOCITIES = (25, 50, 75, 100, 127)
SAMPLE_RATE = 16_000
LENGTH = 64_000

# the types are fixed: inferred ones would differ where every note of a split has an empty qualities_str
FIELDS = pa.schema(
    [
        ("note", pa.int64()),
        ("note_str", pa.string()),
        ("instrument", pa.int64()),
        ("instrument_str", pa.string()),
        ("pitch", pa.int64()),
        ("velocity", pa.int64()),
        ("sample_rate", pa.int64()),
        ("qualities", pa.list_(pa.int8())),
        ("qualities_str", pa.list_(pa.string())),
        ("instrument_family", pa.int64()),
        ("instrument_family_str", pa.string()),
        ("instrument_source", pa.int64()),
        ("instrument_source_str", pa.string()),
    ]
)
