"""The HTTP service: compares faces with the promoted model. It imports neither torch nor any pipeline step."""

LOADING = "the model is being loaded"  # the reason of /readyz until the first attempt to load a model has ended
READING = "the gallery is being read"  # how the reason of /readyz begins while templates come into memory
REPEAT_S = 300.0  # seconds after which a reason that lasts is said again: the log of an outage has it near its end, too
