"""A store on disk: immutable HDF5 segments under one manifest that is replaced atomically.

manifest    the JSON file that names every file of a version, with its checksum
lock        the lock of the one writer
columns     typed metadata
dates       dates and times as whole numbers
cells       values of text cells, by the narrowest type that a column fits
texts       ids, paths and categories as one UTF-8 blob and offsets
rows        rows in memory, on their way into a segment
blocks      arrays of a segment file, each block of 64 KiB verified before it is used
segment     rows as one HDF5 file; opened, they are mapped
id_filter   which ids are surely not in the store
snapshot    one committed version, open for reading
creation    making the folder of a store
writer      the one writer: append, delete, replace; each method is one commit
edits       other values, types and names of metadata columns
store       open, create, current snapshot, write
restamp     new paths and times of image files, under the same row numbers
compaction  merging small segments and dropping deleted rows
plan        which segment each task of a run on many machines writes
garbage     deleting files that no version names
quarantine  keeping what a repair takes out of a version
backup      a copy of a store, while a writer works
"""
