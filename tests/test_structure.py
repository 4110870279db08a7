"""The packages and the directions in which they may import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down; each package imports itself and those of later lines only.
LAYERS = [
    {"train", "evaluate", "predict"},
    {"training"},
    {"tracking"},
    {"tasks"},
    {"criterions", "data"},
    {"runtime"},
    {"ofa"},
]
PACKAGES = [package for layer in LAYERS for package in sorted(layer)]


def files(package):
    return sorted((ROOT / package).rglob("*.py")) or [ROOT / f"{package}.py"]


def imports(file):
    """The names of the modules that a file imports anywhere, those of this project and others."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_downwards_only(package):
    position = next(i for i, layer in enumerate(LAYERS) if package in layer)
    allowed = {package}.union(*LAYERS[position + 1 :])
    wrong = [
        f"{file.relative_to(ROOT)} imports {module}"
        for file in files(package)
        for module in imports(file)
        if module.split(".")[0] in PACKAGES and module.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)
