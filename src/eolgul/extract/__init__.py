"""Step 1: a raw source (RecordIO, `.bin`, `.lst`, identity folders, K-FACE, archives of these trees, carrays) → FaceDataset.

Every encoded image keeps its bytes. An image that is cut off, cannot be decoded or belongs to no identity becomes a row
of `rejected.parquet`, and what is no image or not asked for is counted: inputs = images + rejected + passed over.
"""
