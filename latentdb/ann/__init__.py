"""Arrays only: exact search, and FAISS indexes that are built and tuned to a recall target.

neighbours  the true neighbours of vectors in memory
kmeans      centres of clusters
exact       compare every vector; many queries in parts, one a thread
ranking     rank candidates by true distance
metrics     L2, cosine, centred cosine, Wasserstein and KL: the space in which rows are compared
plan        which types of index suit a number of rows, dimensions and bytes
index       VectorIndex: candidates from an inverted file or an HNSW graph
validation  refuse an index file whose fields contradict each other
builder     build an index, or add rows to one
measuring   where true neighbours lie, and how surely a recall is reached
composed    tune on queries unlike the rows: means, differences, samples
tuning      the least nprobe that reaches a recall, measured on held-out rows
"""
