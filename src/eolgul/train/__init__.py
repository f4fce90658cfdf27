"""Step 4: backbones, the ArcFace head, data, the loop and checkpoints → ModelPackage.

Apart from the export of the detector, only this package needs torch.
"""
