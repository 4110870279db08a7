"""Captions of a scene: `captions` names every object, in five wordings."""

from __future__ import annotations

from data.demo.language import with_article
from data.demo.scenes import Scene

N_CAPTIONS = 5  # as many as people wrote of each picture of COCO


def captions(scene: Scene) -> list[str]:
    """Five different true captions without punctuation, each naming all objects by colour and shape.

    Objects come in reading order, from top to bottom and from left to right; in one caption backwards. Where that says
    the same, as of a single object, one more wording takes its place.
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
