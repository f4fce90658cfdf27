"""Step 2: find the face (MTCNN), turn it upright (five-point similarity), cut it out (112x112) → FaceDataset."""
