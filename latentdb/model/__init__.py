"""A model: an encoder and a decoder, trained or imported, used and described.

config       model.json, and the options of a model file made elsewhere
fingerprint  which model it is
codec        images to latents and latents to images
vae          the Keras VAE, its loss and its training loop
training     from image files to a model folder
calibration  import a Keras file, and find its pixel range
arithmetic   averages, interpolations and blends of latents
"""
