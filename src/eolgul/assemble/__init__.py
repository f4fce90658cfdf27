"""Step 3: merge aligned sources and split them by identity → FaceDataset."""
