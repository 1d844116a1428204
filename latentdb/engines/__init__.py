"""Search engines of others, which serve the rows of a store: PostgreSQL and Milvus.

engine      what an engine must do
rows        the rows of a version as an engine gets them, each with a digest
push        make an engine hold what a version holds
serve       search in an engine, and measure its recall
conditions  metadata expressions, for the languages of engines
postgresql  PostgreSQL with pgvector
milvus      Milvus, as a server or as a file (milvus-lite)
connect     the engine that a URI names
"""
