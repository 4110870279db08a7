"""The exception for user errors: its message names the error, the place and the remedy."""


class UserError(ValueError):
    """A mistake outside the code (configuration, file, row, checkpoint); shown as one line, without a traceback."""
