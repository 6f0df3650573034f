"""One file per job: loading, predicting, converting, diagnosing."""
