"""Networks of spiking neurons computed in integers: what their modules write down, run by compiled kernels."""
