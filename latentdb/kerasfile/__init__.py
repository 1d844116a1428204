"""A Keras model file read as data, and converted without running its code.

container   bytes to configuration and weights
graph       the configuration as a graph of layers
locate      z_mean, z_log_var and the decoder in the graph
layers      the layers and operations that are built
builder     keras models of allow-listed layers, with the file's weights
operations  slices, means and arithmetic between layers
cost        memory and time of a network, before it is run
convert     a file to `ConvertedModel`: an encoder and a decoder that hold no code
canonical   what the layers compute, as data that can be hashed
runtime     keras, imported late; loading and saving
sampling    the sampling layer of latentdb's own VAEs
"""
