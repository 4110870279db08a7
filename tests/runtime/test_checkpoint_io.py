"""Checkpoints are intact or absent, whatever happens while they are written."""

import os
import random
import subprocess

import pytest
import torch

from ofa.atomic_write import atomic_write, part_of
from ofa.errors import UserError
from runtime.checkpoints import CheckpointFiles, verify_checkpoint

CONTENT = {"weights": torch.arange(100_000.0), "name": "x"}


def save(folder, number):
    CheckpointFiles().save_checkpoint({**CONTENT, "number": number, "global_step": number}, folder / "last.ckpt")


def number_of(file):
    assert verify_checkpoint(file) is None
    return torch.load(file, weights_only=True)["number"]


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_checkpoint_before_the_last_one_is_kept(tmp_path):
    for number in range(3):
        save(tmp_path / "checkpoints", number)
    assert names(tmp_path / "checkpoints") == ["last.ckpt", "last.previous.ckpt"]
    assert number_of(tmp_path / "checkpoints/last.ckpt") == 2
    assert number_of(tmp_path / "checkpoints/last.previous.ckpt") == 1
    for _ in range(2):
        CheckpointFiles().save_checkpoint(CONTENT, tmp_path / "other/best.ckpt")
    assert names(tmp_path / "other") == ["best.ckpt"]


def test_the_checkpoint_before_is_of_another_step(tmp_path):
    files = CheckpointFiles()
    for number, step in enumerate([2, 4, 4, 4]):
        files.save_checkpoint({**CONTENT, "number": number, "global_step": step}, tmp_path / "last.ckpt")
    assert number_of(tmp_path / "last.ckpt") == 3 and number_of(tmp_path / "last.previous.ckpt") == 0


def test_a_file_keeps_its_old_content_until_the_new_one_is_on_disk(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def write_half(part):
        part.write_text("ne")
        assert file.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(file, write_half, previous=tmp_path / "previous")
    assert names(tmp_path) == ["file"] and file.read_text() == "old"
    atomic_write(file, lambda part: part.write_text("new"), previous=tmp_path / "previous")
    assert file.read_text() == "new" and (tmp_path / "previous").read_text() == "old"


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_is_detected(tmp_path, fraction):
    save(tmp_path, 1)
    data = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(data[: int(fraction * len(data))])
    assert verify_checkpoint(tmp_path / "last.ckpt") is not None


def test_a_changed_byte_is_detected_or_harmless(tmp_path):
    CheckpointFiles().save_checkpoint({"weights": torch.arange(200.0), "global_step": 1}, tmp_path / "last.ckpt")
    data = (tmp_path / "last.ckpt").read_bytes()
    generator, detected = random.Random(0), 0
    for _ in range(200):
        changed = bytearray(data)
        changed[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        (tmp_path / "changed.ckpt").write_bytes(changed)
        if verify_checkpoint(tmp_path / "changed.ckpt") is None:  # a byte of padding, or of a date
            weights = torch.load(tmp_path / "changed.ckpt", weights_only=True)["weights"]
            assert torch.equal(weights, torch.arange(200.0))
        else:
            detected += 1
    assert detected > 50


def test_a_full_disk_keeps_the_last_checkpoint_and_names_the_remedy(tmp_path):
    folder = tmp_path / "run/checkpoints"
    save(folder, 1)
    part_of(folder / "last.ckpt").symlink_to("/dev/full")  # where every write finds the disk full
    with pytest.raises(
        UserError, match=r"last.ckpt was not written: the disk is full; free some space, then resume from .*last.ckpt, "
        r"which is intact, by resume=.*run or resume=auto"
    ):  # fmt: skip
        save(folder, 2)
    assert names(folder) == ["last.ckpt"] and number_of(folder / "last.ckpt") == 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(small_disk):
    save(small_disk, 1)
    save(small_disk, 2)
    with pytest.raises(UserError, match="the disk is full"):
        save(small_disk, 3)
    assert names(small_disk) == ["last.ckpt", "last.previous.ckpt"]
    assert number_of(small_disk / "last.ckpt") == 2


def test_a_disk_that_becomes_read_only_keeps_the_last_checkpoint(small_disk):
    save(small_disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match="last.ckpt was not written: Read-only file system; make .* a writable folder"):
        save(small_disk, 2)
    assert number_of(small_disk / "last.ckpt") == 1


def test_before_the_first_checkpoint_the_run_has_to_start_again(tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(UserError, match="last.ckpt was not written: File exists; .* start again; there was no check"):
        save(tmp_path / "checkpoints", 1)
