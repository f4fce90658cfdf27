"""Encoded images: read their headers and decode them."""
