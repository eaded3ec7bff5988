"""Laws of the simulation: rows are exact, bytes are no less than a share needs, and a lost node's cost is bounded."""

import dataclasses

import numpy as np
import pytest

from benchmarks.simulate import Setting, count_rows, lost_seconds, make_order, order_span, simulate

SMALL = Setting(shards=40, rows_per_shard=64, row_bytes=1000, ranks_per_node=4, batch_a_rank=4)
WINDOWS = dataclasses.replace(SMALL, disk_bytes=30 * 64_000)


@pytest.mark.parametrize("setting", [SMALL, WINDOWS], ids=["all", "windows"])
@pytest.mark.parametrize("world_size", [1, 4, 10, 32])
def test_rows_are_exact_and_no_node_reads_less_than_its_share(setting: Setting, world_size: int):
    told = simulate(setting, world_size=world_size)
    assert told.rows == told.node_rows.sum() == order_span(setting, told)
    assert (told.window is None) == (setting.disk_bytes is None)
    assert told.touched.max() * setting.shard_bytes >= told.node_rows.max() * setting.row_bytes
    assert told.first_bytes >= told.touched.max() * setting.shard_bytes
    assert told.node_rows.max() <= np.ceil(4 / world_size * told.rows) + world_size


def test_each_row_is_read_once_whatever_the_ranks():
    for world_size in (1, 8, 24):
        batch = SMALL.batch_a_rank * world_size
        order = make_order(SMALL, batch_size=batch)
        _, counts = count_rows(order, setting=SMALL, world_size=world_size, batch_size=batch)
        assert (counts.sum(axis=0) == SMALL.rows_per_shard).all()


def test_a_mirror_with_room_for_all_fetches_each_shard_once():
    told = simulate(SMALL, world_size=8)
    assert (told.first_bytes, told.next_bytes) == (SMALL.shards * SMALL.shard_bytes, 0)


def test_a_mirror_that_is_too_small_fetches_each_shard_about_once_an_epoch():
    told, whole = simulate(WINDOWS, world_size=8), WINDOWS.shards * WINDOWS.shard_bytes
    assert whole <= told.first_bytes + told.next_bytes <= 2.5 * whole
    assert told.next_bytes > 0


@pytest.mark.parametrize("world_size", [8, 1024])
def test_a_lost_node_costs_at_most_a_checkpoints_interval_and_the_restart(world_size: int):
    seconds = lost_seconds(SMALL, world_size=world_size)
    assert len(seconds) == SMALL.losses
    assert SMALL.restart_seconds <= seconds.min()
    assert seconds.max() <= SMALL.checkpoint_seconds + SMALL.restart_seconds
    told = simulate(SMALL, world_size=8)
    assert told.losses.max() <= SMALL.checkpoint_seconds + SMALL.restart_seconds + told.refill_seconds


def test_the_same_seed_gives_the_same_figures():
    one, two = (simulate(SMALL, world_size=8) for _ in range(2))
    other = simulate(dataclasses.replace(SMALL, seed=1), world_size=8)
    assert (one.skew, one.losses.tolist()) == (two.skew, two.losses.tolist())
    assert one.skew != other.skew


def test_the_slowest_of_more_ranks_is_slower():
    assert simulate(SMALL, world_size=4).skew < simulate(SMALL, world_size=32).skew
