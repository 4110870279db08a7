"""Private parts of Lightning and Hydra are used in one file each, which names the version it was checked against."""

import ast
import re
from importlib.metadata import version

import pytest
from helpers.runs import ROOT

INTERNALS = {"lightning_internals": "pytorch-lightning", "hydra_internals": "hydra-core"}
PACKAGES = ("runtime", "tracking", "training", "tasks", "criterions", "data")


def private_accesses(tree):
    """Private attributes of other objects than `self`, and imports from private modules."""
    nodes = list(ast.walk(tree))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and any(
            part.startswith("_") for part in (node.module or "").split(".")[1:]
        ):
            yield node.module
        if isinstance(node, ast.Attribute) and re.match("_[a-z].*[^_]$", node.attr) and node.attr not in defined:
            receiver = ast.unparse(node.value)
            if receiver not in ("self", "cls", "os"):
                yield f"{receiver}.{node.attr}"
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("super()._") and node.attr[1] != "_":
            yield ast.unparse(node)


@pytest.mark.parametrize("package", PACKAGES)
def test_private_attributes_are_used_only_in_the_files_for_them(package):
    found = {
        str(file.relative_to(ROOT)): names
        for file in (ROOT / package).rglob("*.py")
        if file.stem not in INTERNALS and (names := list(private_accesses(ast.parse(file.read_text()))))
    }
    assert not found


@pytest.mark.parametrize(("module", "distribution"), INTERNALS.items())
def test_internals_name_the_minor_version_they_were_checked_against(module, distribution):
    docstring = ast.get_docstring(ast.parse((ROOT / f"runtime/{module}.py").read_text()))
    checked = re.search(r"Checked against [\w -]*?(\d+\.\d+)", docstring)[1]
    assert version(distribution).startswith(f"{checked}.")
    assert re.search(rf"{distribution}>=[\d.]+,<\d", (ROOT / "pyproject.toml").read_text())
