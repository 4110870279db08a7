"""Provenance of a run: commit and package versions, which loggers keep next to the configuration."""

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
    """The commit of the code, and the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with the CUDA version
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # it is used from its folder, without being installed
            versions[package] = None
    return {"git": git_state(ROOT), "versions": versions}


def git_state(root: Path) -> dict[str, Any] | None:
    """The commit checked out in `root`, and whether tracked files differ from it; None if it is not a repository."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top) != root:  # an installed copy may be inside another repository
        return None
    return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git; None if git is missing or fails."""
    try:
        process = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return process.stdout.strip() if process.returncode == 0 else None
