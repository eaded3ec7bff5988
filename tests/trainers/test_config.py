"""The set of options is frozen: a run's config.json of today is read by the code of tomorrow."""

from trainers.config import PRESETS, TrainConfig, to_json
from trainers.flat import flatten

OPTIONS = """
    data name resume runs preset config dry_run epochs batch_size rebatch seed label where limit balance
    class_weights crop_seconds views pad on_bad_row verify_reads remote mirror_gb lanes window world_size
    min_world_size readers device precision micro_batch compile init_from local address max_failures log_every
    checkpoint_seconds log_rows monitor baseline_rows loggers stall_seconds transforms augment.pitch_semitones
    augment.pitch_probability augment.whole_semitones augment.speed augment.speed_probability augment.random_start
    augment.low_pass augment.low_pass_probability augment.gain_db augment.gain_probability
    augment.polarity_probability augment.noise_snr_db augment.noise_probability augment.engine mel.n_fft
    mel.win_length mel.hop_length mel.n_mels mel.f_min mel.f_max mel.mel_scale mel.norm mel.power mel.floor_db
    mel.reference mel.mean mel.std masks.time_masks masks.time_frames masks.mel_masks masks.mel_bands model.name
    model.norm optim.lr optim.weight_decay optim.warmup optim.label_smoothing optim.clip_norm optim.frozen_epochs
"""


def test_the_set_of_options_is_frozen():
    """One that goes, or gets another name, breaks `--config` and `--resume` of older runs: CHANGELOG has to say so."""
    assert list(flatten(to_json(TrainConfig()))) == OPTIONS.split()


def test_the_seeds_experiment_is_what_it_was():
    seed = PRESETS["seed"]()
    assert (seed.epochs, seed.batch_size, seed.model.name, seed.init_from) == (3, 64, "resnet18", "timm")
    assert (seed.mel.n_fft, seed.mel.hop_length, seed.mel.n_mels, seed.mel.floor_db) == (1024, 256, 40, 80.0)
    assert seed.augment.is_nothing
    assert seed.optim.frozen_epochs == seed.epochs
