"""Step 3: merge aligned sources and split them by identity → FaceDataset."""

from eolgul.assemble.step import assemble

__all__ = ["assemble"]
