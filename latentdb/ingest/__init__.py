"""Image files to rows: found, read ahead, encoded and committed beside each other."""
