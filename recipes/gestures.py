"""The eleven gestures of the DVS128 data set, shared by the recipe and the simulator of recordings."""

GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter clockwise",
    "left arm clockwise",
    "left arm counter clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
"""In IBM's order; its label 1 is the first."""
MIRRORED = (0, 2, 1, 6, 5, 4, 3, 7, 8, 9, 10)
"""The mirror image of each gesture: left and right are exchanged, and so are clockwise and counter-clockwise."""
