"""Step 1: a raw source (RecordIO, `.bin`, `.lst`, identity folders, K-FACE, carrays) → FaceDataset.

Every encoded image keeps its bytes. An image that is cut off, cannot be decoded or belongs to no identity becomes a row
of `rejected.parquet`: inputs = images + rejected.
"""
