"""What can truly be said of a scene in words: `referring_expressions`, and the grammar all texts share."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from data.demo.scenes import Scene, SceneObject

Item = TypeVar("Item")

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
    """The SIDES where `target` is further out than every rival by an eighth of the picture: nobody would dispute it."""
    sides = []
    for side, (axis, least) in SIDES.items():
        place = target.centre[axis] if least else -target.centre[axis]
        if all((r.centre[axis] if least else -r.centre[axis]) > place + scene.image_size / 8 for r in rivals):
            sides.append(side)
    return sides


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
