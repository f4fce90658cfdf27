"""The served model: loading, admission, inference and the embedding cache."""
