"""The wheel: it contains only `ofa`, and works without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ofa import OFAConfig, OFAModel, __version__
from ofa.checkpoint import TaskSettings, export
from ofa.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, because a build writes into the source folder."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in filter(Path.is_dir, ROOT.iterdir()):
        if any(package.glob("*.py")):
            shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", out, source], check=True, timeout=300)
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """The bin folder of a virtual environment with the wheel; its dependencies are those of this interpreter."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "--quiet", "--no-index"]
    subprocess.run([*install, "--no-deps", "--force-reinstall", "--prefix", folder, wheel], check=True, timeout=300)
    return folder / "bin"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    settings = TaskSettings("visual-grounding", {"image_size": 32, "max_image_size": 32})
    export(folder, OFAModel(OFAConfig.from_name("micro")), Tokenizer.demo(), settings)
    Image.effect_noise((60, 30), 50).convert("RGB").save(folder / "photo.jpg")
    return folder


def run(command, *arguments, folder):
    """The standard output of a command of the environment, which does not see the checkout."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [command, *map(str, arguments)], cwd=folder, env=variables, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_wheel_contains_only_ofa_and_needs_no_package_for_training(wheel):
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        metadata = opened.read(f"ofa_lightning-{__version__}.dist-info/METADATA").decode()
    assert {name.split("/")[0] for name in names} == {"ofa", f"ofa_lightning-{__version__}.dist-info"}
    assert {"ofa/py.typed", "ofa/demo_vocabulary/vocab.json", "ofa/checkpoint/__main__.py"} <= set(names)
    package = {str(file.relative_to(ROOT)) for file in (ROOT / "ofa").rglob("*.py")}
    assert package == {name for name in names if name.endswith(".py")}

    lines = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and ";" not in line]
    required = [line.split()[1] for line in lines]
    assert not [name for name in required if name.startswith(("pytorch-lightning", "hydra", "omegaconf", "datasets"))]


def test_the_command_inspects_and_predicts(environment, model, tmp_path):
    ofa = environment / "ofa"
    assert "predict" in run(ofa, "--help", folder=tmp_path)
    assert "visual-grounding" in run(ofa, "inspect", model, folder=tmp_path)
    out = run(ofa, "predict", model, model / "photo.jpg", "--text", "the red mug", folder=tmp_path)
    file = tmp_path / "outputs/predict/photo/predictions.jsonl"
    assert "1 predictions in" in out and len(json.loads(file.read_text())["boxes"]) == 1
    assert (tmp_path / "outputs/predict/photo/pictures/000000_photo.jpg").is_file()


def test_a_pipeline_runs_without_the_checkout_and_without_packages_for_training(environment, model, tmp_path):
    code = f"""
import sys
for name in ("pytorch_lightning", "hydra", "omegaconf", "datasets", "transformers", "torchmetrics", "tensorboard"):
    sys.modules[name] = None  # an import is an error
import ofa
import ofa.cli
print(ofa.__file__)
for name in ("data", "tasks", "training", "runtime", "criterions"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"there is a package {{name}}")
print(ofa.pipeline("visual-grounding", {str(model)!r})({str(model / "photo.jpg")!r}, "the red mug"))
"""
    place, boxes = run(environment / "python", "-c", code, folder=tmp_path).splitlines()
    assert Path(place).is_relative_to(environment.parent) and boxes.startswith("{'boxes': [[")
