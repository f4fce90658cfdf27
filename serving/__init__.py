"""The service: two photos in, "same person?" out, through the promoted model. Imports steps of `eolgul`, never torch."""

LOADING = "the model is being loaded"  # what /readyz says until the first try to load a model has ended
