"""Image files to rows of a store: find, compare, decode, encode and commit.

ingest       index_images: encode new and changed images; add_rows: append ready-made rows
execution    who encodes and commits the batches of a run: this process, or a cluster
adoption     commit segments that other processes have written
images       add_images: encode images that are in memory
report       what a run did
roots        which ids images have, whatever folder was typed
known_images renamed, copied and deleted images, by their contents
archives     images in archives and arrays, compared and decoded
planner      which files are new or changed, against the rows of a snapshot
table        metadata of images, and which row is that of which image
labels       labels of images by their folders
allowance    how many files of a run may be unreadable
read_ahead   threads that decode batches ahead of the encoder
"""
