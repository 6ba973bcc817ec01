"""Simulated gestures: the motion is that of the label, and the files have the official layout."""

import numpy as np
import pytest
from PIL import Image

from recipes import dvs_gesture, gesture_simulator
from recipes.dvs_gesture import GESTURES, MIRRORED
from recipes.gesture_simulator import LEFT, LIGHTINGS, RIGHT, Person, capsules, perform, record, trial, write_data_set
from zoo.inputs.events import read_aedat

RIGHT_WRIST, LEFT_WRIST = 1, 3
SEEDS = range(5)


def figure(gesture: str, seed: int, seconds: float = 2.0) -> np.ndarray:
    """The capsules of one gesture."""
    random = np.random.default_rng(seed)
    person = Person.draw(random)
    return capsules(person, perform(person, gesture, seconds, random), random)


def hands(gesture: str, seed: int) -> dict[int, np.ndarray]:
    """The places of the hands in the image, ``[T, 2]``, x to the right and y down."""
    random = np.random.default_rng(seed)
    person = Person.draw(random)
    joints = perform(person, gesture, 2.0, random)
    x, y = np.array([1, 0, 0]), np.array([0, 1, 0])
    return {
        side: np.stack([side * (person.shoulders + joints[:, place] @ x), joints[:, place] @ y], axis=-1)
        for side, place in ((RIGHT, RIGHT_WRIST), (LEFT, LEFT_WRIST))
    }


def travelled(points: np.ndarray) -> float:
    return np.abs(np.diff(points, axis=0)).sum()


def turned(points: np.ndarray) -> float:
    """The total angle of a path around its middle; positive is clockwise in an image whose y points down."""
    x, y = (points - (points.max(0) + points.min(0)) / 2).T
    return np.diff(np.unwrap(np.arctan2(y, x))).sum()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", [RIGHT, LEFT])
def test_an_arm_turns_the_way_that_the_camera_sees_it(side, seed):
    name = "right" if side == RIGHT else "left"
    assert turned(hands(f"{name} arm clockwise", seed)[side]) > np.pi
    assert turned(hands(f"{name} arm counter clockwise", seed)[side]) < -np.pi


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("gesture", GESTURES[1:7])
def test_a_gesture_of_one_side_moves_the_arm_of_that_side_alone(gesture, seed):
    found = hands(gesture, seed)
    own = RIGHT if gesture.startswith("right") else LEFT
    assert travelled(found[own]) > 4 * travelled(found[-own])


@pytest.mark.parametrize("gesture", ["hand clapping", "arm roll", "air drums", "air guitar"])
def test_a_gesture_of_both_sides_moves_both_arms(gesture):
    for seed in SEEDS:
        assert min(travelled(path) for path in hands(gesture, seed).values()) > 0.1


def test_the_right_hand_is_on_the_left_of_the_image():
    for seed in SEEDS:
        assert hands("right hand wave", seed)[RIGHT][:, 0].mean() < 0 < hands("left hand wave", seed)[LEFT][:, 0].mean()


def test_clapping_hands_meet_and_part():
    for seed in SEEDS:
        found = hands("hand clapping", seed)
        gap = found[LEFT][:, 0] - found[RIGHT][:, 0]
        assert gap.min() < 0.15 and gap.max() > gap.min() + 0.25


def test_drumming_hands_move_in_turn_and_rolling_arms_about_one_another():
    for seed in SEEDS:
        drums, roll = hands("air drums", seed), hands("arm roll", seed)
        for found in (drums, roll):
            assert np.corrcoef(found[RIGHT][:, 1], found[LEFT][:, 1])[0, 1] < -0.3


def test_a_mirrored_gesture_is_the_one_that_the_table_says():
    swap = {"right": "left", "left": "right", "clockwise": "counter clockwise"}
    for label, gesture in enumerate(GESTURES):
        words = gesture.replace("counter clockwise", "back").split()
        mirrored = " ".join(swap.get(word, "clockwise" if word == "back" else word) for word in words)
        assert GESTURES[MIRRORED[label]] == mirrored
    for seed in SEEDS:
        assert turned(hands("right arm clockwise", seed)[RIGHT] * [-1, 1]) < -np.pi


def test_arms_keep_their_length_and_the_figure_stays_mostly_in_the_image():
    for gesture in GESTURES:
        random = np.random.default_rng(3)
        person = Person.draw(random)
        elbow, wrist = perform(person, gesture, 1.0, random)[:, :2].swapaxes(0, 1)
        np.testing.assert_allclose(np.linalg.norm(elbow, axis=-1), person.upper, atol=0.03)
        np.testing.assert_allclose(np.linalg.norm(wrist - elbow, axis=-1), 1 - person.upper, atol=0.03)
        ends = figure(gesture, 3)[..., :4]
        assert np.isfinite(ends).all() and ((ends > -30) & (ends < 158)).mean() > 0.95


