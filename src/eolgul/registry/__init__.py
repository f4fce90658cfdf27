"""The model registry in a folder or a bucket: immutable models, one production pointer, signatures."""
