"""Errors that end the command with one clear line."""


class UsageError(Exception):
    """The user's input is wrong: one clear line, exit status 2."""
