"""The ModelPackage artifact: reading it, running it and exporting to ONNX."""
