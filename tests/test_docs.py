"""What the documentation shows is accepted as printed."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import data.inspect.__main__
import data.prepare.__main__
from ofa import OFAConfig, OFAModel
from ofa.checkpoint import TaskSettings, export
from ofa.tokenizer import Tokenizer
from runtime.overrides import check_overrides
from runtime.resume import FREE

ROOT = Path(__file__).parents[1]
COMMANDS = [
    (page.name, script or module, line)
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    for script, module, line in re.findall(
        r"^python (?:(train|evaluate|predict)\.py|-m training\.(fill_cache)) (.*)$", page.read_text(), re.MULTILINE
    )
]


PARSERS = {"prepare": data.prepare.__main__.parse_arguments, "inspect": data.inspect.__main__.parse_arguments}
DATA_COMMANDS = [
    (page.name, module, line)
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    for module, line in re.findall(r"^python -m data\.(prepare|inspect) (.*)$", page.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("page", "script", "line"), COMMANDS)
def test_a_command_of_the_documentation_composes(page, script, line, monkeypatch):
    monkeypatch.setattr("runtime.overrides.find_spec", lambda name: name)  # as if all extras were installed
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


@pytest.fixture(scope="module")
def folder_of_the_examples(tmp_path_factory):
    """A folder with the models and the photo that the examples name."""
    folder = tmp_path_factory.mktemp("examples")
    Image.effect_noise((120, 80), 50).convert("RGB").save(folder / "photo.jpg")
    model = OFAModel(OFAConfig.from_name("micro"))
    for name, task, answers in (
        ("caption", "image-captioning", None),
        ("grounding", "visual-grounding", None),
        ("entailment", "visual-entailment", None),
        ("vqa", "visual-question-answering", ("red", "two", "yes")),
    ):
        export(folder / "models" / name, model, Tokenizer.demo(), TaskSettings(task, answers=answers))
    return folder


EXAMPLES = [
    (page.name, example)
    for page in (ROOT / "README.md", ROOT / "docs/use.md")
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
]


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_a_python_example_runs(page, example, folder_of_the_examples, monkeypatch, capsys):
    monkeypatch.chdir(folder_of_the_examples)
    exec(example, {})
    assert capsys.readouterr().out


def test_the_readme_shows_pipelines_in_six_lines():
    shown = [example for page, example in EXAMPLES if page == "README.md" and "pipeline(" in example]
    assert [re.search(r'pipeline\("([\w-]+)"', example)[1] for example in shown] == [
        "image-captioning", "visual-grounding", "visual-entailment",
    ]  # fmt: skip
    assert all(len(example.strip().splitlines()) <= 6 for example in shown)


def test_the_settings_that_may_change_with_resume_are_those_that_the_page_lists():
    page = (ROOT / "docs/train.md").read_text()
    (listed,) = re.findall(r"What may change: (.*?)\. Notes of broken", page, re.DOTALL)
    assert {"resume", *re.findall("`(.*?)`", listed)} == set(FREE)
