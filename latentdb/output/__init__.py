"""Latents decoded to image files.

figures      a few latents: one image, a row, an animation
sinks        any number of latents, in batches: a folder, a .npy file, contact sheets
sheets       queries with their matches, blends with their parents, paths with their ends
tiles        the layout of those sheets
file_names   a file name for each id
originals    the image files of a store, which no output replaces
"""
