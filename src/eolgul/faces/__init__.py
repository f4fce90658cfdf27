"""Find faces (MTCNN), choose one, and map it to the aligned 112x112 template."""