def test_a_scene_that_does_not_change_gives_noise_alone_and_a_moving_arm_gives_events_where_it_is():
    shapes, wall = figure("right arm clockwise", 1), np.full((128, 128), -1.0, np.float32)
    still = record(np.repeat(shapes[:1], len(shapes), axis=0), wall, LIGHTINGS["natural"], np.random.default_rng(0))
    moving = record(shapes, wall, LIGHTINGS["natural"], np.random.default_rng(0))
    assert len(moving) > 2 * len(still) > 0
    grid = np.histogram2d(moving.y, moving.x, bins=(8, 8), range=((0, 128), (0, 128)))[0]
    busiest = np.unravel_index(grid.argmax(), grid.shape)
    hand = shapes[:, 6:, :4].reshape(-1, 2)
    assert np.abs(hand - (np.array(busiest[::-1]) * 16 + 8)).max(axis=1).min() < 16


def test_a_brighter_arm_is_seen_brighter_in_front_and_darker_behind():
    """A bar that is brighter than the wall and moves right: its front turns pixels brighter, its back darker."""
    x = np.linspace(40, 80, 200)
    bar = np.stack([x, np.full(200, 20), x, np.full(200, 100), np.full(200, 5), np.full(200, 0.0), np.zeros(200)], -1)
    wall = np.full((128, 128), -1.5, np.float32)
    events = record(bar[:, None], wall, LIGHTINGS["natural"], np.random.default_rng(0))
    front = x[(events.t // 1000).clip(max=199)] - events.x
    inside = np.abs(front) < 12
    assert front[inside & events.p].mean() < -2 and front[inside & ~events.p].mean() > 2


def test_events_are_in_the_order_of_time_and_no_pixel_fires_within_its_dead_time():
    events, labels = trial(1, "led", GESTURES[:2], 0.6, seed=0)
    assert (np.diff(events.t) >= 0).all() and len(labels) == 2
    pixel = events.y.astype(int) * 128 + events.x
    order = np.lexsort((events.t, pixel))
    same = np.diff(pixel[order]) == 0
    assert np.diff(events.t[order])[same].min() >= 299


def test_a_trial_follows_from_its_seed():
    first, again, other = (trial(2, "lab", GESTURES[:1], 0.5, seed) for seed in (7, 7, 8))
    assert np.array_equal(first[0].t, again[0].t) and np.array_equal(first[0].x, again[0].x) and first[1] == again[1]
    assert not np.array_equal(first[0].t[:100], other[0].t[:100])


def test_a_data_set_lies_as_the_official_one_and_its_reader_reads_it(tmp_path):
    names = write_data_set(tmp_path, people=3, lightings=1, seconds=0.5, seed=1)
    assert len(names["train"]) == 2 and len(names["test"]) == 1
    for split, people in (("train", {"user01"}), ("val", {"user02"}), ("test", {"user03"})):
        recordings = dvs_gesture.read_recordings(tmp_path, split)
        assert {recording.person for recording in recordings} == people
        assert [recording.label for recording in recordings] == list(range(11))
    events = read_aedat(recordings[0].file)
    for recording in recordings:
        assert len(events.between(recording.start, recording.end)) > 100
    assert (tmp_path / "README.txt").read_text().startswith("SIMULATED")
    assert (tmp_path / "gesture_mapping.csv").read_text().splitlines()[1] == "hand_clapping,1"


def test_the_example_of_the_command_is_one_gesture_that_its_reader_reads(tmp_path):
    from typer.testing import CliRunner

    arguments = ["example", str(tmp_path / "roll.aedat"), "--gesture", "arm roll", "--seed", "3"]
    assert CliRunner().invoke(gesture_simulator.command_line(), arguments).exit_code == 0
    written, made = read_aedat(tmp_path / "roll.aedat"), gesture_simulator.example("arm roll", seed=3)
    assert np.array_equal(written.t, made.t) and np.array_equal(written.p, made.p)
    assert 1.5e6 < written.t[-1] - written.t[0] < 2.5e6
    with pytest.raises(ValueError, match="no gesture is called 'arm rol'; did you mean 'arm roll'"):
        gesture_simulator.example("arm rol")


def test_an_impossible_data_set_is_refused(tmp_path):
    for options in ({"people": 1}, {"lightings": 6}, {"seconds": 0.1}):
        with pytest.raises(ValueError, match="a data set needs 2 to 999 people, 1 to 5 lightings"):
            write_data_set(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_the_animation_shows_all_gestures_moving(tmp_path):
    gesture_simulator.animate(tmp_path / "gestures.gif", seconds=0.4)
    with Image.open(tmp_path / "gestures.gif") as image:
        assert image.size == (608, 426) and image.n_frames == 10
