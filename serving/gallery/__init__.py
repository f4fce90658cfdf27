"""The gallery of enrolled people: encrypted templates in Redis, and the search index."""
