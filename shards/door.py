"""door: verbs -> a command line. Every room's __main__ is a door: parse, call, one clear line on stderr on failure.

Exit codes: 0 success, 1 failure, 2 wrong use, 130 interrupted.
"""

import errno
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from shards.errors import NotestreamError, one_line
from shards.owner import check_owner

INTERRUPTED = 130


def run_door(
    room: str,
    verbs: Mapping[str, Callable[..., Any]],
    args: Sequence[str] | None = None,
    *,
    defaults: Mapping[str, Callable[[], Any]] | None = None,
) -> int:
    """Run `python -m ROOM VERB ...` and return its exit code; `args` are the process's own unless given.

    A verb in `defaults` takes one config object, whose defaults are what the callable there returns.
    """
    about = f"{room}: " + ", ".join(verbs)
    # tyro takes a lone verb for a default and swallows its name, so the verb is chosen here
    given = list(sys.argv[1:] if args is None else args)
    if not given or given[0] in ("-h", "--help") or given[0] not in verbs:
        return _list_verbs(room, verbs, given)
    verb, prog = verbs[given[0]], f"python -m {room} {given[0]}"
    default = (defaults or {}).get(given[0])

    def work() -> None:
        options: Any = {"prog": prog, "args": given[1:]}
        if default is None:
            tyro.cli(verb, config=(tyro.conf.FlagCreatePairsOff,), **options)
        else:
            value = default()
            verb(tyro.cli(type(value), default=value, description=verb.__doc__, **options))

    return guard(work, about=about)


def guard(work: Callable[[], Any], *, about: str) -> int:
    """Call `work`; turn what a user can mend into one line on stderr and an exit code."""
    try:
        check_owner()
        work()
    except NotestreamError as error:
        return _say(error, code=error.exit_code)
    except KeyboardInterrupt as stopped:
        way = str(stopped) or "run the same command again, it goes on where it was"
        return _say(f"interrupted: {way}", code=INTERRUPTED)
    except BrokenPipeError:  # the reader of our stdout has gone, as with `| head`
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno == errno.ENOSPC:
            where = f" at {error.filename}" if error.filename else ""
            return _say(f"the disk is full{where}: free some space and run again, what is done is kept", code=1)
        if error.filename is None:
            raise
        return _say(f"{error.filename}: {error.strerror} ({about})", code=1)
    return 0


def _say(message: object, *, code: int) -> int:
    print(f"notestream: {one_line(str(message))}", file=sys.stderr, flush=True)  # noqa: T201
    return code


def _list_verbs(room: str, verbs: Mapping[str, Callable[..., Any]], given: list[str]) -> int:
    lines = [f"usage: python -m {room} VERB ... (VERB --help tells its options)", ""]
    lines += [f"  {name:9s} {(verb.__doc__ or '').strip().splitlines()[0]}" for name, verb in verbs.items()]
    if given and given[0] not in ("-h", "--help"):
        return _say(f"{given[0]!r} is not a verb of {room}: take one of {', '.join(verbs)}", code=2)
    print("\n".join(lines), file=sys.stdout if given else sys.stderr)
    return 0 if given else 2


def print_json(value: object) -> None:
    """Print one JSON document a line, for programs."""
    print(json.dumps(value), flush=True)  # noqa: T201
