"""The errors that a user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """What is wrong with a flag, a file or a folder: one line per problem, with what would be accepted.

    A command prints the lines and exits with code 2 (see cli.run_command).

    >>> UserError("--n_layer 0: input should be greater than or equal to 1").problems
    ('--n_layer 0: input should be greater than or equal to 1',)
    """

    def __init__(self, *problems: str):
        super().__init__(*problems)  # as it is pickled, to come from another process
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


def problems_of(error: UserError | OSError) -> tuple[str, ...]:
    """A line for each problem; of an error of the file system "FILE: what is wrong"."""
    if isinstance(error, UserError):
        return error.problems
    return (f"{error.filename}: {error.strerror}" if error.filename else str(error),)
