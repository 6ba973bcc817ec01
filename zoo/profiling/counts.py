"""What is counted, and what it would cost in energy."""

from collections import Counter
from dataclasses import dataclass, field, fields

ENERGY_SOURCE = "45 nm, 0.9 V: Horowitz, Computing's energy problem, ISSCC 2014, 10.1109/ISSCC.2014.6757323"
ENERGY = {
    "float32": (3.7, 0.9),
    "float16": (1.1, 0.4),
    "int32": (3.1, 0.1),
    "int8": (0.2, 0.03),
}
"""Picojoules of one multiplication and of one addition, by the arithmetic they are done in (Horowitz 2014)."""


@dataclass
class Counts:
    """Arithmetic of a layer or a network; every number is exact.

    A product of matrices is counted as multiply-accumulates: K multiplications and K additions for an output that
    sums K products. A bias is one addition more.
    """

    dense_macs: int = 0
    """Multiply-accumulates of the dense equivalent: what the products would take if no operand were a spike."""
    multiplications: int = 0
    """Of two real numbers. A division counts as one."""
    multiplications_by_zero: int = 0
    """How many of ``multiplications`` had an activation that is zero: what skipping zeros would save a network
    without spikes."""
    integer_multiplications: int = 0
    """Of a real number by the level of a multi-bit spike, an integer of 3 to 8 bits. A spike of 1 or 2 bits is 0, 1
    or -1 and needs none."""
    shift_additions: int = 0
    """Further additions if the integer multiplications are done by shift and add: b - 2 for a spike of b bits, one a
    bit of its magnitude, the accumulation itself being in ``additions``."""
    additions: int = 0
    """And subtractions."""
    functions: Counter = field(default_factory=Counter)
    """Evaluations of functions that are not counted as arithmetic, by name."""

    def __iadd__(self, other: "Counts") -> "Counts":
        for part in fields(self):
            setattr(self, part.name, getattr(self, part.name) + getattr(other, part.name))
        return self

    def as_dict(self) -> dict:
        """As JSON holds it."""
        return vars(self) | {"functions": dict(self.functions)}

    @property
    def all_multiplications(self) -> int:
        """Of two real numbers and of a real number by a level."""
        return self.multiplications + self.integer_multiplications

    def energy(self, arithmetic: str = "float32") -> float:
        """Estimated energy of the arithmetic alone, in picojoules: no memory, no control, none of ``functions``.

        ``arithmetic`` is a key of :data:`ENERGY` and says what all numbers are taken to be, the same for every network.
        With integers a level is multiplied by shift and add; with floating point it takes a full multiplication.
        """
        if arithmetic not in ENERGY:
            raise ValueError(f"arithmetic must be one of {', '.join(ENERGY)}; got {arithmetic!r}")
        multiplication, addition = ENERGY[arithmetic]
        if arithmetic.startswith("int"):
            return self.multiplications * multiplication + (self.additions + self.shift_additions) * addition
        return self.all_multiplications * multiplication + self.additions * addition
