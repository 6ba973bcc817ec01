"""Simulated recordings of the eleven DVS128 gestures, in the file layout of the official ones.

    python -m recipes.gesture_simulator write simulated            # 29 people, three lightings each
    python -m recipes.gesture_simulator example guitar.aedat --gesture "air guitar"
    python -m recipes.gesture_simulator animate gestures.gif       # what the gestures look like

They replace the IBM recordings if those are not at hand. A figure of capsules (trunk, head, and two arms with
shoulder, elbow and wrist) performs the gestures in front of a camera. Body, clothes, speed, phase, lighting and
background are random; everything follows from the seed.

Left and right are the person's: the right hand is on the left of the image. *Clockwise is as seen by the camera*, in an
image that is not mirrored: a clockwise hand at the top of its circle moves to the right of the image.

**The camera.** Each pixel follows the logarithm of its light through a low-pass filter. It fires when the filtered
value has changed by a threshold since its last event, at the interpolated time of the crossing; the scene is drawn
every millisecond. Thresholds differ from pixel to pixel. After an event a pixel is dead for a while (and then starts
from what it sees). There are leak events (slow, brighter) and shot noise. The ideas are those of ESIM (Rebecq et al.,
CoRL 2018) and v2e (Hu et al., CVPR workshops 2021, arXiv 2006.07722). Edges are blended in the logarithm, so no
logarithm has to be computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from recipes.command import commands
from recipes.extras import need
from recipes.gestures import GESTURES
from zoo.errors import unknown
from zoo.inputs.event_pictures import pictures
from zoo.inputs.events import Events, write_aedat

SIDE = 128
"""Pixels per side of the image."""
STEP = 1000
"""Microseconds between two drawings of the scene."""
MOST_EVENTS = 8
"""The most events of a pixel in one step."""
PAUSE = 0.25
"""Seconds in which the arms move from one gesture to the next; they have no label."""
RIGHT, LEFT = -1, 1
"""The sides of the person, as the direction of x in the image."""
PEOPLE, TEST_SHARE = 29, 6 / 29
STRANGER = 1000
"""The number of a person who is in none of the data sets."""
NOTICE = """\
SIMULATED recordings, not IBM's: written by snn-zoo's recipes/gesture_simulator.py in the layout of the DVS128 Gesture
Dataset. Seed {seed}, {people} people, {lightings} lightings each, about {seconds:g} seconds per gesture.
"""


class Lighting(NamedTuple):
    """``flicker`` is the flickering share of the light, at ``hertz``; ``delay`` the pixels' time constant in
    milliseconds (longer in the dark); ``noise`` the shot noise in events per second and pixel."""

    flicker: float
    hertz: float
    delay: float
    noise: float


LIGHTINGS = {
    "fluorescent": Lighting(0.06, 100.0, 3.0, 0.3),
    "fluorescent_led": Lighting(0.03, 100.0, 2.0, 0.2),
    "lab": Lighting(0.03, 100.0, 4.0, 0.5),
    "led": Lighting(0.0, 0.0, 2.0, 0.2),
    "natural": Lighting(0.0, 0.0, 1.5, 0.1),
}


@dataclass(frozen=True)
class Person:
    """A body, in arm's lengths (shoulder to wrist); ``scale`` is pixels per arm's length; brightness is logarithmic."""

    scale: float
    centre: np.ndarray
    shoulders: float
    upper: float
    thickness: float
    head: float
    trunk: float
    turn: float
    lean: float
    skin: float
    sleeves: float
    shirt: float
    stripes: float
    tempo: float
    vigour: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> "Person":
        between = random.uniform
        return cls(
            scale=between(40, 54),
            centre=np.array([between(56, 72), between(46, 58)]),
            shoulders=between(0.27, 0.38),
            upper=between(0.49, 0.55),
            thickness=between(0.8, 1.3),
            head=between(0.15, 0.2),
            trunk=between(0.2, 0.3),
            turn=between(-0.3, 0.3),
            lean=between(-0.06, 0.06),
            skin=between(-1.3, -0.2),
            sleeves=between(-2.6, -0.2),
            shirt=between(-2.6, -0.2),
            stripes=between(0, 0.25) * (random.random() < 0.4),
            tempo=between(0.8, 1.25),
            vigour=between(0.85, 1.15),
        )


# ---- The gestures: paths of elbow and wrist, relative to the shoulder ----
#
# In arm's lengths: x outwards from the body, y down, z towards the camera; arrays [T, 3].

Arm = tuple[np.ndarray, np.ndarray]


def path(x, y, z) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*(np.asarray(part, float) for part in (x, y, z))), axis=-1)


def reach(wrist: np.ndarray, upper: float, pole=(0.4, 1.0, -0.2)) -> Arm:
    """Elbow and wrist of an arm that reaches for ``wrist [T, 3]``, with the elbow on the side of ``pole``.

    By the cosine rule in the plane of shoulder, wrist and pole. If the wrist is out of reach, the arm points at it.
    """
    lower = 1 - upper
    distance = np.linalg.norm(wrist, axis=-1, keepdims=True).clip(1e-6)
    near = distance.clip(abs(upper - lower) + 0.05, 0.995)
    towards = wrist / distance
    along = (upper**2 + near**2 - lower**2) / (2 * near)
    aside = np.asarray(pole) - (towards @ np.asarray(pole))[:, None] * towards
    aside /= np.linalg.norm(aside, axis=-1, keepdims=True).clip(1e-6)
    return along * towards + np.sqrt((upper**2 - along**2).clip(0)) * aside, near * towards


class Motion:
    """The random choices of one gesture: time, tempo and phase, and small movements."""

    def __init__(self, random: np.random.Generator, person: Person, steps: int):
        self.random, self.person = random, person
        self.seconds = np.arange(steps) * STEP / 1e6

    def between(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def phase(self, low: float, high: float) -> np.ndarray:
        """An angle that makes ``low`` to ``high`` turns per second, not quite evenly, from a random start."""
        hertz = self.between(low, high) * self.person.tempo
        uneven = self.between(0, 0.25) * np.sin(2 * np.pi * self.between(0.2, 0.6) * self.seconds + self.between(0, 6))
        return 2 * np.pi * hertz * self.seconds + uneven + self.between(0, 2 * np.pi)

    def sway(self, size: float) -> np.ndarray:
        """A slow, small movement ``[T]``."""
        slow = [np.sin(2 * np.pi * self.between(0.15, 0.7) * self.seconds + self.between(0, 6)) for _ in range(2)]
        return size * (slow[0] + 0.5 * slow[1])

    def amplitude(self, low: float, high: float) -> float:
        return self.between(low, high) * self.person.vigour

    def reach(self, x, y, z, **options) -> Arm:
        wrist = path(x + self.sway(0.01), y + self.sway(0.01), z + self.sway(0.01))
        return reach(wrist, self.person.upper, **options)

    def rest(self) -> Arm:
        """An arm that hangs down."""
        return self.reach(self.between(0.05, 0.2), self.between(0.88, 0.98), self.between(0.0, 0.2))


def clapping(motion: Motion) -> dict[int, Arm]:
    """Both hands meet before the chest."""
    gap = motion.amplitude(0.12, 0.3) * (1 + np.cos(motion.phase(1.5, 3.0))) + 0.03
    height, depth, inwards = motion.between(0.15, 0.4), motion.between(0.45, 0.65), motion.person.shoulders
    return {side: motion.reach(gap - inwards, height, depth, pole=(0.8, 1.0, -0.3)) for side in (RIGHT, LEFT)}


def wave(side: int) -> Callable:
    """One forearm, held up, swings about its elbow."""

    def gesture(motion: Motion) -> dict[int, Arm]:
        swing = motion.between(-0.1, 0.35) + motion.amplitude(0.35, 0.65) * np.sin(motion.phase(1.0, 2.2))
        out, up = motion.between(0.15, 0.75), motion.between(-0.1, 0.6)
        towards = path(np.sin(out) * np.cos(up), np.sin(up), np.cos(out) * np.cos(up) * 0.5)
        elbow = motion.person.upper * towards / np.linalg.norm(towards) + path(motion.sway(0.01), motion.sway(0.01), 0)
        forearm = path(np.sin(swing), -np.cos(swing), 0.25)
        wrist = elbow + (1 - motion.person.upper) * forearm / np.linalg.norm(forearm, axis=-1, keepdims=True)
        return {side: (elbow, wrist), -side: motion.rest()}

    return gesture


def circle(side: int, clockwise: bool) -> Callable:
    """One stretched arm draws a large circle; in the image, x to the right and y down, clockwise is x towards y."""

    def gesture(motion: Motion) -> dict[int, Arm]:
        angle = motion.phase(0.7, 1.4) * (1 if clockwise else -1)
        radius, depth = motion.amplitude(0.42, 0.66), motion.between(0.3, 0.55)
        x = motion.between(0.15, 0.4) + side * radius * motion.between(0.8, 1.1) * np.cos(angle)
        y = motion.between(-0.1, 0.15) + radius * np.sin(angle)
        return {side: motion.reach(x, y, depth), -side: motion.rest()}

    return gesture


def arm_roll(motion: Motion) -> dict[int, Arm]:
    """The forearms, level before the chest, rotate around each other."""
    angle = motion.phase(1.0, 2.2) * motion.random.choice([-1, 1])
    radius, height, depth = motion.amplitude(0.12, 0.2), motion.between(0.3, 0.5), motion.between(0.4, 0.5)
    inwards = motion.person.shoulders + motion.between(-0.05, 0.12)
    return {
        side: motion.reach(-inwards, height + radius * np.sin(turn), depth + radius * np.cos(turn), pole=(1.0, 0.5, 0))
        for side, turn in ((RIGHT, angle), (LEFT, angle + np.pi))
    }


def air_drums(motion: Motion) -> dict[int, Arm]:
    """The hands beat down in turn."""
    angle, size = motion.phase(1.4, 3.2), motion.amplitude(0.14, 0.26)
    height, out = motion.between(0.35, 0.6), motion.between(-0.15, 0.15)
    arms = {}
    for side, turn in ((RIGHT, angle), (LEFT, angle + np.pi + motion.between(-0.5, 0.5))):
        beat = np.sin(turn) + 0.3 * np.sin(2 * turn)  # moves down faster than up
        arms[side] = motion.reach(out + 0.03 * np.cos(turn), height + size * beat, 0.5, pole=(0.7, 1.0, -0.3))
    return arms


def air_guitar(motion: Motion) -> dict[int, Arm]:
    """One hand strums before the belly, the other holds the neck out to its side."""
    strum = LEFT if motion.random.random() < 0.15 else RIGHT
    beat, size = np.sin(motion.phase(2.0, 4.0)), motion.amplitude(0.1, 0.2)
    strumming = motion.reach(-0.2 - 0.25 * size * beat, motion.between(0.6, 0.72) + size * beat, 0.4, pole=(1, 0.4, 0))
    slide = motion.amplitude(0.02, 0.1) * np.sin(motion.phase(0.3, 0.9))
    out, height = motion.between(0.4, 0.6), motion.between(0.2, 0.4)
    return {strum: strumming, -strum: motion.reach(out + slide, height - 0.6 * slide, 0.35, pole=(0.3, 1, 0))}


def both_up(motion: Motion) -> dict[int, Arm]:
    angle, size = motion.phase(0.5, 1.0), motion.amplitude(0.6, 0.9)
    x, y = 0.35 + 0.45 * (1 - np.abs(np.sin(angle / 2))), 0.1 - size * np.sin(angle)
    return {side: motion.reach(x, y, 0.2) for side in (RIGHT, LEFT)}


def punches(motion: Motion) -> dict[int, Arm]:
    angle = motion.phase(1.0, 2.0)
    return {
        side: motion.reach(-0.05, 0.15, 0.5 + 0.42 * np.sin(turn), pole=(1.0, 0.8, -0.5))
        for side, turn in ((RIGHT, angle), (LEFT, angle + np.pi))
    }


def swipe(motion: Motion) -> dict[int, Arm]:
    side = motion.random.choice([RIGHT, LEFT])
    x = motion.amplitude(0.4, 0.65) * np.sin(motion.phase(0.5, 1.1))
    return {side: motion.reach(x, motion.between(0.0, 0.3), 0.5), -side: motion.rest()}


def scribble(motion: Motion) -> dict[int, Arm]:
    def free(low, high):
        return motion.amplitude(low, high) * np.sin(motion.phase(0.4, 1.6))

    return {
        side: motion.reach(0.15 + free(0.1, 0.35), 0.2 + free(0.1, 0.5), 0.4 + free(0, 0.2)) for side in (RIGHT, LEFT)
    }


def other(motion: Motion) -> dict[int, Arm]:
    """Something else: both arms up and down, punches, a swipe, or both hands scribbling in the air."""
    return motion.random.choice(np.array([both_up, punches, swipe, scribble]))(motion)


PERFORM = dict(
    zip(
        GESTURES,
        (
            clapping,
            wave(RIGHT),
            wave(LEFT),
            circle(RIGHT, clockwise=True),
            circle(RIGHT, clockwise=False),
            circle(LEFT, clockwise=True),
            circle(LEFT, clockwise=False),
            arm_roll,
            air_drums,
            air_guitar,
            other,
        ),
    )
)


# ---- From joints to capsules ----


def perform(person: Person, gesture: str, seconds: float, random: np.random.Generator) -> np.ndarray:
    """The joints ``[T, 4, 3]`` (right elbow, right wrist, left elbow, left wrist) of one gesture."""
    arms = PERFORM[gesture](Motion(random, person, round(seconds * 1e6 / STEP)))
    return np.stack([*arms[RIGHT], *arms[LEFT]], axis=1)


def with_pauses(parts: list[np.ndarray]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The gestures joined by smooth movements of the arms, and where each gesture begins and ends."""
    steps = round(PAUSE * 1e6 / STEP)
    ease = (0.5 - 0.5 * np.cos(np.pi * (np.arange(steps) + 1) / (steps + 1)))[:, None, None]
    joined, places, length = [], [], 0
    for i, part in enumerate(parts):
        if i:
            joined.append(parts[i - 1][-1] * (1 - ease) + part[0] * ease)
            length += steps
        joined.append(part)
        places.append((length, length + len(part)))
        length += len(part)
    return np.concatenate(joined), places


