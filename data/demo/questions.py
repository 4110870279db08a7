"""Questions about a scene with their answers: `questions`, and all answers there can be: `possible_answers`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from data.demo.language import clear_sides, plural, with_article
from data.demo.scenes import Scene, SceneConfig

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
    numbers = [str(number) for number in range(_most(config) + 1)]
    return sorted(["yes", "no", *numbers, *config.colours, *config.shapes, *looks])


def _looks(scene: Scene) -> list[SceneQuestion]:
    """The colour of an object with a unique shape, the shape of one with a unique colour."""
    shapes, colours = Counter(o.shape for o in scene.objects), Counter(o.colour for o in scene.objects)
    return [
        *[_sure(f"what color is the {o.shape}?", o.colour, "color") for o in scene.objects if shapes[o.shape] == 1],
        *[
            _sure(f"what shape is the {o.colour} object?", o.shape, "shape")
            for o in scene.objects
            if colours[o.colour] == 1
        ],
    ]


def _exists(scene: Scene, config: SceneConfig) -> list[SceneQuestion]:
    present = {(o.colour, o.shape) for o in scene.objects}
    return [
        _sure(f"is there {with_article(colour, shape)}?", "yes" if (colour, shape) in present else "no", "exists")
        for colour in config.colours
        for shape in config.shapes
    ]


def _counts(scene: Scene, config: SceneConfig) -> list[SceneQuestion]:
    counts, most = Counter(o.shape for o in scene.objects), _most(config)
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


def _most(config: SceneConfig) -> int:
    return max(MOST, config.max_objects)
