"""render: a SoundFont -> a folder in NSynth's layout. Notes made the way NSynth's were: no download, real splits.

    OUT/nsynth-{train,valid,test}/examples.json           written last, by rename
    OUT/nsynth-{train,valid,test}/audio/FAMILY_SOURCE_NNN-PPP-VVV.wav
    OUT/render.json      what was asked for, and the summary once it is done; other options are refused
    OUT/render.log       a line a finished note with its digest: what a second run may reuse

A note is held for 3 s and rings for 1, is played at 48 kHz and resampled to 16 kHz, and its peak is drawn from the
range of true NSynth notes, whatever its velocity.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from shards import audio, programs, soundfont, voice
from shards.errors import DataError, UsageError
from shards.fields import FAMILIES, LENGTH, QUALITIES, SAMPLE_RATE, SOURCES
from shards.format import write_whole
from shards.programs import SPLITS, Instrument, draw
from shards.progress import meter
from shards.qualities import HOLD_SECONDS, qualities

RECIPE = 1  # goes up when the same options give other bytes
SECONDS = 4.0
PEAK_DB = (-7.7, -0.6)
SILENT_PEAK = 1e-4
LIBRARIES = ("numpy", "numba", "soxr")
EXTRA = "pip install 'notestream[demo]'"


def render(out: Path, *, font: Path | None, notes: int, seed: int) -> dict[str, Any]:
    """Render `notes` notes of a SoundFont (None: the demo's, TimGM6mb.sf2) into `out`; a second run goes on or is done.

    The same font, notes and seed give the same bytes (on one kind of processor, with the same libraries). Returns the
    font's name, notes and instruments a split, families a split (notes each), and `reused`: notes of an earlier run.

    Raises:
        UsageError: no font or extra, too many notes for the font, other options or files in `out`, no room.
        DataError: the font can't be read.
    """
    if notes < len(SPLITS) or not -(2**63) <= seed < 2**63:
        raise UsageError(f"notes must be 3 or more, and seed fit in 64 bits, got {notes = }, {seed = }: ask for others")
    path = font_path(font)
    asked = {"font": path.name, "font_sha256": _sha256(path), "notes": notes, "seed": seed, "recipe": RECIPE}
    summary = _marker(out, asked=asked).get("summary")
    if summary and _complete(out, summary=summary):
        return {**summary, "reused": notes}
    return _render(out, font=soundfont.read(path), asked=asked)


def font_path(font: Path | None) -> Path:
    """Find the font: the file given, or TimGM6mb.sf2 inside the installed pretty_midi, which isn't imported."""
    if font is not None:
        if not font.is_file():
            raise UsageError(f"font {font} is not a file: give an .sf2 file, or none for TimGM6mb.sf2")
        return font
    spec = importlib.util.find_spec("pretty_midi")
    path = Path(spec.origin).parent / "TimGM6mb.sf2" if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise UsageError(f"TimGM6mb.sf2 is missing, since pretty_midi is not installed: {EXTRA}")
    return path


def _render(out: Path, *, font: soundfont.SoundFont, asked: dict[str, Any]) -> dict[str, Any]:
    notes, seed = asked["notes"], asked["seed"]
    listed = programs.instruments(font, seed=seed)
    most = sum(len(instrument.notes) for instrument in listed)
    if notes > most:
        raise UsageError(_too_many(notes, font=font.name, most=most))
    for split in SPLITS:
        (out / f"nsynth-{split}" / "audio").mkdir(parents=True, exist_ok=True)
        for stray in (out / f"nsynth-{split}" / "audio").glob(".*.tmp"):
            stray.unlink()
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    write_whole(out / "render.json", _json({**asked, "versions": versions, "summary": None}))

    examples: dict[str, dict[str, Any]] = {split: {} for split in SPLITS}
    reused, made = _log(out / "render.log"), Counter()
    with meter("rendering", total=notes, unit="notes") as progress, (out / "render.log").open("a") as log:
        for instrument, pitch, velocity in programs.candidates(listed, seed=seed):
            name = f"{instrument.name}-{pitch:03d}-{velocity:03d}"
            wav = out / f"nsynth-{instrument.split}" / "audio" / f"{name}.wav"
            samples = _reuse(wav, digest=reused.get(name))
            made["reused"] += samples is not None
            if samples is None:
                samples = note(font, program=instrument.program, pitch=pitch, velocity=velocity, seed=seed)
                if samples is None:
                    continue
                _keep(wav, samples=samples, log=log)
            fields = _fields(
                instrument, name=name, pitch=pitch, velocity=velocity, number=made["notes"], samples=samples
            )
            examples[instrument.split][name] = fields
            made["notes"] += 1
            progress.advance()
            if made["notes"] == notes:
                break
    if made["notes"] < notes:
        raise UsageError(_too_many(notes, font=font.name, most=made["notes"]))
    for split in SPLITS:
        write_whole(out / f"nsynth-{split}" / "examples.json", _json(examples[split]))
    summary = _summary(examples, font=font.name)
    write_whole(out / "render.json", _json({**asked, "versions": versions, "summary": summary}))
    return {**summary, "reused": made["reused"]}


def note(font: soundfont.SoundFont, *, program: int, pitch: int, velocity: int, seed: int) -> NDArray[np.int16] | None:
    """Render one note as int16 (64000,) at 16 kHz, its peak drawn from -7.7..-0.6 dBFS; None if it is silent."""
    try:
        import soxr
    except ModuleNotFoundError as error:
        raise UsageError(f"soxr, which resamples the notes, is not installed: {EXTRA}") from error
    played = voice.sound(font, program=program, pitch=pitch, velocity=velocity, hold=HOLD_SECONDS, seconds=SECONDS)
    samples = np.zeros(LENGTH, np.float32)
    resampled = soxr.resample(played, voice.RATE, SAMPLE_RATE)[:LENGTH]
    samples[: len(resampled)] = resampled
    peak = float(np.abs(samples).max())
    if not peak >= SILENT_PEAK:
        return None
    peak_db = PEAK_DB[0] + (PEAK_DB[1] - PEAK_DB[0]) * draw(seed, "peak", program, pitch, velocity)
    return np.rint(samples * (32767 / peak * 10 ** (peak_db / 20))).astype(np.int16)


def _fields(
    instrument: Instrument, *, name: str, pitch: int, velocity: int, number: int, samples: NDArray[np.int16]
) -> dict[str, Any]:
    shown = qualities(samples)
    return {
        "note": number,
        "note_str": name,
        "instrument": instrument.number,
        "instrument_str": instrument.name,
        "pitch": pitch,
        "velocity": velocity,
        "sample_rate": SAMPLE_RATE,
        "qualities": shown,
        "qualities_str": [quality for quality, flag in zip(QUALITIES, shown, strict=True) if flag],
        "instrument_family": FAMILIES.index(instrument.family),
        "instrument_family_str": instrument.family,
        "instrument_source": SOURCES.index(instrument.source),
        "instrument_source_str": instrument.source,
    }


def _marker(out: Path, *, asked: dict[str, Any]) -> dict[str, Any]:
    """Read what an earlier run left in `out`, refusing other options, and files that no run of ours wrote."""
    path = out / "render.json"
    if not path.exists():
        if any((out / f"nsynth-{split}").exists() for split in SPLITS):
            raise UsageError(f"{out} holds an nsynth-* folder that render didn't write: choose another folder")
        return {}
    try:
        marker = json.loads(path.read_text())
        differing = {key: (marker.get(key), value) for key, value in asked.items() if marker.get(key) != value}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} can't be read as JSON ({error}): remove {out} and render anew") from error
    if differing:
        said = ", ".join(f"{key} {was} and not {now}" for key, (was, now) in differing.items())
        raise UsageError(f"{out} was rendered with {said}: ask for the same, or choose another folder")
    return marker


