"""Teachers and students small enough to compute their losses by hand."""

import copy

import torch
from omegaconf import OmegaConf

from criterions.label_smoothing import LabelSmoothedCrossEntropy
from data.batch import Sample, collate
from helpers.runs import ROOT
from ofa.config import OFAConfig
from ofa.model import OFAModel
from ofa.tokenizer import Tokenizer
from training.distillation.plan import plan_distillation

SMALL_DEMO = [
    "model=micro",
    "data.rows.train=64",
    "data.rows.evaluation=10",
    "task.image_size=32",
    "data.scenes.grid=2",
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "validate_every=2",
]

STUDENT = OFAConfig.from_name("micro", dropout=0.0, init_std=0.1)
TEACHER = OFAConfig.from_name(
    "micro", dropout=0.1, init_std=0.1, d_model=96, encoder_attention_heads=6, decoder_attention_heads=6,
    encoder_layers=3, decoder_layers=3,
)  # fmt: skip
DEFAULTS = OmegaConf.to_container(OmegaConf.load(ROOT / "configs/distill/_settings.yaml"))
del DEFAULTS["predictions"]  # these are data, not part of the plan


def make_model(config, seed):
    """A model in training mode."""
    torch.manual_seed(seed)
    return OFAModel(config)


def make_batch():
    """Two samples with images and prompts of different lengths."""
    torch.manual_seed(4)
    return collate(
        [
            Sample("a", [0, 11, 12, 2], [8, 9, 2], torch.randn(3, 32, 32), truth=None, prefix=[11, 12]),
            Sample("b", [0, 13, 2], [7, 2], torch.randn(3, 32, 32), truth=None, prefix=[13]),
        ]
    )


def save(model, folder):
    """Writes a run folder with the model as its best checkpoint; returns its path."""
    (folder / "checkpoints").mkdir(parents=True)
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint = {"hyper_parameters": {"model": model.config.to_dict()}, "state_dict": weights}
    torch.save(checkpoint, folder / "checkpoints/best.ckpt")
    return str(folder)


def make_plan(teacher, hard=None, image_size=32, tree=None, **settings):
    hard = hard or LabelSmoothedCrossEntropy(0.1)
    settings = {**copy.deepcopy(DEFAULTS), "teacher": teacher, **settings}
    return plan_distillation(settings, STUDENT, hard, Tokenizer.demo(), image_size, tree)


def outputs(model, batch, images=None):
    """The model's output in evaluation mode, with hidden states and attention maps."""
    images = batch.patch_images if images is None else images
    with torch.no_grad():
        return model.eval()(
            batch.input_ids, images, batch.patch_masks, batch.decoder_input_ids, output_attentions=True,
            output_hidden_states=True,
        )  # fmt: skip
