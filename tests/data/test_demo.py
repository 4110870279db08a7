import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.demo import demo_files

from data.demo.language import referring_expressions
from data.demo.scenes import COLOURS, SHAPES, SceneConfig, draw_scene, make_scene
from data.demo.source import write_demo
from ofa.errors import UserError

CONFIGS = [SceneConfig(difficulty=name, image_size=96, n_colours=3, n_shapes=2) for name in ("easy", "medium", "hard")]
every_difficulty = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.difficulty)
ROWS = {"train": 40, "evaluation": 15}


def scenes(config, count=60):
    rng = np.random.default_rng(0)
    return [make_scene(rng, config) for _ in range(count)]


@every_difficulty
def test_objects_lie_inside_the_image_and_do_not_overlap(config):
    for scene in scenes(config):
        assert config.min_objects <= len(scene.objects) <= config.max_objects
        for thing in scene.objects:
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 96
        for a, b in itertools.combinations([o.box for o in scene.objects], 2):
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_boxes_are_tight_around_what_is_drawn():
    config = SceneConfig(image_size=96, min_objects=1, max_objects=1, difficulty="hard", n_shapes=len(SHAPES))
    for scene in scenes(config, 20):
        bare = np.asarray(draw_scene(type(scene)(scene.image_size, (), scene.texture_seed)), dtype=int)
        changed = np.abs(np.asarray(draw_scene(scene), dtype=int) - bare).max(-1) > 12
        rows, columns = changed.any(1).nonzero()[0], changed.any(0).nonzero()[0]
        drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert drawn == pytest.approx(scene.objects[0].box, abs=1.5)


def fits(text, thing, scene):
    """Whether an expression describes an object, worked out from the words only."""
    words = text.split()
    rivals = [
        o for o in scene.objects
        if o.colour in words and o.shape in words and (o.size in words or not {"small", "large"} & set(words))
    ]  # fmt: skip
    places = {
        "left": lambda o: o.box[0],
        "right": lambda o: -o.box[2],
        "top": lambda o: o.box[1],
        "bottom": lambda o: -o.box[3],
    }
    for word, place in places.items():
        if word in words:
            rivals = [min(rivals, key=place)]
    return any(o is thing for o in rivals)


@every_difficulty
def test_an_expression_fits_the_object_that_is_meant_and_no_other(config):
    said = 0
    for scene in scenes(config):
        for target in scene.objects:
            for text in referring_expressions(scene, target):
                assert all(fits(text, thing, scene) == (thing is target) for thing in scene.objects)
                said += 1
    assert said > 100


def test_colour_and_shape_identify_easy_objects():
    texts = {referring_expressions(scene, o)[0] for scene in scenes(CONFIGS[0]) for o in scene.objects}
    assert texts <= {f"the {colour} {shape}" for colour in COLOURS for shape in SHAPES}


def test_recurring_looks_call_for_size_or_side():
    texts = " ".join(
        text for scene in scenes(CONFIGS[1]) for o in scene.objects for text in referring_expressions(scene, o)
    )
    assert {"small", "large", "left", "right", "top", "bottom"} <= set(texts.split())


def test_the_same_seed_writes_the_same_files_and_another_seed_others(tmp_path):
    first, again, other = (
        demo_files("refcoco", tmp_path / str(i), SceneConfig(), ROWS, seed) for i, seed in enumerate((1, 1, 2))
    )
    assert first["train"].read_bytes() == again["train"].read_bytes()
    assert first["train"].read_bytes() != other["train"].read_bytes()


def test_files_are_written_once_for_each_choice_of_settings(tmp_path):
    first = demo_files("refcoco", tmp_path, SceneConfig(), ROWS)["train"]
    written = first.stat().st_mtime_ns
    assert demo_files("refcoco", tmp_path, SceneConfig(), ROWS)["train"].stat().st_mtime_ns == written
    assert demo_files("refcoco", tmp_path, SceneConfig(n_shapes=2), ROWS)["train"] != first
    assert not [
        path for path in tmp_path.iterdir() if path not in (first.parent, *tmp_path.glob("refcoco_????????????"))
    ]


def test_a_task_without_demo_data_is_refused_by_name(tmp_path):
    task = SimpleNamespace(splits=("val",), demo_rows=None, demo_answers=None)
    with pytest.raises(UserError, match="task=juggling has no demo data: declare demo_rows"):
        write_demo("juggling", task, tmp_path, SceneConfig(), ROWS, seed=1)


def test_too_few_different_scenes_are_noticed(tmp_path):
    config = SceneConfig(image_size=16, grid=1, min_objects=1, max_objects=1, n_colours=2, n_shapes=2)
    with pytest.raises(UserError, match="too few different scenes"):
        demo_files("refcoco", tmp_path, config, ROWS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"difficulty": "impossible"}, "difficulty 'impossible' is unknown"),
        ({"image_size": 60}, "multiple of 8"),
        ({"max_objects": 9}, "max_objects is 9"),
        ({"n_colours": 0}, "n_colours is 0"),
        ({"grid": 40}, "grid is 40"),
    ],
)
def test_impossible_scenes_are_refused_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        SceneConfig(**settings)
