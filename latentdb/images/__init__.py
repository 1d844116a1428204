"""Image files to pixels and back: find, decode, resize; pixel ranges; pictures with captions."""
