"""Learning: data sources, the phases of one task, sequences of tasks, evaluation."""
