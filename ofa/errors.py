"""The one exception a user is meant to read: its message says what is wrong, where, and what to do."""


class UserError(ValueError):
    """A mistake outside the code (configuration, file, row, checkpoint); shown as one line, without a traceback."""