def _complete(out: Path, *, summary: dict[str, Any]) -> bool:
    return all(
        (out / f"nsynth-{split}" / "examples.json").is_file()
        and sum(1 for _ in (out / f"nsynth-{split}" / "audio").glob("*.wav")) >= summary["notes"][split]
        for split in SPLITS
    )


def _log(path: Path) -> dict[str, str]:
    """Read the digests of finished notes; a last line that was cut off doesn't count."""
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        with path.open("a") as log:
            log.write("\n")
    return {words[0]: words[1] for line in lines if line.endswith("\n") and len(words := line.split()) == 2}


def _reuse(wav: Path, *, digest: str | None) -> NDArray[np.int16] | None:
    """Return an earlier run's samples, if the file is to the byte what that run wrote."""
    if digest is None or not wav.is_file():
        return None
    data = wav.read_bytes()
    if hashlib.blake2b(data, digest_size=16).hexdigest() != digest:
        return None
    return audio.decode_pcm16(data, header=audio.read_header(data, name=wav.name))


def _keep(wav: Path, *, samples: NDArray[np.int16], log: IO[str]) -> None:
    data = audio.encode(samples, sample_rate=SAMPLE_RATE, codec="wav")
    write_whole(wav, data, durable=False)  # its digest tells whether it is whole
    log.write(f"{wav.stem} {hashlib.blake2b(data, digest_size=16).hexdigest()}\n")
    log.flush()


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=4, separators=(", ", ": ")).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _too_many(notes: int, *, font: str, most: int) -> str:
    return f"{font} can give {most} notes, not {notes}: ask for fewer, or give a larger font"


def _summary(examples: dict[str, dict[str, Any]], *, font: str) -> dict[str, Any]:
    """Count the notes, instruments and notes a family of each split."""
    every = {split: list(fields.values()) for split, fields in examples.items()}
    return {
        "font": font,
        "notes": {split: len(fields) for split, fields in every.items()},
        "instruments": {split: len({one["instrument"] for one in fields}) for split, fields in every.items()},
        "families": {
            split: dict(sorted(Counter(one["instrument_family_str"] for one in fields).items()))
            for split, fields in every.items()
        },
    }
