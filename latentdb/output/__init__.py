"""Latents decoded to image files.

figures      a few latents: one image, a row, an animation, the sheet of a query
sinks        any number of latents, in batches: a folder, a .npy file, contact sheets
query_sheet  the picture of a query and its matches
file_names   a file name for each id
originals    the image files of a store, which no output replaces
"""
