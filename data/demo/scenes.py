"""Scenes of coloured shapes: the truth (`Scene`), how one is invented (`make_scene`) and drawn (`draw_scene`).

Boxes are (x0, y0, x1, y1) in pixels, origin at the top left, and touch the drawn shape on all four sides.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from ofa.errors import UserError
from ofa.images import Box

Outline = tuple[tuple[float, float], ...]

# In the order in which `n_colours` takes them: the most different first.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "blue": (40, 78, 230),
    "yellow": (245, 220, 40),
    "green": (32, 160, 60),
    "purple": (150, 45, 190),
    "orange": (250, 135, 25),
    "white": (250, 250, 250),
    "black": (18, 18, 18),
    "pink": (250, 150, 195),
    "brown": (115, 66, 30),
}
DIFFICULTIES = ("easy", "medium", "hard")
SIZES = ("small", "large")


def _fill_unit_square(points: Outline) -> Outline:
    """Stretch an outline until it touches all sides of the unit square, so that an object's box is its shape's."""
    left, top = (min(axis) for axis in zip(*points, strict=True))
    right, bottom = (max(axis) for axis in zip(*points, strict=True))
    return tuple(((x - left) / (right - left), (y - top) / (bottom - top)) for x, y in points)


def _ring_of_points(count: int, radii: tuple[float, ...] = (1.0,)) -> Outline:
    """`count` points around a centre, the first at the top, their distances cycling through `radii`."""
    turns = [2 * pi * i / count for i in range(count)]
    return _fill_unit_square(
        tuple((radii[i % len(radii)] * sin(turn), -radii[i % len(radii)] * cos(turn)) for i, turn in enumerate(turns))
    )


_A, _B = 0.32, 0.68  # the edges of the cross's bars
# Outlines in the unit square, in the order in which `n_shapes` takes them.
SHAPES: dict[str, Outline] = {
    "circle": _ring_of_points(48),
    "square": ((0, 0), (1, 0), (1, 1), (0, 1)),
    "triangle": _ring_of_points(3),
    "cross": ((_A, 0), (_B, 0), (_B, _A), (1, _A), (1, _B), (_B, _B), (_B, 1), (_A, 1), (_A, _B), (0, _B), (0, _A),
              (_A, _A)),
    "star": _ring_of_points(10, radii=(1.0, 0.42)),
    "diamond": _ring_of_points(4),
    "heart": _fill_unit_square(
        tuple(
            (16 * sin(t) ** 3, -13 * cos(t) + 5 * cos(2 * t) + 2 * cos(3 * t) + cos(4 * t))
            for t in (2 * pi * i / 48 for i in range(48))
        )
    ),
    "arrow": ((0, 0.3), (0.5, 0.3), (0.5, 0), (1, 0.5), (0.5, 1), (0.5, 0.7), (0, 0.7)),
}  # fmt: skip


@dataclass(frozen=True)
class SceneConfig:
    """What scenes may contain.

    easy: large objects, each in the middle of its cell, all of different colours;
    medium: two sizes, anywhere in the cell; colour and shape may recur, so that size or place identifies the object;
    hard: two sizes with a spread, placed anywhere.

    Raises:
        UserError: at construction, for what no scene can be, or more objects than find a place.
    """

    image_size: int = 64  # pixels, both sides; whole 8 x 8 blocks, as image codes need
    grid: int = 4  # cells a side; an object is never wider than a cell
    min_objects: int = 2
    max_objects: int = 3
    difficulty: str = "easy"
    n_colours: int = 6
    n_shapes: int = 4

    def __post_init__(self) -> None:
        if self.difficulty not in DIFFICULTIES:
            raise UserError(f"scene difficulty '{self.difficulty}' is unknown; choose one of {', '.join(DIFFICULTIES)}")
        if self.image_size < 8 or self.image_size % 8:
            raise UserError(f"scene image_size is {self.image_size}; choose a positive multiple of 8")
        if not 1 <= self.grid <= self.image_size // 8:
            raise UserError(
                f"scene grid is {self.grid}; choose 1 to {self.image_size // 8} (8 pixels a cell) "
                f"for image_size {self.image_size}"
            )
        if not 1 <= self.n_colours <= len(COLOURS):
            raise UserError(f"scene n_colours is {self.n_colours}; choose 1 to {len(COLOURS)}")
        if not 1 <= self.n_shapes <= len(SHAPES):
            raise UserError(f"scene n_shapes is {self.n_shapes}; choose 1 to {len(SHAPES)}")
        if not 1 <= self.min_objects <= self.max_objects:
            raise UserError(
                f"scene min_objects..max_objects is {self.min_objects}..{self.max_objects}; "
                "choose 1 <= min_objects <= max_objects"
            )
        if self.max_objects > self.room:
            raise UserError(
                f"scene max_objects is {self.max_objects}, but {self.difficulty} scenes with these settings hold "
                f"{self.room}; lower it, or raise grid, n_colours or n_shapes"
            )

    @property
    def room(self) -> int:
        """How many objects certainly find a place."""
        cells = self.grid**2
        random_places = max(1, cells // 3)  # which leave gaps
        return {"easy": min(cells, self.n_colours), "medium": cells, "hard": random_places}[self.difficulty]

    @property
    def colours(self) -> tuple[str, ...]:
        return tuple(COLOURS)[: self.n_colours]

    @property
    def shapes(self) -> tuple[str, ...]:
        return tuple(SHAPES)[: self.n_shapes]


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene."""

    colour: str
    shape: str
    size: str
    box: Box  # in pixels
    cell: tuple[int, int]  # (row, column) of the cell that holds the box's centre

    @property
    def centre(self) -> tuple[float, float]:
        """x and y of the box's middle, in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Scene:
    """The content of an image; image_size is the pixels of each side."""

    image_size: int
    objects: tuple[SceneObject, ...]
    texture_seed: int  # background and light, not part of the content

    @property
    def key(self) -> str:
        """The content: two scenes with the same key differ at most in texture and light."""
        return ";".join(sorted(f"{o.size} {o.colour} {o.shape} {o.box}" for o in self.objects))


def make_scene(rng: np.random.Generator, config: SceneConfig) -> Scene:
    """A scene allowed by `config`, determined by the state of `rng`."""
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    sizes = ["large"] * count if config.difficulty == "easy" else [SIZES[i] for i in rng.integers(0, 2, count)]
    boxes = _free_boxes(rng, config, sizes) if config.difficulty == "hard" else _cell_boxes(rng, config, sizes)
    colours = rng.choice(config.colours, size=count, replace=config.difficulty != "easy").tolist()
    shapes = rng.choice(config.shapes, size=count).tolist()
    cell = config.image_size / config.grid
    objects = []
    for colour, shape, size, box in zip(colours, shapes, sizes, boxes, strict=True):
        row, column = int((box[1] + box[3]) / 2 / cell), int((box[0] + box[2]) / 2 / cell)
        objects.append(SceneObject(colour, shape, size, box, (row, column)))
    return Scene(config.image_size, tuple(objects), texture_seed=int(rng.integers(2**32)))


def _cell_boxes(rng: np.random.Generator, config: SceneConfig, sizes: list[str]) -> list[Box]:
    """A cell for each object; in its middle when easy, anywhere inside it else."""
    cell = config.image_size / config.grid
    boxes = []
    for place, size in zip(rng.choice(config.grid**2, len(sizes), replace=False).tolist(), sizes, strict=True):
        row, column = divmod(place, config.grid)
        side = cell * (0.875 if size == "large" else 0.5)
        right, down = (0.5, 0.5) if config.difficulty == "easy" else rng.uniform(0.1, 0.9, 2).tolist()
        boxes.append(_square(column * cell + right * (cell - side), row * cell + down * (cell - side), side))
    return boxes


def _free_boxes(rng: np.random.Generator, config: SceneConfig, sizes: list[str]) -> list[Box]:
    """Boxes anywhere in the image, at least a pixel apart; starts over when the last ones do not fit."""
    cell = config.image_size / config.grid
    while True:
        boxes: list[Box] = []
        for _ in range(20 * len(sizes)):
            low, high = (0.75, 1.0) if sizes[len(boxes)] == "large" else (0.4, 0.55)
            side = cell * rng.uniform(low, high)
            box = _square(*rng.uniform(0, config.image_size - side, 2).tolist(), side)
            if all(_apart(box, other) for other in boxes):
                boxes.append(box)
            if len(boxes) == len(sizes):
                return boxes


def _square(x0: float, y0: float, side: float) -> Box:
    """Rounded as the files write it, so that image and file agree exactly."""
    return round(x0, 2), round(y0, 2), round(x0 + side, 2), round(y0 + side, 2)


def _apart(a: Box, b: Box, gap: float = 1.0) -> bool:
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]


def draw_scene(scene: Scene) -> Image.Image:
    """The image, RGB, image_size x image_size: shapes on a muted texture, under one light for both."""
    rng = np.random.default_rng(scene.texture_seed)
    canvas = Image.fromarray(_texture(rng, scene.image_size))
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box
        left, top = int(x0), int(y0)
        mask = _mask(thing.shape, round(x1 - x0, 2), round(y1 - y0, 2), round(x0 - left, 2), round(y0 - top, 2))
        canvas.paste(COLOURS[thing.colour], (left, top), mask)
    lit = np.asarray(canvas, dtype=np.float32) * _light(rng, scene.image_size)
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def _texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """uint8 [side, side, 3]: a greyish colour with soft clouds and fine grain."""
    clouds = rng.normal(0, 14, (5, 5)).astype(np.float32)
    clouds = np.asarray(Image.fromarray(clouds).resize((side, side), Image.Resampling.BICUBIC))
    grain = rng.normal(0, 4, (side, side)).astype(np.float32)
    ground = rng.uniform(105, 150) + rng.uniform(-10, 10, 3).astype(np.float32)
    return np.clip((clouds + grain)[..., None] + ground, 0, 255).astype(np.uint8)


def _light(rng: np.random.Generator, side: int) -> np.ndarray:
    """float32 [side, side, 3] factors: warm light from the left, cool light from above.

    The two are a cue for x and one for y, also on objects, for a network whose residual stream has no positions.
    """
    warm, cool = rng.uniform(0.8, 1.2, 2) * 0.5
    from_edge = np.linspace(0.5, -0.5, side, dtype=np.float32)
    across, down = warm * from_edge[None, :], cool * from_edge[:, None]
    red, green, blue = np.broadcast_to(across, (side, side)), (across + down) / 2, np.broadcast_to(down, (side, side))
    return rng.uniform(0.9, 1.0) + np.stack([red, green, blue], axis=-1).astype(np.float32)


@lru_cache(maxsize=4096)
def _mask(shape: str, width: float, height: float, left: float, top: float, detail: int = 8) -> Image.Image:
    """Coverage, L, of a shape of width x height whose corner lies (left, top), in [0, 1), inside the first pixel."""
    columns, rows = int(np.ceil(left + width)), int(np.ceil(top + height))
    fine = Image.new("L", (columns * detail, rows * detail))
    # PIL names a pixel by its centre, hence the half.
    points = [((left + x * width) * detail - 0.5, (top + y * height) * detail - 0.5) for x, y in SHAPES[shape]]
    ImageDraw.Draw(fine).polygon(points, fill=255)
    return fine.reduce(detail)
