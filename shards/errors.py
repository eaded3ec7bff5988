"""errors: what a user can mend, said in one line that names the thing, the value and the way out."""


def one_line(text: str) -> str:
    """Spell out foreign text's control characters, which would act on a terminal or break the line."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


class NotestreamError(Exception):
    """A failure with a one-line message for the user; a door prints it and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(NotestreamError):
    """The command or the call was wrong: an argument, a missing folder, options that don't fit. Exits with 2."""

    exit_code = 2


class DataError(NotestreamError):
    """The data is not what it should be: damaged, truncated, of another rate or version. Exits with 1."""
