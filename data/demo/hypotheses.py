"""Visual entailment about a scene: `hypothesis` follows from the image, contradicts it, or neither."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.demo.language import pick, with_article
from data.demo.scenes import Scene, SceneConfig
from ofa.errors import UserError

LABELS = ("entailment", "contradiction", "neutral")
PROPERTIES = ("heavy", "warm", "cold", "new", "old", "cheap", "expensive", "soft")  # which no image can show


@dataclass(frozen=True)
class Claim:
    """A hypothesis about an image, and a true caption that does not decide it."""

    hypothesis: str
    caption: str


@dataclass(frozen=True)
class Subject:
    """The subject of a claim, chosen before the scene, so that it does not depend on the label.

    colour: that it names.
    colour_only: whether a claim that the image decides names no shape.
    in_sight: whether a wrong claim with a shape names a colour that the scene has, on another shape.
    """

    colour: str
    colour_only: bool
    in_sight: bool


def pick_subject(config: SceneConfig, rng: np.random.Generator) -> Subject:
    """A colour, each half as common as the one before it, and two coin tosses.

    Without frequent words, as real text has them, entailment could not be trained from scratch: neither the image nor
    the text would be correlated with the answer, so training would have no gradient to start from. Claims that name a
    colour only exist for the same reason.
    """
    weights = 0.5 ** np.arange(len(config.colours))
    colour = config.colours[rng.choice(len(weights), p=weights / weights.sum())]
    return Subject(colour, bool(rng.random() < 0.5), bool(rng.random() < 0.5))


def hypothesis(
    scene: Scene, label: str, subject: Subject, config: SceneConfig, rng: np.random.Generator
) -> Claim | None:
    """A claim of this label about this subject, or None where the scene allows none.

    The caption is about an object of another colour, so that the two texts without the image distinguish entailment
    from contradiction no better than chance.

    Args:
        scene: of at least two objects.
        label: one of LABELS.
        subject: what to talk about.
        config: whose shapes a contradiction may name.
        rng: chooses the objects and the words.

    Raises:
        UserError: the scene has too few objects.
    """
    if len(scene.objects) < 2:
        raise UserError(
            f"a hypothesis needs scenes of 2 objects or more, this one has {len(scene.objects)}; "
            "set data.scenes.min_objects=2"
        )
    shown = [o for o in scene.objects if o.colour != subject.colour]
    shapes = [o.shape for o in scene.objects if o.colour == subject.colour]
    claim = _claim(label, subject, shapes, config, rng)
    if not shown or claim is None:
        return None
    other = pick(rng, shown)
    return Claim(claim, f"a picture with {with_article(other.colour, other.shape)}")


def _claim(
    label: str, subject: Subject, shapes: list[str], config: SceneConfig, rng: np.random.Generator
) -> str | None:
    """A claim about a colour that is on these shapes of the scene; None where the label allows none."""
    colour = subject.colour
    if label == "neutral":
        return f"the {colour} {pick(rng, shapes)} is {pick(rng, PROPERTIES)}" if shapes else None
    if subject.colour_only:
        return f"there is something {colour}" if bool(shapes) == (label == "entailment") else None
    if label == "entailment":
        return f"there is {with_article(colour, pick(rng, shapes))}" if shapes else None
    absent = [shape for shape in config.shapes if shape not in shapes]
    if not absent or bool(shapes) != subject.in_sight:
        return None
    return f"there is {with_article(colour, pick(rng, absent))}"
