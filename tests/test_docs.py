"""What the documentation shows is accepted as printed."""

import re
import shlex
from pathlib import Path

import pytest

from training.command_line import check_overrides

ROOT = Path(__file__).parents[1]
COMMANDS = [
    (page.name, script or module, line)
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    for script, module, line in re.findall(
        r"^python (?:(train|evaluate)\.py|-m training\.(fill_cache)) (.*)$", page.read_text(), re.MULTILINE
    )
]


@pytest.mark.parametrize(("page", "script", "line"), COMMANDS)
def test_a_command_of_the_documentation_composes(page, script, line):
    words = [word for word in shlex.split(line, comments=True) if not word.startswith("-") and word != "job"]
    check_overrides(script, words)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 10


def test_the_python_example_of_the_readme_runs():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    assert names["hypotheses"][0][0].tokens[-1] == 2
