"""Other people's formats, and nothing else: RecordIO, InsightFace's `.rec` layout and `.bin` sets, K-FACE, LFW."""
