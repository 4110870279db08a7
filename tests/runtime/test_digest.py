import os
import zipfile
from pathlib import Path

import torch

from runtime import digest as digests
from runtime.digest import digest


def test_a_digest_depends_on_the_content_which_is_read_again_only_after_a_change(tmp_path, monkeypatch):
    file, copy = tmp_path / "a", tmp_path / "b"
    for path in (file, copy):
        path.write_text("text")
    before = digest(file)
    assert digest(copy) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", None)
        assert digest(file) == before
    file.write_text("texT")
    os.utime(file, (1, 1))  # a clock that has ticked
    assert digest(file) != before


def test_the_digest_of_a_large_file_covers_size_ends_and_a_block_of_each_stride(tmp_path, monkeypatch):
    for name, value in {"WHOLE": 100, "END": 50, "BLOCK": 10, "STRIDE": 25}.items():
        monkeypatch.setattr(digests, name, value)

    def digest_of(text):
        file = tmp_path / f"large{len(list(tmp_path.iterdir()))}"
        file.write_text(text)
        return digest(file)

    same = digest_of("a" * 200)
    for place in (0, 49, 50, 59, 75, 109, 125, 150, 199):
        assert digest_of("a" * place + "b" + "a" * (199 - place)) != same
    assert digest_of("a" * 120 + "b" + "a" * 79) == same
    assert digest_of("a" * 201) != same


def test_the_end_of_a_checkpoint_holds_a_checksum_of_each_tensor(tmp_path):
    torch.save({"weight": torch.ones(3)}, tmp_path / "a.ckpt")
    (entry,) = (one for one in zipfile.ZipFile(tmp_path / "a.ckpt").infolist() if one.filename.endswith("data/0"))
    assert entry.CRC != 0
