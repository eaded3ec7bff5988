"""trainers: batches -> mel on each rank's device -> DDP -> metrics, checkpoints, a report. Ray lives here only."""
