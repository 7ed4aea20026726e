"""A learner after its run: to predict, to teach, to export and to analyse."""
