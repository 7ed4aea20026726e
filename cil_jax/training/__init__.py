"""How a run is trained: compiled programs, streaming, evaluation, the loop over tasks."""
