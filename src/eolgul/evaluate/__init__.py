"""Step 5: how well a model tells people apart, at which threshold, with what certainty, and a report of it.

The terms are those of ISO/IEC 19795-1: FMR (false match rate) is the share of comparisons of two different people that
pass, FNMR (false non-match rate) the share of comparisons of one person with themselves that fail. The figures are the
models of `eolgul.evaluation.schema`.
"""