CAPSULE = ("x0", "y0", "x1", "y1", "radius", "brightness", "stripes")


def capsules(person: Person, joints: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The figure as capsules ``[T, 10, 7]`` in pixels (:data:`CAPSULE`), in the order of painting."""
    steps, zero = len(joints), np.zeros(len(joints))
    body = Motion(random, person, steps)
    sway = path(body.sway(0.012), body.sway(0.006), zero)
    cos, sin = np.cos(person.turn + body.sway(0.03)), np.sin(person.turn + body.sway(0.03))

    def image(points: np.ndarray) -> np.ndarray:
        """Points ``[T, 3]`` of the body, turned about its axis and leaned, in pixels, with their size there."""
        x, y, z = (points + sway).T
        x, z = cos * x + sin * z, cos * z - sin * x
        x = x - person.lean * y
        size = person.scale * (1 + 0.12 * z)
        return np.stack([person.centre[0] + size * x, person.centre[1] + size * y, size], axis=-1)

    def capsule(start, end, radius: float, brightness: float, stripes: float = 0.0) -> np.ndarray:
        start, end = (image(np.broadcast_to(point, (steps, 3)).astype(float)) for point in (start, end))
        constant = [np.full(steps, value) for value in (brightness, stripes)]
        return np.stack([*start.T[:2], *end.T[:2], radius * end[:, 2], *constant], axis=-1)

    half, head = person.shoulders, person.head
    torso = [
        capsule((-half, 0.02, 0), (half, 0.02, 0), 0.1 * person.thickness, person.shirt, person.stripes),
        capsule((0, 0.2, 0), (0, 0.95, 0), person.trunk * 1.15, person.shirt, person.stripes),
        capsule((0, -0.1, 0), (0, -0.2, 0), 0.45 * head, person.skin - 0.15),
        capsule((0, -0.2 - head, 0.05), (0, -0.26 - 1.3 * head, 0.05), head, person.skin),
    ]
    arms = []
    for side, (elbow, wrist) in ((RIGHT, joints[:, :2].swapaxes(0, 1)), (LEFT, joints[:, 2:].swapaxes(0, 1))):
        outwards, shoulder = np.array([side, 1, 1]), np.array([side * half, 0.03, 0])
        elbow, wrist = shoulder + outwards * elbow, shoulder + outwards * wrist
        hand = wrist + 0.16 * (wrist - elbow) / np.linalg.norm(wrist - elbow, axis=-1, keepdims=True).clip(1e-6)
        arms.append(
            [
                capsule(shoulder, elbow, 0.085 * person.thickness, person.sleeves, person.stripes),
                capsule(elbow, wrist, 0.065 * person.thickness, person.sleeves + 0.1, person.stripes),
                capsule(wrist, hand, 0.07 * person.thickness**0.5, person.skin),
            ]
        )
    right, left = (np.stack(arm, axis=1) for arm in arms)
    right_before = (joints[:, 1, 2] > joints[:, 3, 2])[:, None, None]
    nearer, farther = np.where(right_before, right, left), np.where(right_before, left, right)
    return np.concatenate([np.stack(torso, axis=1), farther, nearer], axis=1)


def background(random: np.random.Generator) -> np.ndarray:
    """The log brightness ``[SIDE, SIDE]`` behind the person: a wall with a soft pattern and a few objects."""
    image = np.full((SIDE, SIDE), random.uniform(-1.8, -0.3))
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    for _ in range(4):
        waves = random.uniform(-3, 3, 2)
        image += random.uniform(0, 0.12) * np.sin(2 * np.pi * (waves[0] * x + waves[1] * y) + random.uniform(0, 6))
    for _ in range(random.integers(0, 4)):
        left, top = random.integers(0, SIDE - 10, 2)
        wide, high = random.integers(8, 50, 2)
        image[top : top + high, left : left + wide] += random.uniform(-0.5, 0.5)
    return image.astype(np.float32)


# ---- The camera ----


@njit(cache=True, nogil=True)
def paint(scene, shapes):
    """Paint the capsules ``[n, 7]`` onto ``scene``, with edges one pixel soft and a little darker towards them."""
    height, width = scene.shape
    for k in range(len(shapes)):
        x0, y0, x1, y1, radius, brightness, stripes = shapes[k]
        reach = radius + 0.5
        along_x, along_y = x1 - x0, y1 - y0
        square = max(along_x * along_x + along_y * along_y, 1e-6)
        for row in range(max(0, int(min(y0, y1) - reach)), min(height, int(max(y0, y1) + reach) + 2)):
            for column in range(max(0, int(min(x0, x1) - reach)), min(width, int(max(x0, x1) + reach) + 2)):
                u = ((column - x0) * along_x + (row - y0) * along_y) / square
                u = min(max(u, 0.0), 1.0)
                away_x, away_y = column - x0 - u * along_x, row - y0 - u * along_y
                distance = (away_x * away_x + away_y * away_y) ** 0.5
                if distance < reach:
                    value = brightness - 0.4 * (distance / radius) ** 2
                    if stripes > 0:
                        value += stripes * np.sin(1.3 * u * square**0.5)
                    cover = min(1.0, reach - distance)
                    scene[row, column] += np.float32(cover * (value - scene[row, column]))


@njit(cache=True, nogil=True)
def crossing(before, after, reference, on, off):
    """Whether a pixel whose level changed from ``before`` to ``after`` crossed a threshold, counted from ``reference``.

    Returns (crossed, brighter, level of the threshold, when as a share of the step).
    """
    brighter = after - reference >= on
    if not brighter and reference - after < off:
        return False, False, reference, 0.0
    level = reference + on if brighter else reference - off
    change = after - before
    share = (level - before) / change if abs(change) > 1e-9 else 1.0
    return True, brighter, level, min(max(share, 0.0), 1.0)


@njit(cache=True, nogil=True)
def larger(array, count, capacity):
    """A copy of the first ``count`` elements with room for ``capacity``."""
    copy = np.empty(capacity, array.dtype)
    copy[:count] = array[:count]
    return copy


@njit(cache=True, nogil=True)
def film(wall, shapes, light, brighter, darker, follow, dead, leak, noise, seed):
    """Events (t in microseconds, pixel, polarity) of the figure ``shapes [T, n, 7]`` before ``wall [H, W]``.

    ``light [T]`` is the log of the illumination, ``brighter`` and ``darker`` ``[H, W]`` the thresholds, ``follow`` the
    share of a change that a pixel follows per step, ``dead`` its dead time in microseconds, ``leak`` in thresholds per
    second, ``noise`` in events per second and pixel.
    """
    np.random.seed(seed)
    height, width = wall.shape
    pixels, step = height * width, 1000.0
    scene, on, off = np.empty_like(wall), brighter.ravel(), darker.ravel()
    seen, reference = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    last = np.full(pixels, -1e12)
    capacity, count = 1 << 16, 0
    times, places, signs = np.empty(capacity, np.int64), np.empty(capacity, np.int32), np.empty(capacity, np.bool_)
    for i in range(len(shapes)):
        scene[:] = wall
        paint(scene, shapes[i])
        flat, now = scene.ravel(), i * step
        if i == 0:
            for pixel in range(pixels):
                seen[pixel] = flat[pixel] + light[0]
                reference[pixel] = seen[pixel] - np.random.uniform(-off[pixel], on[pixel])
            continue
        random_events = np.random.poisson(noise * pixels * step * 1e-6)
        if count + MOST_EVENTS * pixels + random_events > capacity:
            capacity = 2 * capacity + MOST_EVENTS * pixels + random_events
            times, places = larger(times, count, capacity), larger(places, count, capacity)
            signs = larger(signs, count, capacity)
        drift = leak * step * 1e-6
        for pixel in range(pixels):
            before = seen[pixel]
            after = before + follow * (flat[pixel] + light[i] - before)
            seen[pixel] = after
            reference[pixel] -= drift * on[pixel]
            for _ in range(MOST_EVENTS):
                crossed, up, level, share = crossing(before, after, reference[pixel], on[pixel], off[pixel])
                if not crossed:
                    break
                when = now - step + step * share
                if when - last[pixel] < dead:
                    reference[pixel] = after
                    break
                reference[pixel], last[pixel] = level, when
                times[count], places[count], signs[count] = int(when), pixel, up
                count += 1
        for _ in range(random_events):
            pixel = np.random.randint(pixels)
            when = now - step + step * np.random.random()
            if when - last[pixel] >= dead:
                last[pixel] = when
                times[count], places[count], signs[count] = int(when), pixel, np.random.random() < 0.5
                count += 1
    return times[:count], places[:count], signs[:count]


def record(shapes: np.ndarray, wall: np.ndarray, lighting: Lighting, random: np.random.Generator) -> Events:
    """What an event camera sees of a figure."""
    seconds = np.arange(len(shapes)) * STEP / 1e6
    level = random.uniform(-0.5, 0.5)
    flicker = 0.5 * lighting.flicker * (1 + np.sin(2 * np.pi * lighting.hertz * seconds + random.uniform(0, 6)))
    drift = random.uniform(0, 0.05) * np.sin(2 * np.pi * random.uniform(0.05, 0.2) * seconds)
    threshold, unevenness = random.uniform(0.16, 0.28), random.uniform(0.02, 0.05)
    balance = random.uniform(-0.03, 0.03)
    brighter, darker = (
        (threshold + sign * balance + unevenness * random.standard_normal((SIDE, SIDE))).clip(0.06) for sign in (1, -1)
    )
    t, place, p = film(
        wall,
        shapes.astype(np.float32),
        (level + drift + np.log1p(-flicker)).astype(np.float32),
        brighter.astype(np.float32),
        darker.astype(np.float32),
        np.float32(1 - np.exp(-1 / lighting.delay)),
        random.uniform(300, 1500),
        random.uniform(0.05, 0.2),
        lighting.noise * random.uniform(0.5, 1.5),
        int(random.integers(2**31)),
    )
    order = np.argsort(t, kind="stable")
    y, x = np.divmod(place[order], SIDE)
    return Events(t[order], x.astype(np.int16), y.astype(np.int16), p[order])


# ---- Files ----


def trial(
    user: int, lighting: str, gestures: tuple[str, ...], seconds: float, seed: int
) -> tuple[Events, list[tuple[str, int, int]]]:
    """One person's gestures one after another: the events, and (gesture, start, end) of each in microseconds."""
    person = Person.draw(np.random.default_rng([seed, user]))
    random = np.random.default_rng([seed, user, 1 + list(LIGHTINGS).index(lighting)])
    parts = [perform(person, gesture, seconds * random.uniform(0.8, 1.2), random) for gesture in gestures]
    joints, places = with_pauses(parts)
    events = record(capsules(person, joints, random), background(random), LIGHTINGS[lighting], random)
    begin = int(random.integers(1_000_000, 90_000_000))  # as in the official recordings, whose clock started earlier
    labels = [(gesture, begin + start * STEP, begin + end * STEP) for gesture, (start, end) in zip(gestures, places)]
    return Events(events.t + begin, events.x, events.y, events.p), labels


def lightings_of(user: int, count: int, seed: int) -> list[str]:
    """The lightings under which a person of a data set is recorded."""
    return sorted(np.random.default_rng([seed, user, 0]).permutation(list(LIGHTINGS))[:count].tolist())


def example(gesture: str, lighting: str = "led", seed: int = 0) -> Events:
    """One gesture of two seconds by a person who is in no data set of this seed."""
    if gesture not in GESTURES:
        raise unknown("gesture", gesture, GESTURES)
    events, [(_, start, end)] = trial(STRANGER, lighting, (gesture,), 2.0, seed)
    return events.between(start, end)


def write_data_set(
    folder: Path, people: int = PEOPLE, lightings: int = 3, seconds: float = 2.0, seed: int = 0
) -> dict[str, list[str]]:
    """Write trials in the file layout of the official data set; return the names in its two lists.

    The last people, six of 29 as in the official split, are for testing. Raises ValueError for fewer than two people,
    more lightings than there are, and gestures shorter than half a second.
    """
    if not 2 <= people < STRANGER or not 1 <= lightings <= len(LIGHTINGS) or seconds < 0.5:
        raise ValueError(
            f"a data set needs 2 to {STRANGER - 1} people, 1 to {len(LIGHTINGS)} lightings and 0.5 s per gesture; "
            f"got {people}, {lightings} and {seconds}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    test = max(1, round(people * TEST_SHARE))
    names: dict[str, list[str]] = {"train": [], "test": []}
    for user in range(1, people + 1):
        for lighting in lightings_of(user, lightings, seed):
            events, labels = trial(user, lighting, GESTURES, seconds, seed)
            name = f"user{user:02}_{lighting}"
            write_aedat(folder / f"{name}.aedat", events)
            rows = [f"{GESTURES.index(gesture) + 1},{start},{end}" for gesture, start, end in labels]
            text = "\n".join(["class,startTime_usec,endTime_usec", *rows])
            (folder / f"{name}_labels.csv").write_text(text + "\n")
            names["test" if user > people - test else "train"].append(f"{name}.aedat")
    for split, trials in names.items():
        (folder / f"trials_to_{split}.txt").write_text("\n".join(trials) + "\n")
    mapping = [f"{gesture.replace(' ', '_')},{i + 1}" for i, gesture in enumerate(GESTURES)]
    (folder / "gesture_mapping.csv").write_text("\n".join(["action,label", *mapping]) + "\n")
    notice = NOTICE.format(seed=seed, people=people, lightings=lightings, seconds=seconds)
    (folder / "README.txt").write_text(notice)
    return names


def animate(output: Path, user: int = 1, lighting: str = "led", seconds: float = 2.4, seed: int = 0) -> None:
    """An animated GIF of one person's eleven gestures, side by side, as seen by the camera."""
    need("the animation", "PIL")
    from PIL import Image, ImageDraw

    events, labels = trial(user, lighting, GESTURES, seconds / 0.8, seed)
    tiles = [pictures(events, start, seconds, 25, SIDE, SIDE) for _, start, _ in labels]
    wide, high, frames = SIDE + 24, SIDE + 14, []
    for i in range(len(tiles[0])):
        sheet = Image.new("RGB", (4 * wide, 3 * high))
        draw = ImageDraw.Draw(sheet)
        for k, (tile, gesture) in enumerate(zip(tiles, GESTURES)):
            left, top = k % 4 * wide, k // 4 * high
            sheet.paste(Image.fromarray(tile[i]), (left, top + 14))
            draw.text((left + 2, top + 1), gesture, fill="white")
        frames.append(sheet)
    frames[0].save(output, save_all=True, append_images=frames[1:], duration=40, loop=0)


def command_line():
    """The commands ``write``, ``example`` and ``animate``."""
    from typing import Annotated

    import typer

    app = commands("Simulated DVS128 gestures.")

    @app.command()
    def write(
        folder: Path,
        people: int = PEOPLE,
        lightings: Annotated[int, typer.Option(help="trials per person")] = 3,
        seconds: Annotated[float, typer.Option(help="mean length of a gesture")] = 2.0,
        seed: int = 0,
    ):
        """Write a data set in the official file layout."""
        names = write_data_set(folder, people, lightings, seconds, seed)
        print(f"{len(names['train'])} trials to train and {len(names['test'])} to test are in {folder}")

    @app.command("example")
    def example_command(
        output: Annotated[Path, typer.Argument(help="event file to write, .aedat")],
        gesture: Annotated[str, typer.Option(help=", ".join(GESTURES))] = GESTURES[0],
        lighting: Annotated[str, typer.Option(help=", ".join(LIGHTINGS))] = "led",
        seed: int = 0,
    ):
        """Write one gesture of a person who is in no data set."""
        write_aedat(output, example(gesture, lighting, seed))

    @app.command("animate")
    def animate_command(output: Path, user: int = 1, lighting: str = "led", seed: int = 0):
        """Write an animated GIF of one person's gestures."""
        animate(output, user, lighting, seed=seed)

    return app


if __name__ == "__main__":
    command_line()()
