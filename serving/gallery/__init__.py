"""Enrolled people: encrypted templates in Redis and the search index."""
