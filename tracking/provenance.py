"""What a run was made with: `provenance`, which its loggers keep beside the configuration."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torchvision", "pytorch-lightning", "transformers", "timm", "hydra-core", "ofa-lightning")


def provenance() -> dict[str, Any]:
    """The commit of the code and the versions of Python and of the packages that decide what a run does."""
    torch_version = str(torch.__version__)  # with its CUDA
    versions = {"python": platform.python_version(), "torch": torch_version, **_versions()}
    return {"git": git_state(ROOT), "versions": versions}


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit checked out in `root`, and whether tracked files differ from it; None where that is no repository."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top) != root:  # an installed copy may lie in another's repository
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *words: str) -> str | None:
    """What git says, or None where there is no git or it finds nothing."""
    try:
        process = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def _versions() -> dict[str, str | None]:
    """Of each package; None for one that is used from its folder without being installed."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return versions
