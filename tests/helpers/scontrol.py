"""A command `scontrol` in place of SLURM's."""


def write_scontrol(folder, fields, requeue_status=0):
    """Puts one into a folder, which shows the given fields of a job; the file that tells what it was called with."""
    program = folder / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\n[ $1 = requeue ] && echo no >&2 && exit {requeue_status}\n'
        f'echo "{fields}"\n'
    )
    program.chmod(0o755)
    return folder / "calls"
