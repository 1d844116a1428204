"""Model files of many kinds, honest and hostile, which latentdb converts exactly or refuses."""
