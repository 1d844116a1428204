"""The parts of scripts/bench_search: data sets, systems, the phases of a measurement, tables."""
