"""Self-contained model folders, arranged as the published ones: `export`, `convert`."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ofa.atomic_write import part_of, write_part
from ofa.checkpoint.architecture import CONSTANT, EMBEDDING, TIED
from ofa.checkpoint.files import CONFIG, SAFETENSORS, kept_tokenizer
from ofa.checkpoint.formats import Checkpoint
from ofa.checkpoint.loading import check_vocabulary, load_model, read_task
from ofa.checkpoint.task_settings import TASK, TaskSettings
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BOS, EOS, PAD

log = logging.getLogger(__name__)


def export(folder: str | Path, model: OFAModel, tokenizer: Tokenizer, task: TaskSettings | None) -> None:
    """Writes a complete model folder: model.safetensors, config.json, vocab.json, merges.txt, task.json.

    The weights keep the model's precision; the tied embedding is written once. All files are written before the first
    one is replaced, so that a full disk leaves an existing model intact; config.json, which marks a model folder, comes
    last. UserError if the folder cannot be written.
    """
    folder = Path(folder)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in TIED}
    texts = tokenizer.files()
    if task is not None:
        texts[TASK] = task.to_json()
    texts[CONFIG] = json.dumps(_hf_config(model), indent=2, sort_keys=True) + "\n"
    files = [folder / name for name in (SAFETENSORS, *texts)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_part(folder / SAFETENSORS, lambda part: save_file(weights, part, metadata={"format": "pt"}))
        for name, text in texts.items():
            write_part(folder / name, lambda part, text=text: part.write_bytes(text.encode()))
        for old in (CONFIG, TASK):
            (folder / old).unlink(missing_ok=True)
        for file in files:
            os.replace(part_of(file), file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be written ({error})") from error
    finally:
        for file in files:
            part_of(file).unlink(missing_ok=True)


def convert(
    source: str,
    folder: str,
    *,
    ema: bool = False,
    tokenizer: str | None = None,
    dtype: torch.dtype = torch.float32,
    answers: str | None = None,
    force: bool = False,
) -> None:
    """Writes the weights, vocabulary and task of `source` (see `find`) as a model folder.

    Args:
        ema: take the averaged weights.
        tokenizer: source of the vocabulary; None: the one stored with the weights.
        answers: JSON file of all answers to questions; None: those stored with the weights, if any.
        force: write into a folder that contains files.

    Raises:
        UserError: there is no such checkpoint or vocabulary, they do not belong together, or the folder is not empty.
    """
    out = Path(folder)
    if not force and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give another, or use --force")
    checkpoint = Checkpoint.open(source, ema=ema)
    vocabulary = tokenizer or kept_tokenizer(checkpoint.path)
    if vocabulary is None:
        raise UserError(
            f"there is no vocabulary with {source}; give --tokenizer FOLDER_OR_ID with the vocab.json and merges.txt "
            "of an OFA model"
        )
    read = Tokenizer.from_pretrained(vocabulary)  # before the weights, which take longer
    check_vocabulary(checkpoint, read)
    task = read_task(checkpoint)
    if answers is not None:
        if task is None:
            raise UserError(f"--answers {answers}: the task of {source} is not known; leave it out")
        task = task.with_answers(answers)
    if task is not None and task.lacks_answers:
        log.warning("%s has no list of answers: answers will be open-ended; --answers FILE sets a list", source)
    export(folder, load_model(checkpoint).to(dtype), read, task)


def _hf_config(model: OFAModel) -> dict[str, Any]:
    """The content of a published config.json."""
    return {
        **model.config.to_dict(),
        **CONSTANT,
        "architectures": ["OFAModel"],
        "model_type": "ofa",
        "is_encoder_decoder": True,
        "num_hidden_layers": model.config.encoder_layers,
        **{"bos_token_id": BOS, "decoder_start_token_id": BOS, "pad_token_id": PAD},
        **{"eos_token_id": EOS, "forced_eos_token_id": EOS},
        "resnet_model_path": None,
        "torch_dtype": str(model.get_parameter(EMBEDDING).dtype).removeprefix("torch."),
    }
