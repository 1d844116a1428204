"""Search in one version of a store: targets, filters, the index and its unindexed rows, results.

targets         what a command names (id, image file, vector) as a latent
filters         an expression over metadata as a mask
ordering        rows by a column
selection       the rows that a filter selects, and sums over them
results         hits (arrays), matches, and the other results
summary         matches and the state of a store in words
embedded_rows   the rows of a snapshot in the space of a metric: fetched, scanned, ranked
searcher        nearest rows: by scan, or by the index and a scan of the unindexed rows
filtered        nearest rows among those that a filter selects
manager         when the index is built or extended, and the searchers that use it
"""
