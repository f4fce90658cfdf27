"""Step 4: backbones, the ArcFace head, data, the loop, checkpoints → ModelPackage. The only room (with align) that needs torch."""
