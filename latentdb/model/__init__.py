"""A model: an encoder and a decoder, trained or imported, used and described.

config       model.json, and the options of a model file made elsewhere
condition    what a conditional model is conditioned on
fingerprint  which model it is
codec        images to latents and latents to images
vae          the Keras VAE, its loss, and the plain training loop of the mlp
pca          the closed form that training starts from
network      the convolutional VAE
fitting      layers and scales that follow from the data, without gradients
views        random views of images
stages       the training of the convolutional VAE
presets      what a training aims at
earlier_model  a trained model to go on from
training     from image files to a model folder
foreign      files made elsewhere, in the form that a store keeps
outcome      what training leaves: the folder, and a report
calibration  import a Keras file, and find its pixel range
range_fit    how well a pixel range fits a model
posterior    statistics of posteriors, and what each dimension does to the picture
generation   samples, and walks along dimensions
label_free   which metric finds neighbours that mean the same, without labels
verdict      what a trained model is worth, against baselines
picture_page what a model reconstructs, samples and does to its dimensions, on one page
arithmetic   averages, interpolations and blends of latents
"""
