"""warm: imported once, by the process that readers are forked from -> what each of them would load by itself.

numba takes half a second of a core to load its first function, however small. Nothing here may start a thread: a fork
would lose it.
"""

import gc

from shards.collector import uncollected

with uncollected():
    from streaming import decode
    from streaming.reader import run_reader

    decode.warm_up()
gc.freeze()  # a collector writes into what it looks at: pages that all readers share would be copied

__all__ = ["run_reader"]
