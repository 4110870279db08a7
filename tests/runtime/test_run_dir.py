import multiprocessing

import pytest

from ofa.errors import UserError
from runtime.run_dir import lock_run_dir


def hold(folder, is_held):
    with lock_run_dir(folder):
        is_held.set()
        multiprocessing.Event().wait()


@pytest.fixture
def another_run(tmp_path):
    """A process that is at work in the folder `tmp_path`."""
    context = multiprocessing.get_context("fork")
    is_held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, is_held), daemon=True)
    process.start()
    assert is_held.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_folder_in_which_another_run_is_at_work_is_refused(tmp_path, another_run, monkeypatch):
    monkeypatch.setattr("runtime.run_dir.PATIENCE", 0.1)
    refusal = f"another run is writing to {tmp_path} just now; give this one another"
    with pytest.raises(UserError, match=refusal), lock_run_dir(tmp_path):
        pytest.fail("two runs are in one folder")


def test_a_run_that_was_killed_keeps_nobody_out(tmp_path, another_run):
    another_run.kill()
    with lock_run_dir(tmp_path):
        pass
    with lock_run_dir(tmp_path):
        pass
