"""True texts about a scene: referring expressions, captions, hypotheses of three labels, and questions with answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data.demo.scenes import Scene, SceneConfig, SceneObject
from ofa.errors import UserError

Item = TypeVar("Item")

N_CAPTIONS = 5  # as many as people wrote for each image of COCO

# side: (axis of the centre, whether the named side is where it is least)
SIDES = {"left": (0, True), "right": (0, False), "top": (1, True), "bottom": (1, False)}


def referring_expressions(scene: Scene, target: SceneObject) -> list[str]:
    """Expressions that fit `target` and no other object of the scene, those of fewest words first.

    Colour and shape are always named; size and side in the longer ones, and where they are needed.
    """
    expressions = []
    for size in ("", target.size):
        rivals = [o for o in scene.objects if o is not target and _looks_like(o, target, with_size=bool(size))]
        noun = " ".join(word for word in ("the", size, target.colour, target.shape) if word)
        if not rivals:
            expressions.append(noun)
        else:
            expressions += [f"{noun} on the {side}" for side in clear_sides(scene, target, rivals)]
    return sorted(expressions, key=lambda text: len(text.split()))


def clear_sides(scene: Scene, target: SceneObject, rivals: list[SceneObject]) -> list[str]:
    """The SIDES where `target` is further out than every rival by an eighth of the image, so that it is unambiguous."""
    sides = []
    for side, (axis, least) in SIDES.items():
        place = target.centre[axis] if least else -target.centre[axis]
        if all((r.centre[axis] if least else -r.centre[axis]) > place + scene.image_size / 8 for r in rivals):
            sides.append(side)
    return sides


def captions(scene: Scene) -> list[str]:
    """Five different true captions without punctuation, each naming all objects by colour and shape.

    Objects come from top to bottom and from left to right; in one caption reversed, unless that is the same text.
    """
    objects = sorted(scene.objects, key=lambda o: (o.cell, o.centre[0]))
    names = [with_article(o.colour, o.shape) for o in objects]
    listed = _listed(names)
    wordings = [
        listed,
        _listed(names[::-1]),
        f"there is {listed}",
        f"a picture of {listed}",
        f"the picture shows {listed}",
        f"a picture with {listed}",
    ]
    return list(dict.fromkeys(wordings))[:N_CAPTIONS]


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{' '.join(first)} and {last}" if first else last


def with_article(colour: str, shape: str) -> str:
    """Such as "a red circle", "an orange star"."""
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


def pick(rng: np.random.Generator, items: list[Item] | tuple[Item, ...]) -> Item:
    """One of them, each as likely."""
    return items[rng.integers(len(items))]


def _looks_like(other: SceneObject, target: SceneObject, with_size: bool) -> bool:
    same_look = (other.colour, other.shape) == (target.colour, target.shape)
    return same_look and (not with_size or other.size == target.size)


LABELS = ("entailment", "contradiction", "neutral")
PROPERTIES = ("heavy", "warm", "cold", "new", "old", "cheap", "expensive", "soft")  # which no image can show


@dataclass(frozen=True)
class Claim:
    """A hypothesis about an image, and a true caption that does not decide it."""

    hypothesis: str
    caption: str


@dataclass(frozen=True)
class Subject:
    """The subject of a claim, chosen before the scene, so that it does not depend on the label."""

    colour: str
    colour_only: bool  # a claim that the image decides names no shape
    in_sight: bool  # a wrong claim with a shape names a colour that the scene has, on another shape


def pick_subject(config: SceneConfig, rng: np.random.Generator) -> Subject:
    """A colour, each half as common as the one before it, and two coin tosses.

    Without frequent words and claims that name a colour only, entailment could not be trained from scratch: neither the
    image nor the text would be correlated with the answer.
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
        label: one of LABELS.
        config: whose shapes a contradiction may name.

    Raises:
        UserError: the scene has fewer than two objects.
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


KINDS = ("color", "shape", "exists", "how many shapes", "how many objects", "place")
MOST = 4  # numbers up to this are always among the answers
RUNNER_UP = 0.3  # confidence of a second answer, as if some annotators had miscounted


@dataclass(frozen=True)
class SceneQuestion:
    """A question of one of KINDS and its (confidence, answer) pairs, the best first."""

    text: str
    answers: list[tuple[float, str]]
    kind: str


def questions(scene: Scene, config: SceneConfig) -> list[SceneQuestion]:
    """All questions that have one right answer in this scene; `config` has the shapes and colours."""
    return [*_looks(scene), *_exists(scene, config), *_counts(scene, config), *_places(scene)]


def possible_answers(config: SceneConfig) -> list[str]:
    """Every answer that a question about such scenes can have, sorted."""
    looks = [f"{colour} {shape}" for colour in config.colours for shape in config.shapes]
    numbers = [str(number) for number in range(max(MOST, config.max_objects) + 1)]
    return sorted(["yes", "no", *numbers, *config.colours, *config.shapes, *looks])


def _looks(scene: Scene) -> list[SceneQuestion]:
    """The colour of an object with a unique shape, the shape of one with a unique colour."""
    shapes, colours = Counter(o.shape for o in scene.objects), Counter(o.colour for o in scene.objects)
    by_shape = [o for o in scene.objects if shapes[o.shape] == 1]
    by_colour = [o for o in scene.objects if colours[o.colour] == 1]
    return [
        *[_sure(f"what color is the {o.shape}?", o.colour, "color") for o in by_shape],
        *[_sure(f"what shape is the {o.colour} object?", o.shape, "shape") for o in by_colour],
    ]


def _exists(scene: Scene, config: SceneConfig) -> list[SceneQuestion]:
    present = {(o.colour, o.shape) for o in scene.objects}
    return [
        _sure(f"is there {with_article(colour, shape)}?", "yes" if (colour, shape) in present else "no", "exists")
        for colour in config.colours
        for shape in config.shapes
    ]


def _counts(scene: Scene, config: SceneConfig) -> list[SceneQuestion]:
    counts, most = Counter(o.shape for o in scene.objects), max(MOST, config.max_objects)
    asked = []
    for shape in config.shapes:
        count = counts[shape]
        runner_up = count + 1 if count < most else count - 1
        answers = [(1.0, str(count)), (RUNNER_UP, str(runner_up))]
        asked.append(SceneQuestion(f"how many {plural(shape)} are there?", answers, "how many shapes"))
    return [*asked, _sure("how many objects are there?", str(len(scene.objects)), "how many objects")]


def _places(scene: Scene) -> list[SceneQuestion]:
    """What is on each side; nothing of a single object, which may be anywhere."""
    asked = []
    for thing in scene.objects:
        others = [o for o in scene.objects if o is not thing]
        for side in clear_sides(scene, thing, others) if others else ():
            asked.append(_sure(f"what is on the {side}?", f"{thing.colour} {thing.shape}", "place"))
    return asked


def _sure(text: str, answer: str, kind: str) -> SceneQuestion:
    return SceneQuestion(text, [(1.0, answer)], kind)
