"""Arrays only: distances, and FAISS indexes planned, built and tuned to a recall target."""
