"""Networks of spiking neurons computed in integers: their modules write a program, and compiled kernels run it."""
