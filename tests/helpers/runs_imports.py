"""What every command imports, for `runs` to have it imported once."""

import runtime.command_line  # noqa: F401
import tracking.report  # noqa: F401
import training.build  # noqa: F401
import training.trainer  # noqa: F401
