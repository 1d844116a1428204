"""Rows to and from other formats: HDF5, npy, Parquet and CSV; metadata tables.

exporting    choose a format, check the room, write one file whole or not at all
importing    choose a format, check ids and types, append all rows in one commit
row_writer   what the writers share: the rows of a snapshot in blocks
row_reader   what the readers share: a file's rows in batches, checked
hdf5         the .h5 format: reader and writer
npy          the .npy format: reader and writer
arrow        rows as Arrow record batches
parquet      the .parquet format: reader and writer
csv          the .csv format: reader and writer
tables       metadata tables for images: CSV in its dialects, JSON, Parquet, tables in memory
"""
