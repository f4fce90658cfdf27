"""Formats of other projects: RecordIO, InsightFace's `.rec` layout, `.bin` sets and `.lst`, bcolz carrays, K-FACE, LFW."""
