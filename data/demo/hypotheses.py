"""Visual entailment about a scene: `hypothesis` says what follows from the picture, contradicts it, or neither."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.demo.language import pick, with_article
from data.demo.scenes import Scene, SceneConfig, SceneObject
from ofa.errors import UserError

LABELS = ("entailment", "contradiction", "neutral")
PROPERTIES = ("heavy", "warm", "cold", "new", "old", "cheap", "expensive", "soft")  # which no picture can show


@dataclass(frozen=True)
class Claim:
    """A hypothesis about a picture, and a true caption that leaves open whether it holds."""

    hypothesis: str
    caption: str


def hypothesis(scene: Scene, label: str, config: SceneConfig, rng: np.random.Generator) -> Claim | None:
    """A claim of this label, or None where the scene allows none (all objects of one colour, all looks taken).

    The caption tells of one object, the hypothesis names another colour than that one's: the two texts alone tell
    entailment from contradiction no better than a coin.

    Args:
        scene: of at least two objects.
        label: one of LABELS.
        config: whose colours and shapes a contradiction may name.
        rng: chooses the objects and the words.

    Raises:
        UserError: the scene has too few objects.
    """
    if len(scene.objects) < 2:
        raise UserError(
            f"a hypothesis needs scenes of 2 objects or more, this one has {len(scene.objects)}; "
            "set data.scenes.min_objects=2"
        )
    pairs = [(shown, other) for shown in scene.objects for other in scene.objects if shown.colour != other.colour]
    for i in rng.permutation(len(pairs)):
        shown, other = pairs[i]
        text = _hypothesis_about(other, shown, scene, label, config, rng)
        if text:
            return Claim(text, f"a picture with {with_article(shown.colour, shown.shape)}")
    return None


def _hypothesis_about(
    other: SceneObject, shown: SceneObject, scene: Scene, label: str, config: SceneConfig, rng: np.random.Generator
) -> str:
    """What the label allows to say of `other`; "" where that is nothing."""
    if label == "neutral":
        return f"the {other.colour} {other.shape} is {pick(rng, PROPERTIES)}"
    if label == "entailment":
        return f"there is {with_article(other.colour, other.shape)}"
    looks = _absent_looks(other, shown, scene, config)
    return f"there is {with_article(*pick(rng, pick(rng, looks)))}" if looks else ""


def _absent_looks(
    other: SceneObject, shown: SceneObject, scene: Scene, config: SceneConfig
) -> list[list[tuple[str, str]]]:
    """Lists, each as likely, of (colour, shape) that differ from `other` in one of the two and are not in the scene.

    Half of them keep the colour; a quarter take a colour that another shape of the scene has, where there is one.
    So neither the words nor the colours in the picture suffice: one must see which colour is on which shape.
    """
    present = {(o.colour, o.shape) for o in scene.objects}
    in_sight = {o.colour for o in scene.objects}
    reshaped = [(other.colour, shape) for shape in config.shapes if (other.colour, shape) not in present]
    recoloured = [
        (colour, other.shape)
        for colour in config.colours
        if colour != shown.colour and (colour, other.shape) not in present
    ]
    swapped = [(colour, shape) for colour, shape in recoloured if colour in in_sight]
    return [looks for looks in (reshaped, reshaped, recoloured, swapped or recoloured) if looks]
