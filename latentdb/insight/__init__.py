"""What is in a latent space: arrays in, frozen results out.

posterior   statistics of the posteriors, and what each dimension does to the picture
grouping    near duplicates as groups in which everyone is near to everyone
agreement   how well neighbours agree in their labels
layout      vectors as points of a plane that keep their neighbours
"""
