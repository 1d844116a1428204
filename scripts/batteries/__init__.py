"""The parts of scripts/battery: one module a class of faults, on one shim and one world."""
