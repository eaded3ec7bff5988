"""warm: imported once, by the process that readers are forked from -> what each of them would load by itself.

numba takes half a second of a core to load its first function, however small. Nothing here may start a thread: a fork
would lose it.
"""

from streaming import decode
from streaming.reader import run_reader

__all__ = ["run_reader"]

decode.warm_up()
