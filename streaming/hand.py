"""hand: the row that this process has in hand -> its shard and key, asked for when nothing moves any more."""

from streaming.store import Store

_held: list[tuple[Store, int]] = []


def take(store: Store, row: int) -> None:
    """Note which row is being made; looked up only if somebody asks (50 ns a row)."""
    _held[:] = ((store, row),)


def tell() -> str:
    """Name the row that was taken last."""
    if not _held:
        return "no row"
    store, row = _held[0]
    number, part, at = store.pack.find(row)
    return f"shard {store.pack.shards[number].name}, key {part.keys[at].as_py()}, row {row} of {store.pack.home}"
