"""Stand-ins: an object with a malicious pickle, and SLURM's `scontrol`."""

import os
from pathlib import Path


class Payload:
    """An object whose pickle calls a function when it is loaded; by default it creates a folder."""

    def __init__(self, *arguments, function=os.mkdir):
        self.call = function, tuple(str(a) if isinstance(a, Path) else a for a in arguments)

    def __reduce__(self):
        return self.call


def write_scontrol(folder, fields, requeue_status=0):
    """Writes a `scontrol` that shows the given fields of a job; returns the file in which it records its calls."""
    program = folder / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\n[ $1 = requeue ] && echo no >&2 && exit {requeue_status}\n'
        f'echo "{fields}"\n'
    )
    program.chmod(0o755)
    return folder / "calls"
