"""One version of a store, searched: targets, filters, row selection, the index, results."""
