"""notestream's Python API: what a training script of one's own needs, handed on from the rooms.

pack notes into shards, open a Pack, make_order of some of its rows or of several packs, stream them with a Loader,
Augment on the CPU, make the LogMel on the device.
"""

from shards.errors import NotestreamError
from shards.index import Pack
from shards.owner import check_owner
from shards.pack import pack
from streaming.augment import Augment
from streaming.augment import preset as augment_preset
from streaming.batch import Batch
from streaming.loader import Loader
from streaming.mix import make_order
from streaming.world import World
from trainers.mel import LogMel
from trainers.options import MelConfig

check_owner()

__all__ = [
    "Augment",
    "Batch",
    "Loader",
    "LogMel",
    "MelConfig",
    "NotestreamError",
    "Pack",
    "World",
    "augment_preset",
    "make_order",
    "pack",
]
