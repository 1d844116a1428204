"""A Keras file read as data: z_mean found in its graph, and built anew of listed layers."""
