"""What every command imports, for `runs` to have it imported once."""

import training.build  # noqa: F401
import training.command_line  # noqa: F401
import training.report  # noqa: F401
import training.trainer  # noqa: F401
