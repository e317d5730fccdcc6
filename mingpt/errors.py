"""The one kind of error that a user can put right."""

from __future__ import annotations


class UserError(ValueError):
    """What is wrong with a flag, a file or a folder: one line per problem.

    Each line names the thing, the value given and what would be accepted. A command prints the
    lines and exits with code 2 (see cli.run_command); any other exception is a fault of ours and
    keeps its traceback.

    >>> UserError("--n_layer 0: a whole number in [1, inf) is accepted").problems
    ('--n_layer 0: a whole number in [1, inf) is accepted',)
    """

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems
