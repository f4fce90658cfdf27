"""Step 1: a raw source (RecordIO, `.bin`, `.lst`, identity folders, K-FACE, carrays) → FaceDataset.

Every encoded image keeps its bytes; what is cut off, cannot be decoded or belongs to nobody becomes a row of
`rejected.parquet`: inputs = images + rejected.
"""

from eolgul.extract.sources import KINDS, Options, detect_kind
from eolgul.extract.step import extract

__all__ = ["KINDS", "Options", "detect_kind", "extract"]
