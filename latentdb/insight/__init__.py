"""What is in a latent space: arrays in, frozen results out.

layout   vectors as points of a plane that keep their neighbours
"""
