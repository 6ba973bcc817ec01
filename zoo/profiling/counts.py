"""The counts, and an estimate of their energy."""

from collections import Counter
from dataclasses import dataclass, field, fields

ENERGY_SOURCE = "45 nm, 0.9 V: Horowitz, Computing's energy problem, ISSCC 2014, 10.1109/ISSCC.2014.6757323"
ENERGY = {
    "float32": (3.7, 0.9),
    "float16": (1.1, 0.4),
    "int32": (3.1, 0.1),
    "int8": (0.2, 0.03),
}
"""Picojoules per multiplication and per addition, by type of arithmetic (Horowitz 2014)."""
SPIKES_IN_INT8 = "int8 spikes"
"""Products of spikes in int8, summed up in int32, and all else in float32 (:meth:`Counts.energy`)."""


@dataclass
class Counts:
    """Arithmetic of a layer or a network; every number is exact.

    A matrix product is counted as multiply-accumulates: K multiplications and K additions per output that sums K
    products. A bias is one more addition.
    """

    dense_macs: int = 0
    """Multiply-accumulates of the dense equivalent: of the same products if no operand were a spike."""
    multiplications: int = 0
    """Multiplications of two real numbers. A division counts as one."""
    multiplications_by_zero: int = 0
    """How many of ``multiplications`` had a zero activation: the saving if a network without spikes skipped zeros."""
    integer_multiplications: int = 0
    """Multiplications of a real number by the level of a multi-bit spike, an integer of 3 to 8 bits. A spike of 1 or 2
    bits is 0, 1 or -1 and needs none."""
    shift_additions: int = 0
    """Further additions if the integer multiplications are done by shift and add: b - 2 for a spike of b bits. (Its
    magnitude has b - 1 bits and takes one addition per bit; one of these, the accumulation, is already in
    ``additions``.)"""
    additions: int = 0
    """Additions and subtractions."""
    integer_additions: int = 0
    """How many of ``additions`` sum up products of spikes: integers, if weights are integers too."""
    functions: Counter = field(default_factory=Counter)
    """Number of evaluations of functions that are not counted as arithmetic, by name."""

    def __iadd__(self, other: "Counts") -> "Counts":
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))
        return self

    def as_dict(self) -> dict:
        """The counts as a dict for JSON."""
        return vars(self) | {"functions": dict(self.functions)}

    @property
    def all_multiplications(self) -> int:
        """All multiplications: of two real numbers, and of a real number by a level."""
        return self.multiplications + self.integer_multiplications

    def energy(self, arithmetic: str = "float32") -> float:
        """Estimated energy of the arithmetic alone, in picojoules, without memory, control and ``functions``.

        ``arithmetic`` is a key of :data:`ENERGY`: the assumed type of all numbers, the same for every network. With
        integers, multiplying by a level is done by shift and add; with floating point it takes a full multiplication.
        :data:`SPIKES_IN_INT8` is the arithmetic that runs with ``precision="int8"``: products of spikes multiply int8
        and sum up in int32, everything else is float32.
        """
        if arithmetic == SPIKES_IN_INT8:
            (real, add), (level, _), (_, whole) = ENERGY["float32"], ENERGY["int8"], ENERGY["int32"]
            products = self.integer_multiplications * level + self.integer_additions * whole
            return products + self.multiplications * real + (self.additions - self.integer_additions) * add
        if arithmetic not in ENERGY:
            known = ", ".join([*ENERGY, SPIKES_IN_INT8])
            raise ValueError(f"arithmetic must be one of {known}; got {arithmetic!r}")
        multiplication, addition = ENERGY[arithmetic]
        if arithmetic.startswith("int"):
            return self.multiplications * multiplication + (self.additions + self.shift_additions) * addition
        return self.all_multiplications * multiplication + self.additions * addition
