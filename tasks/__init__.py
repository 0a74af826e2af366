"""What runs inside a trial: training, interventions and analyses. Knows nothing of Ray or Parquet."""
