"""True sentences about a scene: `referring_expressions`, `captions`, and the grammar that all texts share."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from data.demo.scenes import Scene, SceneObject

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

    Objects come in reading order, from top to bottom and from left to right; in one caption reversed. Where that is the
    same text, as with a single object, another wording takes its place.
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
    """More than one of a shape."""
    return shape + ("es" if shape.endswith("s") else "s")


def pick(rng: np.random.Generator, items: list[Item] | tuple[Item, ...]) -> Item:
    """One of them, each as likely."""
    return items[rng.integers(len(items))]


def _looks_like(other: SceneObject, target: SceneObject, with_size: bool) -> bool:
    same_look = (other.colour, other.shape) == (target.colour, target.shape)
    return same_look and (not with_size or other.size == target.size)
