"""What is in a latent space: rows in, frozen results and pictures out.

blocks       posteriors of rows, read once in blocks
diagnosis    which dimensions carry something, and whether the space collapsed
clusters     k-means: centres, medoids, purity
layout       vectors as points of a plane that keep their neighbours
map          the rows of a store as such points, which do not move
map_cache    the file in which a store keeps them
originals    the image files behind rows
evaluation   recall, agreement of labels, reconstructions
fidelity     structural similarity
agreement    how well neighbours agree in their labels
duplicates   images that a store has more than once
copies       how far apart copies of an image are
outliers     rows that are unlike the others
grouping     near duplicates as groups in which everyone is near to everyone
pictures     cells and captions of contact sheets
atlas        the picture of a map
charts       the bars of an evaluation
"""
