"""Configuration of an OFA model, and the five published sizes by name: `OFAConfig`."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ofa.errors import UserError
from ofa.vocabulary import VOCABULARY_SIZE

# Blocks in the three stages of the bottleneck ResNet; 14 and 26 are timm's names for small ones, here for tests.
RESNET_STAGES = {
    "resnet14": (1, 1, 1), "resnet26": (2, 2, 2), "resnet50": (3, 4, 6), "resnet101": (3, 4, 23),
    "resnet152": (3, 8, 36),
}  # fmt: skip

# name: (d_model, attention heads, encoder layers, decoder layers, resnet_type), OFA paper (arXiv 2202.03052), table 1;
# the feed-forward width is 4 x d_model in every size.
SIZES = {
    "micro": (64, 4, 2, 2, "resnet14"),  # not published: for tests
    "tiny": (256, 4, 4, 4, "resnet50"),
    "medium": (512, 8, 4, 4, "resnet101"),
    "base": (768, 12, 6, 6, "resnet101"),
    "large": (1024, 16, 12, 12, "resnet152"),
    "huge": (1280, 16, 24, 12, "resnet152"),
}


@dataclass(frozen=True)
class OFAConfig:
    """Architecture and regularisation, by the names in published `config.json` files; UserError for invalid values."""

    d_model: int = 256
    encoder_layers: int = 4
    encoder_ffn_dim: int = 1024
    encoder_attention_heads: int = 4
    decoder_layers: int = 4
    decoder_ffn_dim: int = 1024
    decoder_attention_heads: int = 4
    resnet_type: str = "resnet50"
    vocab_size: int = VOCABULARY_SIZE
    max_position_embeddings: int = 1024
    token_bucket_size: int = 256
    image_bucket_size: int = 42
    code_image_size: int = 128  # pixels per side of a generated image: 128 infilling, 256 text to image
    attn_scale_factor: float = 2.0
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    encoder_drop_path_rate: float = 0.0
    decoder_drop_path_rate: float = 0.0
    resnet_drop_path_rate: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and not (isinstance(value, int) and value >= 1):
                raise UserError(f"{field.name}={value!r} is not a whole number of at least 1")
        for stack in ("encoder", "decoder"):
            heads = getattr(self, f"{stack}_attention_heads")
            if self.d_model % heads:
                raise UserError(
                    f"{stack}_attention_heads={heads} does not divide d_model={self.d_model}; choose a divisor of it"
                )
        if self.resnet_type not in RESNET_STAGES:
            raise UserError(f"resnet_type={self.resnet_type!r} is not one of {', '.join(RESNET_STAGES)}")
        if self.code_image_size // 8 > self.image_bucket_size:
            raise UserError(
                f"code_image_size={self.code_image_size} needs {self.code_image_size // 8} positions per side, "
                f"image_bucket_size={self.image_bucket_size} has fewer"
            )
        for field in dataclasses.fields(self):
            if field.name.endswith(("dropout", "drop_path_rate")) and not 0 <= getattr(self, field.name) < 1:
                raise UserError(f"{field.name}={getattr(self, field.name)} is not in [0, 1)")

    @classmethod
    def from_name(cls, name: str, **changes: Any) -> OFAConfig:
        """The size `name`, one of SIZES, with `changes` to single fields; UserError if it or a field does not exist.

        >>> OFAConfig.from_name("tiny", dropout=0.0).d_model
        256
        """
        if name not in SIZES:
            raise UserError(f"model {name!r} is not one of {', '.join(SIZES)}{did_you_mean(name, SIZES)}")
        width, heads, encoder_layers, decoder_layers, resnet_type = SIZES[name]
        size = {"d_model": width, "resnet_type": resnet_type}
        for stack, layers in (("encoder", encoder_layers), ("decoder", decoder_layers)):
            size |= {f"{stack}_layers": layers, f"{stack}_ffn_dim": 4 * width, f"{stack}_attention_heads": heads}
        return cls.from_dict({**size, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> OFAConfig:
        """From field names and values; UserError for an unknown name or an invalid value."""
        names = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in names:
                raise UserError(f"model has no setting {name!r}{did_you_mean(name, names)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Field names and values, as `from_dict` takes them."""
        return dataclasses.asdict(self)

    @property
    def resnet_stages(self) -> tuple[int, int, int]:
        """Bottleneck blocks in each stage of the backbone."""
        return RESNET_STAGES[self.resnet_type]

    @property
    def max_image_size(self) -> int:
        """Longest image side in pixels that has positions: 16 px a patch, 672 px for the published 42 patches."""
        return 16 * self.image_bucket_size


def check_choice(value: object, key: str, valid: Collection[str]) -> None:
    """Raises UserError, about the setting `key`, if the value is not one of the valid names."""
    if not isinstance(value, str) or value not in valid:
        raise UserError(f"{key}={typed(value)} is not one of {', '.join(valid)}{did_you_mean(str(value), valid)}")


def check_number(value: object, key: str, remedy: str, *, above_zero: bool = False) -> None:
    """Raises UserError, about the setting `key`, if the value is not a finite number >= 0 (or > 0)."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (above_zero and value == 0):
        raise UserError(f"{key}={typed(value)} is not a number {'above' if above_zero else 'of at least'} 0; {remedy}")


def typed(value: object) -> object:
    """A value as typed on the command line."""
    return "null" if value is None else value


def did_you_mean(name: str, valid: Any) -> str:
    """'; did you mean ...?' with the closest valid name, or nothing.

    >>> did_you_mean("tinny", ["tiny", "base"])
    "; did you mean 'tiny'?"
    """
    by_lower_case = {str(word).lower(): str(word) for word in valid}
    close = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1)
    return f"; did you mean {by_lower_case[close[0]]!r}?" if close else ""
