"""What the documentation shows is accepted as printed."""

import re
import shlex
from pathlib import Path

import pytest

import data.inspect.__main__
import data.prepare.__main__
from training.command_line import check_overrides

ROOT = Path(__file__).parents[1]
COMMANDS = [
    (page.name, script or module, line)
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    for script, module, line in re.findall(
        r"^python (?:(train|evaluate)\.py|-m training\.(fill_cache)) (.*)$", page.read_text(), re.MULTILINE
    )
]


PARSERS = {"prepare": data.prepare.__main__.parse_arguments, "inspect": data.inspect.__main__.parse_arguments}
DATA_COMMANDS = [
    (page.name, module, line)
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    for module, line in re.findall(r"^python -m data\.(prepare|inspect) (.*)$", page.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("page", "script", "line"), COMMANDS)
def test_a_command_of_the_documentation_composes(page, script, line):
    words = [word for word in shlex.split(line, comments=True) if not word.startswith("-") and word != "job"]
    check_overrides(script, words)


@pytest.mark.parametrize(("page", "module", "line"), DATA_COMMANDS)
def test_a_command_about_data_has_these_arguments(page, module, line):
    PARSERS[module](shlex.split(line, comments=True))


def test_every_source_has_its_command_in_the_documentation():
    shown = {line.split()[0] for _, module, line in DATA_COMMANDS if module == "prepare"}
    assert shown == {*data.prepare.__main__.SOURCES, "answers"}


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 10


def test_the_python_example_of_the_readme_runs():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    exec(example, names)
    assert names["hypotheses"][0][0].tokens[-1] == 2
