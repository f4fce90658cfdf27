"""Step 6: compare a candidate with the models that came before it, and publish it when it is good enough."""
