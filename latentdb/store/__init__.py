"""A store on disk: immutable HDF5 segments under one manifest that is replaced atomically."""
