"""Model files of many makes, honest and hostile, and what latentdb makes of each."""
