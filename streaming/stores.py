"""stores: packs, order -> a store for each. What a node's mirror must hold follows from the order of all."""

from collections.abc import Sequence

from shards.index import Pack
from streaming.order import Order
from streaming.store import Remote, Store
from streaming.windows import working_bytes


def open_stores(
    packs: Sequence[Pack], order: Order, *, remote: Remote | None = None, mirror_bytes: int | None = None
) -> tuple[Store, ...]:
    """Open the packs that are read together in this order; they share `mirror_bytes` (see Store).

    Raises:
        UsageError: the mirror was asked for and can't be made, or has too little room for all of them.
    """
    distant = [pack.folder.local() is None for pack in packs]
    sizes = working_bytes(order, packs) if any(distant) else [0] * len(packs)
    needed = sum(size for size, is_distant in zip(sizes, distant, strict=True) if is_distant)
    return tuple(Store(pack, remote=remote, mirror_bytes=mirror_bytes, working_bytes=needed) for pack in packs)
