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
    """A process that has locked the folder `tmp_path`."""
    context = multiprocessing.get_context("fork")
    is_held = context.Event()
    process = context.Process(target=hold, args=(tmp_path, is_held), daemon=True)
    process.start()
    assert is_held.wait(30)
    yield process
    process.kill()
    process.join()


def test_a_folder_to_which_another_run_writes_is_refused(tmp_path, another_run, monkeypatch):
    monkeypatch.setattr("runtime.run_dir.LOCK_TIMEOUT", 0.1)
    refusal = f"another run is writing to {tmp_path}; give this one another"
    with pytest.raises(UserError, match=refusal), lock_run_dir(tmp_path):
        pytest.fail("two runs are in one folder")


def test_a_killed_run_leaves_no_lock(tmp_path, another_run):
    another_run.kill()
    for _ in range(2):
        with lock_run_dir(tmp_path):
            pass
