"""Rows to and from other formats: HDF5, npy, Parquet and CSV."""
