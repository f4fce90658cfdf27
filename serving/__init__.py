"""The service: two photos in, "same person?" out, through the promoted model. Imports steps of `eolgul`, never torch."""
