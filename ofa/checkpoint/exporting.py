"""Writing a model as a folder of its own, in the form of the published ones: `export`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from ofa.atomic_write import part_of, write_part
from ofa.checkpoint.architecture import ALWAYS
from ofa.checkpoint.names import EMBEDDING, TIED
from ofa.checkpoint.places import CONFIG, SAFETENSORS
from ofa.checkpoint.task_settings import TASK, TaskSettings
from ofa.errors import UserError
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from ofa.vocabulary import BOS, EOS, PAD


def export(folder: str | Path, model: OFAModel, tokenizer: Tokenizer, task: TaskSettings | None) -> None:
    """Writes a model and what is needed to use it: model.safetensors, config.json, vocab.json, merges.txt, task.json.

    The weights are written in the model's precision, the tied embedding once, without the tables that a model computes.
    All is written before the first file takes its place, so that a full disk leaves a model that was there;
    config.json, which makes a folder a model folder, comes last.

    Args:
        folder: made where it is missing; a model that is in it is replaced.
        task: what the model is for; None: it is for no certain task, and no task.json is written.

    Raises:
        UserError: the folder cannot be written.
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


def _hf_config(model: OFAModel) -> dict[str, Any]:
    """What a published config.json says."""
    return {
        **model.config.to_dict(),
        **ALWAYS,
        "architectures": ["OFAModel"],
        "model_type": "ofa",
        "is_encoder_decoder": True,
        "num_hidden_layers": model.config.encoder_layers,
        "bos_token_id": BOS,
        "pad_token_id": PAD,
        "eos_token_id": EOS,
        "forced_eos_token_id": EOS,
        "decoder_start_token_id": BOS,
        "resnet_model_path": None,
        "torch_dtype": str(model.get_parameter(EMBEDDING).dtype).removeprefix("torch."),
    }
