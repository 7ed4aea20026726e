"""Uses of a trained learner: to predict, to learn more classes, to export and to analyse."""
