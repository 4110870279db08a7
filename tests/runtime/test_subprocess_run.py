import json
import os
import signal
import sys

import pytest

from ofa.errors import UserError
from runtime.preemption import Preempted
from runtime.subprocess_run import FILE_STATUS, OUTCOME, Outcome, RunFailed, subprocess_run


def start(program, signals=()):
    """Runs a Python program as a run of a sweep."""
    return subprocess_run([sys.executable, "-S", "-c", f"import os, signal, sys\n{program}"], signals)


def writes(**outcome):
    return f"open(os.environ[{OUTCOME!r}], 'w').write({json.dumps(outcome)!r})"


def test_the_value_of_a_run_is_returned(tmp_path):
    Outcome(value=0.5).write(tmp_path / "outcome")
    assert json.loads((tmp_path / "outcome").read_text()) == {"value": 0.5, "stopped": None}
    assert start(writes(value=0.5, stopped=None)) == 0.5
    assert start("pass") is None


def test_a_run_that_fails_or_is_killed_ends_the_sweep_only_by_a_file_error():
    with pytest.raises(RunFailed):
        start("sys.exit(1)")
    with pytest.raises(UserError, match="the run was killed by signal 9; .* memory"):
        start("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SystemExit) as end:  # a file error, which the next run would meet as well
        start(f"sys.exit({FILE_STATUS})")
    assert end.value.code == FILE_STATUS


def test_a_signal_is_passed_on_and_the_run_reports_where_it_stopped():
    before = signal.getsignal(signal.SIGUSR1)
    stop = f"""
def stop(*_):
    {writes(stopped="SIGUSR1: stopped after step 3")}
    sys.exit(75)
signal.signal(signal.SIGUSR1, stop)
os.kill({os.getpid()}, signal.SIGUSR1)
signal.pause()
"""
    with pytest.raises(Preempted, match="SIGUSR1: stopped after step 3"):
        start(stop, [signal.SIGUSR1])
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # which child processes inherit
    with pytest.raises(Preempted, match="a signal stopped this run"):  # before it could listen
        start(f"os.kill({os.getpid()}, signal.SIGUSR1)\nsignal.pause()", [signal.SIGUSR1])
    assert signal.signal(signal.SIGUSR1, before) == signal.SIG_IGN
