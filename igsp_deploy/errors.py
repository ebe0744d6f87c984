"""Errors that a user can act on: the command line prints their text and exits, without a traceback."""


class UserError(Exception):
    """What was expected, what came, and what to do. Exit code 1."""

    exit_code = 1


class UsageError(UserError):
    """The command or its configuration is wrong (unknown option, value out of range). Exit code 2."""

    exit_code = 2
