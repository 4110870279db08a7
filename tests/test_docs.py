"""The documentation: its commands, Python examples and links work as printed."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import data.inspect.__main__
import data.prepare.__main__
import ofa.cli
from benchmarks.__main__ import CASES
from ofa import OFAConfig, OFAModel
from ofa.checkpoint import TaskSettings, export
from ofa.tokenizer import Tokenizer
from runtime.overrides import check_overrides
from runtime.resume import MAY_DIFFER

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKED_EXAMPLE = "docs/extend.md"  # its files lie outside the repository: tests/extension runs it


def blocks(language):
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL):
            yield name, block


COMMANDS = [
    (page, line.strip())
    for page, block in blocks("bash")
    for line in block.replace("\\\n", "").splitlines()
    if line.strip() and not line.lstrip().startswith("#") and page != WORKED_EXAMPLE
]
EXAMPLES = [(page, example) for page, example in blocks("python") if page != WORKED_EXAMPLE]


def accept(arguments):
    """Check a command as far as possible without running it."""
    match arguments:
        case ["python", "train.py" | "evaluate.py" | "predict.py" as script, *rest]:
            options = {"-m", "--cfg", "job", "..."}
            check_overrides(script.removesuffix(".py"), [word for word in rest if word not in options])
        case ["python", "-m", "training.fill_cache", *rest]:
            check_overrides("fill_cache", rest)
        case ["python", "-m", "data.prepare", *rest]:
            data.prepare.__main__.parse_arguments(rest)
        case ["python", "-m", "data.inspect", *rest]:
            data.inspect.__main__.parse_arguments(rest)
        case ["ofa", *rest] | ["python", "-m", "ofa.checkpoint", *rest]:
            ofa.cli._parser().parse_args(rest)
        case ["python", "-m", "benchmarks", *rest]:
            assert {word for word in rest if word.isidentifier()} <= set(CASES)
        case ["torchrun" | "srun", *rest]:
            accept(["python", *rest[rest.index("train.py") :]])
        case ["sbatch", *rest]:
            (script,) = [word for word in rest if word.endswith(".sbatch")]
            assert (ROOT / script).is_file()
            name = "evaluate" if "evaluate" in script else "train"
            words = [word for word in rest[rest.index(script) + 1 :] if word not in ("LINES", "...")]
            accept(["python", f"{name}.py", *words])
        case ["pip", "install", *rest]:
            extras = re.search(r"\[(.*)\]", rest[-1])
            text = (ROOT / "pyproject.toml").read_text()
            assert all(f"\n{extra} = [" in text for extra in (extras[1].split(",") if extras else ()))
        case ["make", target, *_]:
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case ["python", "-m", "pytest", *rest]:
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
        case ["python", script, *_] | [script] if script.startswith(("run_scripts/", "tests/")):
            assert (ROOT / script).is_file()
        case ["python3", "-m", "venv", _] | ["source", ".venv/bin/activate"] | ["pre-commit", "install"]:
            pass
        case _:
            raise AssertionError(f"unknown command: {arguments}")


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_is_accepted(page, line, monkeypatch):
    monkeypatch.setattr("runtime.overrides.find_spec", lambda name: name)  # as if all extras were installed
    accept(shlex.split(line, comments=True))


def test_every_source_of_data_has_a_command():
    shown = {line.split()[3] for _, line in COMMANDS if line.startswith("python -m data.prepare ")}
    assert shown == {*data.prepare.__main__.SOURCES, "answers"}


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory):
    """A folder with the models and the photo of the examples."""
    folder = tmp_path_factory.mktemp("examples")
    Image.effect_noise((120, 80), 50).convert("RGB").save(folder / "photo.jpg")
    model = OFAModel(OFAConfig.from_name("micro"))
    for name, settings in {
        "caption": TaskSettings("image-captioning"),
        "grounding": TaskSettings("visual-grounding"),
        "entailment": TaskSettings("visual-entailment"),
        "vqa": TaskSettings("visual-question-answering", answers=("red", "two", "yes")),
    }.items():
        export(folder / "models" / name, model, Tokenizer.demo(), settings)
    return folder


@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_a_python_example_runs(page, example, example_folder, monkeypatch, capsys):
    monkeypatch.chdir(example_folder)
    exec(example, {})
    assert capsys.readouterr().out


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path) if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_the_start_of_the_readme_explains_the_project():
    start = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    parts = "| task |", "![", "pip install", "pipeline(", "python train.py", "published weights and data | not measured"
    assert all(part in start for part in parts)
    example = re.search(r"```python\n(.*?)```", start, re.DOTALL)[1]
    assert len(example.splitlines()) == 3
    image = ROOT / re.search(r"!\[.*?\]\((.*?)\)", start)[1]
    assert image.stat().st_size < 150_000


def test_train_page_lists_the_settings_that_may_change_with_resume():
    page = (ROOT / "docs/train.md").read_text()
    (listed,) = re.findall(r"What may change: (.*?)\. Counts of broken", page, re.DOTALL)
    assert {"resume", *re.findall("`(.*?)`", listed)} == set(MAY_DIFFER)


def test_every_option_of_a_group_is_in_the_train_page():
    page = (ROOT / "docs/train.md").read_text()
    groups = ("task", "model", "data", "trainer", "cluster", "distill", "experiment", "debug")
    options = [file.stem for group in groups for file in (ROOT / "configs" / group).glob("[!_]*.yaml")]
    assert [option for option in options if f"`{option}`" not in page] == []


def test_citation_has_the_required_fields():
    text = (ROOT / "CITATION.cff").read_text()
    assert {"cff-version", "message", "title", "authors"} <= set(re.findall(r"^([\w-]+):", text, re.MULTILINE))
